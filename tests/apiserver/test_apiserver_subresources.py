"""Subresources that share the parent's kind, and what a pod gets by default."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jwt
from apiserver_harness import PODS, Harness, api, open_server, pod, service_account
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sampan.client.transport import User

__all__ = ["api"]

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def signing_request() -> str:
    """A PEM request, in base64."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")])
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()


def resources(cpu: str) -> dict[str, Any]:
    return {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}


async def test_resize_changes_resources_and_nothing_else(api: Harness) -> None:
    body = pod("p")
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    await service_account(api)
    before = await api.call("POST", PODS, body)
    change = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {
            "containers": [{"name": "c", "image": "other", **resources("200m")["containers"][0]}]
        },
    }
    after = await api.patch("strategic", f"{PODS}/p/resize", change)
    assert after["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "200m"}
    assert after["spec"]["containers"][0]["image"] == "busybox"
    assert "labels" not in after["metadata"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    # Not through the pod itself, and never in a way that changes its class of service.
    refused = await api.patch("strategic", f"{PODS}/p", {"spec": resources("300m")}, 422)
    assert refused["reason"] == "Invalid"
    gone = [{"op": "remove", "path": "/spec/containers/0/resources/requests"}]
    refused = await api.patch("json", f"{PODS}/p/resize", gone, 422)
    assert "QOS" in refused["message"].upper(), refused["message"]
    assert (await api.call("GET", f"{PODS}/p/resize"))["kind"] == "Pod"


async def test_ephemeral_containers_are_added_and_stay(api: Harness) -> None:
    await service_account(api)
    await api.call("POST", PODS, pod("p"))
    at = f"{PODS}/p/ephemeralcontainers"
    debug = {"name": "debug", "image": "busybox", "targetContainerName": "c"}
    change = {"spec": {"ephemeralContainers": [debug]}, "metadata": {"labels": {"a": "b"}}}
    after = await api.patch("strategic", at, change)
    (found,) = after["spec"]["ephemeralContainers"]
    assert found["name"] == "debug" and found["imagePullPolicy"] == "Always"
    assert "labels" not in after["metadata"]
    for patch in (
        [{"op": "remove", "path": "/spec/ephemeralContainers/0"}],
        [{"op": "replace", "path": "/spec/ephemeralContainers/0/image", "value": "x"}],
    ):
        assert (await api.patch("json", at, patch, 422))["reason"] == "Invalid"
    clash = {"spec": {"ephemeralContainers": [{"name": "c", "image": "busybox"}]}}
    assert (await api.patch("strategic", at, clash, 422))["reason"] == "Invalid"
    # An update of the pod that does not mention them leaves them.
    present = await api.call("GET", f"{PODS}/p")
    del present["spec"]["ephemeralContainers"]
    kept = await api.call("PUT", f"{PODS}/p", present)
    assert [each["name"] for each in kept["spec"]["ephemeralContainers"]] == ["debug"]


async def test_signing_requests_are_approved_at_their_own_path(api: Harness) -> None:
    alice = User("alice", ("dev", "system:authenticated"), "7", {"scope": ("a",)})
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": "r"},
        "spec": {
            "request": signing_request(),
            "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
            "username": "system:admin",
            "groups": ["system:masters"],
        },
        "status": {"certificate": "eA=="},
    }
    made = await api.call("POST", CSRS, body, user=alice)
    assert (made["spec"]["username"], made["spec"]["uid"]) == ("alice", "7")
    assert made["spec"]["groups"] == ["dev", "system:authenticated"]
    assert made["spec"]["extra"] == {"scope": ["a"]}
    assert "certificate" not in made.get("status", {})
    approved = {"type": "Approved", "status": "True", "reason": "r", "message": "m"}
    change = {"status": {"conditions": [approved]}, "spec": {"username": "bob"}}
    ignored = await api.patch("merge", f"{CSRS}/r", change)
    assert not ignored.get("status", {}).get("conditions")
    refused = await api.patch("merge", f"{CSRS}/r/status", change, 422)
    assert refused["message"].endswith(
        'status.conditions: Forbidden: updates may not add a condition of type "Approved"'
    )
    after = await api.patch("merge", f"{CSRS}/r/approval", change)
    (condition,) = after["status"]["conditions"]
    assert condition["type"] == "Approved" and condition["lastUpdateTime"]
    assert after["spec"]["username"] == "alice"
    denied = {"type": "Denied", "status": "True", "reason": "r"}
    both = {"status": {"conditions": [approved, denied]}}
    assert (await api.patch("merge", f"{CSRS}/r/approval", both, 422))["reason"] == "Invalid"
    nothing = {"status": {"conditions": []}}
    assert (await api.patch("merge", f"{CSRS}/r/approval", nothing, 422))["reason"] == "Invalid"
    # The signer writes the certificate through status; the approval stays.
    refused = await api.patch("merge", f"{CSRS}/r/status", {"status": {"conditions": []}}, 422)
    assert 'may not remove a condition of type "Approved"' in refused["message"]
    other = {**approved, "reason": "other"}
    failed = {"type": "Failed", "status": "True"}
    change = {"status": {"conditions": [other, failed]}}
    signed = await api.patch("merge", f"{CSRS}/r/status", change)
    assert [each.get("reason") for each in signed["status"]["conditions"]] == ["r", None]


async def test_pod_defaults(api: Harness) -> None:
    body = pod("p")
    body["spec"]["containers"][0] |= {
        "image": "busybox:1.36",
        "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": 80}},
    }
    await service_account(api)
    found = await api.call("POST", PODS, body)
    spec, container = found["spec"], found["spec"]["containers"][0]
    volume = spec["volumes"][0]["name"]
    assert volume.startswith("kube-api-access-")
    assert {key: value for key, value in spec.items() if key not in ("containers", "volumes")} == {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
        "priority": 0,
        "tolerations": [
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for key in ("not-ready", "unreachable")
        ],
    }  # fmt: skip
    mount = {
        "name": volume,
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    assert container == {
        "name": "c",
        "image": "busybox:1.36",
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 80, "protocol": "TCP"}],
        "resources": {},
        "livenessProbe": {
            "httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
            "timeoutSeconds": 1,
            "periodSeconds": 10,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [mount],
    }
    assert found["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


async def test_component_statuses_as_kubectl_shows_them(api: Harness) -> None:
    listed = await api.call("GET", "/api/v1/componentstatuses", accept=TABLE)
    assert [column["name"] for column in listed["columnDefinitions"]] == [
        "Name",
        "Status",
        "Message",
        "Error",
    ]
    assert [row["cells"][:3] for row in listed["rows"]] == [["store", "Healthy", "ok"]]
    one = await api.call("GET", "/api/v1/componentstatuses/store", accept=TABLE)
    assert one["kind"] == "Table" and len(one["rows"]) == 1
    plain = await api.call("GET", "/api/v1/componentstatuses")
    assert plain["kind"] == "ComponentStatusList"
    assert (await api.call("GET", "/api/v1/componentstatuses/store"))["kind"] == "ComponentStatus"
    await api.call("GET", "/api/v1/componentstatuses/none", status=404)


async def test_tokens_are_issued_in_the_clusters_domain(tmp_path: Path) -> None:
    harness = await open_server(tmp_path, cluster_domain="harbour.test")
    await harness.server.start(serve=False)
    await service_account(harness)
    issuer = "https://kubernetes.default.svc.harbour.test"
    found = await harness.call("GET", "/.well-known/openid-configuration")
    assert found["issuer"] == issuer
    assert found["jwks_uri"] == f"{issuer}/openid/v1/jwks"  # a pod does not find us on loopback
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = "/api/v1/namespaces/default/serviceaccounts/default/token"
    answer = await harness.call("POST", path, body)
    token = answer["status"]["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"]) == (issuer, [issuer])
    await harness.server.close()
    await harness.store.close()


async def test_priority_of_the_default_class(api: Harness) -> None:
    await service_account(api)
    for name, value, default in (("low", 10, True), ("high", 1000, False)):
        body = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name, "annotations": {"a": '"globalDefault":true'}},
            "value": value,
            "globalDefault": default,
            "preemptionPolicy": "Never",
        }
        await api.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)
    spec = (await api.call("POST", PODS, pod("p")))["spec"]
    found = spec["priorityClassName"], spec["priority"], spec["preemptionPolicy"]
    assert found == ("low", 10, "Never")
    assert (await api.call("POST", PODS, pod("q", priorityClassName="high")))["spec"][
        "priority"
    ] == 1000
    # Replaced by the manifest that it was made from, a pod keeps what was filled in then.
    given = ("serviceAccountName", "volumes", "containers", "priorityClassName")
    again = pod("p", **{key: spec[key] for key in given})
    again["metadata"]["labels"] = {"status": "replaced"}
    replaced = await api.call("PUT", f"{PODS}/p", again)
    kept = ("priority", "preemptionPolicy", "tolerations")
    assert {key: replaced["spec"].get(key) for key in kept} == {key: spec[key] for key in kept}
