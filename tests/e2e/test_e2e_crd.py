"""Custom resources as their users meet them: kubectl, a Helm chart with crds/, the Python client's dynamic client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import KUBECTL, wait_for
from kubernetes import config, dynamic
from space import Space

HELM = KUBECTL.with_name("helm")
GROUP = "certs.example.com"
NAME = f"certificates.{GROUP}"

# In the shape of cert-manager's: defaults, enums, conditions, a rule, columns.
DEFINITION = yaml.safe_load(f"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: {NAME}}}
spec:
  group: {GROUP}
  scope: Namespaced
  names: {{kind: Certificate, plural: certificates, shortNames: [ecert], categories: [certs]}}
  versions:
    - name: v1
      served: true
      storage: true
      subresources:
        status: {{}}
        scale: {{specReplicasPath: .spec.copies, statusReplicasPath: .status.copies}}
      additionalPrinterColumns:
        - {{name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}}
        - {{name: Secret, type: string, jsonPath: .spec.secretName}}
        - {{name: Issuer, type: string, jsonPath: .spec.issuerRef.name, priority: 1}}
        - {{name: Age, type: date, jsonPath: .metadata.creationTimestamp}}
      schema:
        openAPIV3Schema:
          description: A Certificate is to be signed and kept in a Secret.
          type: object
          required: [spec]
          properties:
            apiVersion: {{type: string}}
            kind: {{type: string}}
            metadata: {{type: object}}
            spec:
              type: object
              required: [secretName, issuerRef]
              properties:
                secretName: {{type: string, description: Where the key pair is kept., minLength: 1}}
                copies: {{type: integer, minimum: 0, default: 1}}
                dnsNames: {{type: array, items: {{type: string}}, x-kubernetes-list-type: set}}
                renewBefore: {{x-kubernetes-int-or-string: true}}
                issuerRef:
                  type: object
                  required: [name]
                  properties:
                    name: {{type: string}}
                    kind: {{type: string, default: Issuer, enum: [Issuer, ClusterIssuer]}}
                privateKey:
                  type: object
                  default: {{}}
                  properties:
                    algorithm: {{type: string, enum: [RSA, ECDSA], default: RSA}}
                    size: {{type: integer}}
                  x-kubernetes-validations:
                    - rule: "self.algorithm != 'RSA' || !has(self.size) || self.size >= 2048"
                      message: RSA keys have 2048 bits at least
            status:
              type: object
              properties:
                copies: {{type: integer}}
                conditions:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [type]
                  items:
                    type: object
                    required: [type, status]
                    properties:
                      type: {{type: string}}
                      status: {{type: string, enum: ["True", "False", Unknown]}}
                      lastTransitionTime: {{type: string, format: date-time}}
""")


def certificate(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Certificate",
        "metadata": {"name": name},
        "spec": {"secretName": f"{name}-tls", "issuerRef": {"name": "ours"}, **spec},
    }


@pytest.fixture
def defined(space: Space) -> Iterator[Space]:
    space.apply(DEFINITION)
    space.kubectl("wait", "--for=condition=Established", f"crd/{NAME}", "--timeout=10s")
    yield space
    space.kubectl("delete", "crd", NAME, "--ignore-not-found", "--timeout=20s")


def test_kubectl_from_the_definition_to_its_end(defined: Space) -> None:
    defined.apply(certificate("web", dnsNames=["a.example.com"], renewBefore="25%"))
    columns, row = (line.split() for line in defined.kubectl("get", "ecert").splitlines())
    assert columns == ["NAME", "READY", "SECRET", "AGE"] and row[:2] == ["web", "web-tls"]
    assert "web-tls" in defined.kubectl("get", "certs"), "by category"
    assert "ours" in defined.kubectl("get", "certificates", "-o", "wide")
    told = defined.kubectl("explain", "certificates.spec.issuerRef.kind")
    assert (
        "GROUP:      certs.example.com" in told and "ENUM:\n    Issuer\n    ClusterIssuer" in told
    )
    assert "Where the key pair is kept." in defined.kubectl("explain", f"{NAME}.spec.secretName")
    # Unknown fields are refused as kubectl asks for; other mistakes are worded by the server.
    wrong = certificate("bad", dnsNames=["a", "a"], privateKey={"size": 512}, colour="blue")
    assert 'unknown field "spec.colour"' in defined.kubectl_fails("apply", "-f", "-", stdin=json.dumps(wrong))  # fmt: skip
    said = defined.kubectl_fails("apply", "--validate=false", "-f", "-", stdin=json.dumps(wrong))
    assert 'spec.dnsNames[1]: Duplicate value: "a"' in said
    assert "spec.privateKey: Invalid value: RSA keys have 2048 bits at least" in said
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    defined.kubectl(
        "patch", "ecert/web", "--subresource=status", "--type=merge", "-p", json.dumps(ready)
    )
    defined.kubectl("wait", "--for=condition=Ready", "ecert/web", "--timeout=10s")
    defined.kubectl("scale", "ecert/web", "--replicas=3")
    found = defined.get("ecert", "web")
    assert found["spec"]["copies"] == 3 and found["spec"]["privateKey"] == {"algorithm": "RSA"}
    web = json.dumps(certificate("web", dnsNames=["b.example.com"]))
    defined.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=web)
    assert defined.get("ecert", "web")["spec"]["dnsNames"] == ["b.example.com"]
    defined.kubectl("label", "ecert/web", "tier=front")
    assert "web" in defined.kubectl("get", "ecert", "-l", "tier=front")
    defined.kubectl("delete", "crd", NAME, "--timeout=20s")
    assert "could not find the requested resource" in defined.kubectl_fails("get", "--raw", f"/apis/{GROUP}/v1/certificates")  # fmt: skip


def test_a_chart_with_its_own_definitions(defined: Space, tmp_path: Path) -> None:
    """Helm applies crds/ first, and its templates' objects right after."""
    defined.kubectl("delete", "crd", NAME, "--timeout=20s")
    chart = tmp_path / "certs"
    (chart / "crds").mkdir(parents=True)
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: certs\nversion: 1.0.0\n")
    (chart / "values.yaml").write_text("secret: one\n")
    (chart / "crds" / "certificates.yaml").write_text(yaml.safe_dump(DEFINITION))
    template = certificate("{{ .Release.Name }}") | {}
    template["spec"]["secretName"] = "{{ .Values.secret }}"
    (chart / "templates" / "certificate.yaml").write_text(yaml.safe_dump(template))

    def helm(*arguments: str) -> str:
        return defined.cluster.run(str(HELM), "-n", defined.name, *arguments, "--wait").stdout

    def secret() -> str:
        return str(defined.get("ecert", "mine")["spec"]["secretName"])

    assert "STATUS: deployed" in helm("install", "mine", str(chart))
    assert secret() == "one"
    helm("upgrade", "mine", str(chart), "--set", "secret=two")
    assert secret() == "two"
    helm("rollback", "mine", "1")
    assert secret() == "one"
    helm("uninstall", "mine")
    assert defined.get("ecert")["items"] == [], "the objects go, the definition stays"
    assert defined.get("crd", NAME)["metadata"]["name"] == NAME


def test_the_dynamic_client(defined: Space) -> None:
    def use() -> None:
        api = config.new_client_from_config(str(defined.cluster.data / "kubeconfig.yaml"))
        with api:
            client = dynamic.DynamicClient(api)
            found = client.resources.get(api_version=f"{GROUP}/v1", kind="Certificate")
            here = {"namespace": defined.name, "name": "dyn"}
            made = found.create(body=certificate("dyn"), namespace=defined.name)
            assert made.spec.copies == 1
            merge = "application/merge-patch+json"
            found.patch(body={"spec": {"copies": 2}}, content_type=merge, **here)
            ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
            found.status.patch(body=ready, content_type=merge, **here)
            applied = certificate("dyn", dnsNames=["x"])
            result = found.server_side_apply(
                body=applied, field_manager="test", force_conflicts=True, **here
            )
            assert result.spec.dnsNames == ["x"] and result.spec.copies == 2
            events = found.watch(namespace=defined.name, timeout=5)
            assert next(events)["type"] == "ADDED"
            found.delete(**here)

    defined.cluster.inside(use)


def test_garbage_and_namespaces_know_new_kinds(defined: Space) -> None:
    """What is owned goes with its owner, and what is in a namespace with it, though no controller knew the kind."""
    owner = json.loads(defined.kubectl("create", "configmap", "owner", "-o", "json"))
    owned = certificate("owned")
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    ]
    defined.apply(owned)
    defined.kubectl("delete", "configmap", "owner")
    defined.kubectl("wait", "--for=delete", "ecert/owned", "--timeout=20s")
    other = f"{defined.name}-other"
    defined.cluster.kubectl("create", "namespace", other)
    defined.cluster.kubectl("-n", other, "apply", "-f", "-", stdin=json.dumps(certificate("left")))
    defined.cluster.kubectl("delete", "namespace", other, "--timeout=30s")
    assert defined.cluster.read(f"/apis/{GROUP}/v1/certificates")["items"] == []


def test_a_quota_counts_custom_objects(defined: Space) -> None:
    count = f"count/{NAME}"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {count: "1"}},
    }
    defined.apply(quota)
    try:
        wait_for(
            lambda: defined.read("resourcequotas/few")["status"].get("used", {}).get(count) == "0",
            20,
            "counted",
        )
        defined.apply(certificate("one"))
        said = defined.kubectl_fails("apply", "-f", "-", stdin=json.dumps(certificate("two")))
        assert (
            f"exceeded quota: few, requested: {count}=1, used: {count}=1, limited: {count}=1"
            in said
        )
    finally:
        defined.kubectl("delete", "resourcequota", "few")


def test_discovery_and_openapi_follow_at_once(space: Space) -> None:
    """The first requests after the answer that says Established show the kind in every document."""
    body = json.dumps(DEFINITION).encode()
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    status, answer = space.cluster.request("POST", definitions, body)
    assert status == 201, answer
    try:

        def established() -> bool:
            conditions = space.cluster.read(f"{definitions}/{NAME}")["status"]["conditions"]
            return any((c["type"], c["status"]) == ("Established", "True") for c in conditions)

        wait_for(established, 5, "the definition is established")
        assert GROUP in {each["name"] for each in space.cluster.read("/apis")["groups"]}
        assert f"apis/{GROUP}/v1" in space.cluster.read("/openapi/v3")["paths"]
        assert (
            "com.example.certs.v1.Certificate" in space.cluster.read("/openapi/v2")["definitions"]
        )
    finally:
        space.kubectl("delete", "crd", NAME, "--timeout=20s")
