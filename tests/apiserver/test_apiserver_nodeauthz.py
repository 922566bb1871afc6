"""A node reads what its pods need, and nothing of other nodes; every question goes through a running server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apiserver_harness import Harness, config_map, open_server, pod, service_account

from sampan.client.transport import User

NODE = User("system:node:boat", ("system:nodes", "system:authenticated"))
OTHER = User("system:node:raft", ("system:nodes", "system:authenticated"))
CORE = "/api/v1/namespaces/default"
PODS = f"{CORE}/pods"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start(serve=False)
    await service_account(harness)
    yield harness
    await harness.server.close()
    await harness.store.close()


def secret(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"a": "Yg=="}}


async def refused(api: Harness, path: str, user: User = NODE, method: str = "GET") -> str:
    return str(
        (await api.call(method, path, {} if method != "GET" else None, 403, user=user))["message"]
    )


async def test_secrets_and_configmaps_of_its_pods_only(api: Harness) -> None:
    wanted = ("volume", "env", "from", "pull", "projected")
    for name in (*wanted, "foreign"):
        await api.call("POST", f"{CORE}/secrets", secret(name))
        await api.call("POST", f"{CORE}/configmaps", config_map(name))
    container = {
        "name": "c",
        "image": "i",
        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "a"}}}],
        "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "from"}}],
    }
    volumes = [
        {"name": "v", "secret": {"secretName": "volume"}},
        {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
    ]
    made = pod("mine", containers=[container], volumes=volumes, imagePullSecrets=[{"name": "pull"}])
    made["spec"]["nodeName"] = "boat"
    for name in wanted:  # before there is a pod, nothing is the node's
        assert "no relationship found between node 'boat'" in await refused(
            api, f"{CORE}/secrets/{name}"
        )
    await api.call("POST", PODS, made)
    for name in wanted:
        await api.call("GET", f"{CORE}/secrets/{name}", user=NODE)
        await api.call("GET", f"{CORE}/secrets?fieldSelector=metadata.name={name}", user=NODE)
        await refused(api, f"{CORE}/secrets/{name}", OTHER)
    await api.call("GET", f"{CORE}/configmaps/from", user=NODE)
    assert await refused(api, f"{CORE}/secrets/foreign") == (
        'secrets "foreign" is forbidden: User "system:node:boat" cannot get resource "secrets" in API '
        'group "" in the namespace "default": no relationship found between node \'boat\' and this object'
    )
    for path in (f"{CORE}/secrets", "/api/v1/secrets", f"{CORE}/configmaps/foreign"):
        await refused(api, path)
    assert "can only read resources of this type" in await refused(
        api, f"{CORE}/secrets", method="POST"
    )
    await api.call("DELETE", f"{PODS}/mine?gracePeriodSeconds=0")
    await refused(api, f"{CORE}/secrets/volume")  # at once, when the pod is gone


async def test_claims_volumes_and_the_secrets_of_their_drivers(api: Harness) -> None:
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "disk"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {
                "driver": "example.com",
                "volumeHandle": "d",
                "nodePublishSecretRef": {"name": "driver", "namespace": "default"},
            },
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": "disk",
        },
    }
    await api.call("POST", "/api/v1/persistentvolumes", volume)
    await api.call("POST", f"{CORE}/persistentvolumeclaims", claim)
    await api.call("POST", f"{CORE}/secrets", secret("driver"))
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    await api.call("POST", PODS, pod("mine", nodeName="boat", volumes=volumes))
    for path in (
        f"{CORE}/persistentvolumeclaims/data",
        "/api/v1/persistentvolumes/disk",
        f"{CORE}/secrets/driver",
    ):
        await api.call("GET", path, user=NODE)
        await refused(api, path, OTHER)
    status = {"status": {"capacity": {"storage": "1Gi"}}}
    await api.patch("merge", f"{CORE}/persistentvolumeclaims/data/status", status, user=NODE)


async def test_tokens_for_the_accounts_of_its_pods(api: Harness) -> None:
    made = await api.call("POST", PODS, pod("mine", nodeName="boat"))
    await api.call("POST", PODS, pod("theirs", nodeName="raft"))
    path = f"{CORE}/serviceaccounts/default/token"

    def request(name: str, uid: str = "") -> dict[str, Any]:
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        return {"spec": {"audiences": [], "boundObjectRef": bound}}

    uid = made["metadata"]["uid"]
    await api.call("POST", path, request("mine", uid), 201, user=NODE)
    other = await api.call("POST", path, request("theirs"), 403, user=NODE)
    assert "pod scheduled on a different node" in other["message"]
    unbound = await api.call("POST", path, {"spec": {}}, 403, user=NODE)
    assert "not bound to a pod" in unbound["message"]
    elsewhere = path.replace("default/token", "robot/token")
    assert "no relationship found" in await refused(api, elsewhere, method="POST")


async def test_tokens_for_the_audiences_of_the_pod_s_volumes(api: Harness) -> None:
    sources = [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]
    volumes = [{"name": "t", "projected": {"sources": sources}}]
    await api.call("POST", PODS, pod("mine", nodeName="boat", volumes=volumes))
    path = f"{CORE}/serviceaccounts/default/token"
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "mine"}
    for audiences, status in ((["vault"], 201), ([], 201), (["vault", "bank"], 403)):
        spec = {"audiences": audiences, "boundObjectRef": bound}
        answer = await api.call("POST", path, {"spec": spec}, status, user=NODE)
    assert 'audience "bank" not found in pod spec volume' in answer["message"]


async def test_pods_and_nodes_only_its_own(api: Harness) -> None:
    await api.call("POST", PODS, pod("mine", nodeName="boat"))
    await api.call("POST", PODS, pod("theirs", nodeName="raft"))
    listed = await api.call("GET", "/api/v1/pods?fieldSelector=spec.nodeName=boat", user=NODE)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["mine"]
    await api.call("GET", f"{PODS}/mine", user=NODE)
    await refused(api, f"{PODS}/theirs")
    assert "can only list/watch pods with spec.nodeName" in await refused(api, "/api/v1/pods")
    await refused(api, "/api/v1/pods?fieldSelector=spec.nodeName=raft")
    running = {"status": {"phase": "Running"}}
    await api.patch("merge", f"{PODS}/mine/status", running, user=NODE)
    for method, path, text in (
        (
            "PATCH",
            f"{PODS}/theirs/status",
            "can only update pod status for pods with spec.nodeName",
        ),
        ("DELETE", f"{PODS}/theirs", "can only delete pods with spec.nodeName set to itself"),
        ("POST", f"{PODS}/theirs/eviction", "can only evict pods with spec.nodeName set to itself"),
    ):
        body = None if method == "DELETE" else {"metadata": {"name": "theirs"}, **running}
        if method == "POST":
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "theirs"}}
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        answer = await api.call(method, path, body, 403, user=NODE, content=content)
        assert text in answer["message"]
    for name, user in (("boat", NODE), ("raft", OTHER)):
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        await api.call("POST", "/api/v1/nodes", made, user=user)
    await api.call("GET", "/api/v1/nodes/boat", user=NODE)
    assert "only its own Node object" in await refused(api, "/api/v1/nodes/raft")
    assert "cannot read all nodes" in await refused(api, "/api/v1/nodes")
    status = {"status": {"capacity": {"cpu": "1"}}}
    await api.patch("merge", "/api/v1/nodes/boat/status", status, user=NODE)
    answer = await api.patch("merge", "/api/v1/nodes/raft/status", status, 403, user=NODE)
    assert answer["message"] == (
        'nodes "raft" is forbidden: node "boat" is not allowed to modify node "raft"'
    )


async def test_leases_and_what_is_nobody_s_business(api: Harness) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
    made = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "boat"}}
    await api.call("POST", leases.format("kube-node-lease"), made, user=NODE)
    await api.call("GET", leases.format("kube-node-lease") + "/boat", user=NODE)
    await refused(api, leases.format("kube-node-lease") + "/raft")
    await refused(api, leases.format("kube-system") + "/boat")
    await refused(api, leases.format("kube-node-lease"))
    for path in ("/apis/apps/v1/deployments", "/apis/rbac.authorization.k8s.io/v1/clusterroles"):
        await refused(api, path)


async def test_reviews_know_nodes_too(api: Harness) -> None:
    await api.call("POST", f"{CORE}/secrets", secret("s"))
    volumes = [{"name": "v", "secret": {"secretName": "s"}}]
    await api.call("POST", PODS, pod("mine", nodeName="boat", volumes=volumes))

    async def allowed(user: User, name: str) -> bool:
        asked = {"verb": "get", "resource": "secrets", "namespace": "default", "name": name}
        spec = {"user": user.name, "groups": list(user.groups), "resourceAttributes": asked}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        return bool((await api.call("POST", path, {**review, "spec": spec}))["status"]["allowed"])

    assert await allowed(NODE, "s")
    assert not await allowed(NODE, "t")
    assert not await allowed(OTHER, "s")
    rules = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    answer = await api.call("POST", rules, {"spec": {"namespace": "default"}}, user=NODE)
    assert answer["status"]["incomplete"] is True
