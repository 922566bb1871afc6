"""What a node may write: itself, the status of its own pods, mirror pods, its own lease, and nothing that draws pods to it."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver_harness import PODS, Harness, api, pod, service_account

from sampan.apiserver.admission.noderestriction import reserved
from sampan.client.transport import User

__all__ = ["api"]

NODE = User("system:node:n1", ("system:nodes", "system:authenticated"))
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
MIRROR = {"kubernetes.io/config.mirror": "x"}


def node(name: str = "n1", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {"kubernetes.io/hostname": name}},
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("label", "answer"),
    [
        ("app", False),
        ("example.com/x", False),
        ("mykubernetes.io/x", False),
        ("kubernetes.io/hostname", False),
        ("topology.kubernetes.io/zone", False),
        ("node.kubernetes.io/anything", False),
        ("sub.kubelet.kubernetes.io/x", False),
        ("node-restriction.kubernetes.io/team", True),
        ("x.node-restriction.kubernetes.io/team", True),
        ("node-role.kubernetes.io/control-plane", True),
        ("kubernetes.io/other", True),
        ("k8s.io/x", True),
    ],
)
def test_reserved_labels(label: str, answer: bool) -> None:
    assert reserved(label) is answer


async def test_a_node_registers_itself_only(api: Harness) -> None:
    for body, text in (
        (node("n2"), 'node "n1" is not allowed to create node "n2"'),
        (
            node(labels={"node-role.kubernetes.io/control-plane": ""}),
            "is not allowed to set the following labels: node-role.kubernetes.io/control-plane",
        ),
    ):
        refused = await api.call("POST", NODES, body, 403, user=NODE)
        assert text in refused["message"] and refused["reason"] == "Forbidden"
    taints = [{"key": "a", "effect": "NoSchedule"}]
    await api.call("POST", NODES, node(taints=taints, podCIDR="10.0.0.0/24"), user=NODE)


async def test_a_node_does_not_make_itself_more_attractive(api: Harness) -> None:
    await api.call("POST", NODES, node(taints=[{"key": "a", "effect": "NoSchedule"}]), user=NODE)
    at = f"{NODES}/n1"
    for path in (at, f"{at}/status"):
        label = {"metadata": {"labels": {"node-restriction.kubernetes.io/team": "a"}}}
        refused = await api.patch("merge", path, label, 403, user=NODE)
        assert "modify labels: node-restriction.kubernetes.io/team" in refused["message"]
        await api.patch("merge", path, {"metadata": {"labels": {"app": path[-1]}}}, user=NODE)
    refused = await api.patch("merge", at, {"spec": {"taints": None}}, 403, user=NODE)
    assert "is not allowed to modify taints" in refused["message"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u"}
    await api.patch("merge", at, {"metadata": {"ownerReferences": [owner]}}, 403, user=NODE)
    # Everyone else may: that is what administrators and controllers do.
    await api.patch("merge", at, label)
    await api.patch("merge", at, {"spec": {"taints": None}})
    # What others put there stays the node's to keep, not to drop.
    drop = {"metadata": {"labels": {"node-restriction.kubernetes.io/team": None}}}
    await api.patch("merge", at, drop, 403, user=NODE)
    await api.patch("merge", f"{at}/status", {"status": {"capacity": {"cpu": "1"}}}, user=NODE)


async def test_a_node_creates_mirror_pods_only(api: Harness) -> None:
    await api.call("POST", NODES, node())
    uid = (await api.call("GET", f"{NODES}/n1"))["metadata"]["uid"]

    def mirror(**spec: Any) -> dict[str, Any]:
        found = pod("static", nodeName="n1", **spec)
        found["metadata"]["annotations"] = dict(MIRROR)
        return found

    foreign = mirror()
    foreign["spec"]["nodeName"] = "n2"
    owned = mirror()
    owned["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "another"}
    ]
    secret = {"secretKeyRef": {"name": "s", "key": "k"}}
    env = [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": secret}]}]
    for body, text in (
        (pod("p", nodeName="n1"), "annotation"),
        (foreign, "spec.nodeName set to itself"),
        (mirror(serviceAccountName="default"), "a service account"),
        (mirror(volumes=[{"name": "v", "secret": {"secretName": "s"}}]), "secrets"),
        (mirror(volumes=[{"name": "v", "configMap": {"name": "s"}}]), "configmaps"),
        (mirror(containers=env), "secrets"),
        (owned, "owner reference set to itself"),
    ):
        refused = await api.call("POST", PODS, body, 403, user=NODE)
        assert text in refused["message"], refused["message"]
    owned["metadata"]["ownerReferences"][0]["uid"] = uid
    created = await api.call("POST", PODS, owned, user=NODE)
    assert "serviceAccountName" not in created["spec"] and not created["spec"].get("volumes")


async def test_a_pods_labels_are_not_the_nodes(api: Harness) -> None:
    await service_account(api)
    await api.call("POST", PODS, pod("p", nodeName="n1"))
    at = f"{PODS}/p/status"
    label = {"metadata": {"labels": {"app": "web"}}}  # would put it behind a Service
    refused = await api.patch("merge", at, label, 403, user=NODE)
    assert "cannot update labels through pod status" in refused["message"]
    answer = await api.patch("merge", at, {"status": {"phase": "Running"}}, user=NODE)
    assert answer["status"]["phase"] == "Running"


async def test_a_node_has_one_lease(api: Harness) -> None:
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n2"}}
    refused = await api.call("POST", LEASES, lease, 403, user=NODE)
    assert 'is not allowed to access lease "n2"' in refused["message"]
    lease["metadata"] = {"name": "n1"}
    elsewhere = LEASES.replace("kube-node-lease", "default")
    refused = await api.call("POST", elsewhere, lease, 403, user=NODE)
    assert "kube-node-lease" in refused["message"]
    await api.call("POST", LEASES, lease, user=NODE)
