"""A cluster that is fed through its own registry: push, run, and what the command line says of images that are used or pinned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, free_port
from conftest import load_hello


@pytest.fixture
def fed(hello_binaries: Path) -> Iterator[tuple[Cluster, str]]:
    """A cluster with an embedded registry, and the registry's name."""
    boat = Cluster(rootless=True)
    port = str(free_port())
    try:
        boat.start("--embedded-registry", "--registry-port", port)
        load_hello(boat)
        yield boat, f"localhost:{port}"
    finally:
        boat.stop()
        boat.remove()


def pod(name: str, image: str) -> dict[str, object]:
    container = {"name": "main", "image": image, "imagePullPolicy": "Always"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [container]},
    }


def test_push_run_prune(fed: tuple[Cluster, str]) -> None:
    boat, registry = fed
    name = f"{registry}/team/hello:1"
    assert boat.sampan("image", "push", "hello:wasm", name).startswith("sha256:")
    boat.apply(pod("fed", name))
    boat.kubectl("wait", "--for=condition=Ready", "pod/fed", "--timeout=30s")
    images = json.loads(boat.sampan("image", "inspect", name))
    assert images[0]["pinned"] and images[0]["os"].startswith("wasi")

    refused = boat.run(
        boat.python, "-m", "sampan", "image", "rm", "--data-dir", str(boat.data), images[0]["id"],
        check=False,
    )  # fmt: skip
    assert refused.returncode == 1 and "a pod uses" in refused.stderr
    boat.sampan("image", "prune", "--all")
    assert json.loads(boat.sampan("image", "inspect", name))[0]["id"] == images[0]["id"]

    anonymous = boat.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{registry}/v2/"
    )
    assert anonymous.stdout == "401"
    if shutil.which("skopeo"):
        login = f"--authfile={boat.data}/registry/auth.json"
        copy = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", login, login]
        boat.run(
            "skopeo", "--insecure-policy", *copy[:4], "--all",
            f"docker://{name}", f"docker://{registry}/copy:2",
        )  # fmt: skip
        boat.apply(pod("copied", f"{registry}/copy:2"))
        boat.kubectl("wait", "--for=condition=Ready", "pod/copied", "--timeout=30s")

    boat.sampan("down")
    boat.start()  # the setting stays
    boat.apply(pod("again", name.replace("localhost", "127.0.0.1")))
    boat.kubectl("wait", "--for=condition=Ready", "pod/again", "--timeout=30s")


def test_a_private_registry_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    boat = Cluster(rootless=True)
    file = tmp_path / "registries.yaml"
    file.write_text("mirrors: {docker.io: {endpoint: [docker.io]}}\n")
    try:
        done = boat.run(
            boat.python, "-m", "sampan", "up", "--rootless", "--data-dir", str(boat.data),
            "--private-registry", str(file), check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"--private-registry {file}: mirrors[docker.io].endpoint: 'docker.io'" in done.stderr
    finally:
        boat.remove()
