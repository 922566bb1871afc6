"""A kopf operator on a custom resource, with its own admission webhooks: @kopf.on.mutate and @kopf.on.validate."""

from __future__ import annotations

import datetime
import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import free_port, wait_for
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from space import Space

OPERATOR = Path(__file__).with_name("operator_of_boats.py")
NAME = "boats.fleet.example.com"
CREW = {"type": "integer", "minimum": 0, "default": 1}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": NAME},
    "spec": {
        "group": "fleet.example.com",
        "scope": "Namespaced",
        "names": {"kind": "Boat", "plural": "boats"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"crew": CREW, "colour": {"type": "string"}},
                            },
                            "status": {
                                "type": "object",
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                        },
                    }
                },
            }
        ],
    },
}


def certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "boats")])
    now = datetime.datetime.now(datetime.UTC)
    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([here]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "tls.crt").write_bytes(made.public_bytes(pem))
    (directory / "tls.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    return directory / "tls.crt", directory / "tls.key"


@pytest.fixture(scope="module")
def operator(space: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator's output; its webhooks are registered."""
    directory = tmp_path_factory.mktemp("boats")
    crt, key = certificate(directory)
    space.apply(DEFINITION)
    space.kubectl("wait", "--for=condition=Established", f"crd/{NAME}", "--timeout=10s")
    output = directory / "output"
    settings = {
        "WEBHOOK_PORT": str(free_port()),
        "WEBHOOK_CERTIFICATE": str(crt),
        "WEBHOOK_KEY": str(key),
    }
    with output.open("w") as file:
        process = subprocess.Popen(
            [*space.cluster.prefix, sys.executable, "-m", "kopf", "run", "--standalone", "-n", space.name, str(OPERATOR)],
            env=space.cluster.environment | settings, stdout=file, stderr=subprocess.STDOUT, cwd=directory,
        )  # fmt: skip
    try:

        def registered() -> bool:
            assert process.poll() is None, output.read_text()
            kinds = ("mutating", "validating")
            found = [space.get(f"{kind}webhookconfigurations")["items"] for kind in kinds]
            return all(any(each.get("webhooks") for each in items) for items in found)

        wait_for(registered, what="kopf registers its webhooks")
        yield output
    finally:
        process.terminate()
        process.wait(30)
        for kind in ("mutating", "validating"):
            space.kubectl("delete", f"{kind}webhookconfiguration", "boats.kopf.dev", "--ignore-not-found")  # fmt: skip
        space.kubectl("delete", "crd", NAME, "--timeout=20s")
        assert "Traceback" not in output.read_text(), output.read_text()[-5000:]


def says(output: Path, line: str) -> None:
    wait_for(lambda: line in output.read_text(), what=f"the operator says {line!r}")


def boat(name: str, **spec: Any) -> str:
    made = {
        "apiVersion": "fleet.example.com/v1",
        "kind": "Boat",
        "metadata": {"name": name},
        "spec": spec,
    }
    return json.dumps(made)


def test_a_boat_from_its_launch_to_its_end(space: Space, operator: Path) -> None:
    space.kubectl("apply", "-f", "-", stdin=boat("gull", crew=3))
    says(operator, "launched gull white")
    space.kubectl("wait", "--for=jsonpath={.status.phase}=Afloat", "boat/gull", "--timeout=10s")
    found = space.get("boat", "gull")
    assert found["spec"] == {"crew": 3, "colour": "white"}, "mutated before it was stored"
    assert found["metadata"]["finalizers"] == ["kopf.zalando.org/KopfFinalizerMarker"]
    space.kubectl("patch", "boat", "gull", "--type=merge", "-p", '{"spec":{"crew":5}}')
    says(operator, "mustered gull 3 5")
    space.kubectl("wait", "--for=jsonpath={.status.mustered}=5", "boat/gull", "--timeout=10s")
    space.kubectl("delete", "boat", "gull", "--timeout=20s")
    says(operator, "scrapped gull")
    assert "NotFound" in space.kubectl_fails("get", "boat", "gull")


def test_its_webhooks_refuse_and_warn(space: Space, operator: Path) -> None:
    said = space.kubectl_fails("apply", "-f", "-", stdin=boat("tub", crew=13))
    assert 'admission webhook "inspect.boats.kopf.dev" denied the request: she would sink' in said
    assert "NotFound" in space.kubectl_fails("get", "boat", "tub")
    done = space.cluster.run("kubectl", "-n", space.name, "apply", "-f", "-", stdin=boat("tub", crew=9, colour="red"))  # fmt: skip
    assert "Warning: she lies deep" in done.stderr
    says(operator, "launched tub red")
    # A write that is only tried does not reach the store, and is judged all the same.
    said = space.kubectl_fails("patch", "boat", "tub", "--dry-run=server", "--type=merge", "-p", '{"spec":{"crew":20}}')  # fmt: skip
    assert "she would sink" in said
    space.kubectl("delete", "boat", "tub", "--timeout=20s")


def test_the_schema_holds_after_the_webhooks(space: Space, operator: Path) -> None:
    said = space.kubectl_fails("apply", "-f", "-", stdin=boat("raft", crew=-1))
    assert "spec.crew in body should be greater than or equal to 0" in said
