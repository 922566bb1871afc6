"""Namespaces, tokens, garbage and nodes against the real API server."""

from __future__ import annotations

import asyncio
import base64

from conftest import DEADLINE

from sampan.client.resources import (
    CONFIGMAPS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    SERVICEACCOUNTS,
)
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, condition_true, owner_reference


def config_map(name, *owners, block=True, namespace="default", **metadata):
    references = [
        {
            "apiVersion": o["apiVersion"],
            "kind": o["kind"],
            "name": o["metadata"]["name"],
            "uid": o["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for o in owners
    ]
    metadata = {"name": name, "namespace": namespace, "ownerReferences": references, **metadata}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


async def names(world):
    found = (await world.client.list(CONFIGMAPS, "default")).items
    return {o["metadata"]["name"] for o in found} - {"kube-root-ca.crt"}


async def delete(world, name, propagation):
    await world.client.delete(CONFIGMAPS, name, "default", propagation=propagation)


# Namespaces


async def test_what_a_namespace_is_given_comes_back(world):
    ca = await world.get_until(CONFIGMAPS, "kube-root-ca.crt", lambda _: True)
    assert ca["data"] == {"ca.crt": "PEM"}
    account = await world.get_until(SERVICEACCOUNTS, "default", lambda _: True)
    await world.client.delete(SERVICEACCOUNTS, "default", "default")
    await world.client.delete(CONFIGMAPS, "kube-root-ca.crt", "default")
    await world.get_until(
        SERVICEACCOUNTS, "default", lambda o: o["metadata"]["uid"] != account["metadata"]["uid"]
    )
    await world.get_until(
        CONFIGMAPS, "kube-root-ca.crt", lambda o: o["metadata"]["uid"] != ca["metadata"]["uid"]
    )
    await world.client.patch(CONFIGMAPS, "kube-root-ca.crt", {"data": {"ca.crt": "bad"}}, "default")
    await world.get_until(CONFIGMAPS, "kube-root-ca.crt", lambda o: o["data"] == {"ca.crt": "PEM"})


async def test_pods_of_a_namespace_go_before_all_else(world):
    await world.client.create(NAMESPACES, {"metadata": {"name": "n"}})
    await world.client.create(CONFIGMAPS, config_map("guard", namespace="n"))
    await world.until(SERVICEACCOUNTS, lambda accounts: accounts, "n")
    pod = {"metadata": {"name": "held", "finalizers": ["test/hold"]}}
    pod["spec"] = {"containers": [{"name": "c", "image": "a"}]}
    await world.client.create(PODS, pod, "n")
    await world.client.delete(NAMESPACES, "n")
    await world.until(
        NAMESPACES,
        lambda items: any(condition_true(o, "NamespaceFinalizersRemaining") for o in items),
        "*",
    )
    assert await world.client.get(CONFIGMAPS, "guard", "n")
    await world.client.patch(PODS, "held", {"metadata": {"finalizers": None}}, "n")
    await world.gone(NAMESPACES, "n", "*")


async def test_a_namespace_waits_for_finalizers_and_says_so(world):
    await world.client.create(NAMESPACES, {"metadata": {"name": "n"}})
    await world.client.create(
        CONFIGMAPS, config_map("held", namespace="n", finalizers=["test/hold"])
    )
    await world.client.delete(NAMESPACES, "n")

    def says(items):
        return next(
            (
                o
                for o in items
                if o["metadata"]["name"] == "n"
                and (condition(o, "NamespaceFinalizersRemaining") or {}).get("status") == "True"
            ),
            None,
        )

    waiting = await world.until(NAMESPACES, says, "*")
    assert waiting["status"]["phase"] == "Terminating"
    text = condition(waiting, "NamespaceFinalizersRemaining")["message"]
    assert text.endswith("test/hold in 1 resource instances")
    text = condition(waiting, "NamespaceContentRemaining")["message"]
    assert text == "Some resources are remaining: configmaps. has 1 resource instances"
    await world.client.patch(CONFIGMAPS, "held", {"metadata": {"finalizers": None}}, "n")
    await world.gone(NAMESPACES, "n", "*")


# Tokens


async def test_token_secrets_are_filled_and_go_with_their_account(world):
    await world.client.create(SERVICEACCOUNTS, {"metadata": {"name": "bot"}}, "default")
    marks = {"kubernetes.io/service-account.name": "bot"}
    secret = {
        "metadata": {"name": "t", "annotations": marks},
        "type": "kubernetes.io/service-account-token",
    }
    await world.client.create(SECRETS, secret, "default")
    filled = await world.get_until(SECRETS, "t", lambda o: "token" in (o.get("data") or {}))
    assert base64.b64decode(filled["data"]["token"]) == b"token of bot"
    assert base64.b64decode(filled["data"]["namespace"]) == b"default"
    await world.client.delete(SERVICEACCOUNTS, "bot", "default")
    await world.gone(SECRETS, "t")


# Garbage


async def test_background_follows_the_chain(world):
    a = await world.client.create(CONFIGMAPS, config_map("a"))
    b = await world.client.create(CONFIGMAPS, config_map("b", a))
    await world.client.create(CONFIGMAPS, config_map("c", b))
    await delete(world, "a", "Background")
    await world.gone(CONFIGMAPS, "c")
    assert await names(world) == set()
    late = await world.client.create(CONFIGMAPS, config_map("late", a))
    await world.gone(CONFIGMAPS, late["metadata"]["name"])


async def test_foreground_waits_for_those_that_block(world):
    a = await world.client.create(CONFIGMAPS, config_map("a"))
    await world.client.create(CONFIGMAPS, config_map("b", a, finalizers=["test/hold"]))
    free = config_map("free", a, block=False, finalizers=["test/hold"])
    await world.client.create(CONFIGMAPS, free)
    await delete(world, "a", "Foreground")
    await world.get_until(CONFIGMAPS, "b", lambda o: "deletionTimestamp" in o["metadata"])
    assert "a" in await names(world)
    await world.client.patch(CONFIGMAPS, "b", {"metadata": {"finalizers": None}}, "default")
    await world.gone(CONFIGMAPS, "a")
    assert await names(world) == {"free"}


async def test_a_circle_does_not_hold_itself_up(world):
    made = {n: await world.client.create(CONFIGMAPS, config_map(n)) for n in "abc"}
    for name, owner in ("a", "c"), ("b", "a"), ("c", "b"):
        owners = [owner_reference(made[owner])]
        await world.client.patch(
            CONFIGMAPS, name, {"metadata": {"ownerReferences": owners}}, "default"
        )
    await delete(world, "a", "Foreground")
    for name in "abc":
        await world.gone(CONFIGMAPS, name)


async def test_orphans_stay(world):
    a = await world.client.create(CONFIGMAPS, config_map("a"))
    await world.client.create(CONFIGMAPS, config_map("b", a))
    await delete(world, "a", "Orphan")
    await world.gone(CONFIGMAPS, "a")
    left = await world.client.get(CONFIGMAPS, "b", "default")
    assert "ownerReferences" not in left["metadata"]


async def test_one_owner_left_is_enough(world):
    a = await world.client.create(CONFIGMAPS, config_map("a"))
    b = await world.client.create(CONFIGMAPS, config_map("b"))
    await world.client.create(CONFIGMAPS, config_map("c", a, b))
    await delete(world, "a", "Background")
    kept = await world.get_until(
        CONFIGMAPS, "c", lambda o: len(o["metadata"]["ownerReferences"]) == 1
    )
    assert kept["metadata"]["ownerReferences"][0]["name"] == "b"
    await delete(world, "b", "Background")
    await world.gone(CONFIGMAPS, "c")


async def test_another_owner_of_that_name_is_not_the_owner(idle):
    a = await idle.client.create(CONFIGMAPS, config_map("a"))
    await idle.client.create(CONFIGMAPS, config_map("b", a))
    await delete(idle, "a", "Background")
    await idle.client.create(CONFIGMAPS, config_map("a"))
    await idle.start()
    await idle.gone(CONFIGMAPS, "b")
    assert await names(idle) == {"a"}


async def test_a_cluster_scoped_owner(world):
    node = await world.node("n1")
    await world.client.create(CONFIGMAPS, config_map("of-node", node))
    await world.client.create(CONFIGMAPS, config_map("marker", node))
    await world.client.delete(NODES, "n1")
    await world.gone(CONFIGMAPS, "of-node")
    await world.gone(CONFIGMAPS, "marker")


async def test_a_false_reference_harms_only_itself(world):
    """A reference with a right uid but a wrong name must not make others think that their owner is gone."""
    owner = await world.client.create(CONFIGMAPS, config_map("owner"))
    await world.client.create(CONFIGMAPS, config_map("good", owner))
    lie = {**owner, "metadata": {**owner["metadata"], "name": "nobody"}}
    await world.client.create(CONFIGMAPS, config_map("bad", lie))
    await world.gone(CONFIGMAPS, "bad")
    await world.client.patch(CONFIGMAPS, "good", {"metadata": {"labels": {"x": "y"}}}, "default")
    await world.client.create(CONFIGMAPS, config_map("good-2", owner))
    await world.client.create(CONFIGMAPS, config_map("end", lie))
    await world.gone(CONFIGMAPS, "end")
    assert await names(world) == {"owner", "good", "good-2"}


async def test_restarted_in_the_middle_of_orphaning(idle):
    """The collector starts when an owner waits already: it must see all dependents before it lets the owner go."""
    a = await idle.client.create(CONFIGMAPS, config_map("a"))
    for index in range(20):
        await idle.client.create(CONFIGMAPS, config_map(f"b{index}", a))
    pod_owner = {
        "metadata": {
            "name": "s",
            "ownerReferences": config_map("x", a)["metadata"]["ownerReferences"],
        }
    }
    await idle.client.create(SECRETS, pod_owner, "default")
    await delete(idle, "a", "Orphan")
    await idle.start()
    await idle.gone(CONFIGMAPS, "a")
    assert len(await names(idle)) == 20
    left = await idle.client.get(SECRETS, "s", "default")
    assert "ownerReferences" not in left["metadata"]


# Nodes


async def renew(world, name, at):
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"renewTime": at, "holderIdentity": name},
    }
    try:
        await world.client.create(LEASES, lease)
    except ApiError:
        patch = {"spec": {"renewTime": at}}
        await world.client.patch(LEASES, name, patch, "kube-node-lease")


def taints(node):
    return {(t["key"].rpartition("/")[2], t["effect"]) for t in node["spec"].get("taints") or ()}


async def poke(world, name, value):
    await world.client.patch(NODES, name, {"metadata": {"annotations": {"poke": value}}})


async def node_where(world, name, holds):
    def found(items):
        return next((o for o in items if o["metadata"]["name"] == name and holds(o)), None)

    return await world.until(NODES, found, "*")


async def bound_pod(world, name, node, seconds):
    await world.get_until(SERVICEACCOUNTS, "default", lambda _: True)
    toleration = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}
    spec = {
        "nodeName": node,
        "containers": [{"name": "c", "image": "i"}],
        "tolerations": [toleration],
        "terminationGracePeriodSeconds": 0,
    }
    await world.client.create(
        PODS, {"metadata": {"name": name, "labels": {"part": name}}, "spec": spec}, "default"
    )
    await world.set_pod(name)


async def test_nothing_is_evicted_while_no_node_is_well(world):
    unreachable = {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    for name in ("n1", "n2"):
        await world.node(name)
        await node_where(world, name, lambda n: not taints(n))
    await bound_pod(world, "short", "n1", 10)
    for name, expected in (("n1", unreachable), ("n2", {("unreachable", "NoSchedule")})):
        unknown = {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
        await world.client.patch(NODES, name, unknown, subresource="status", kind="strategic")
        await node_where(world, name, lambda n, expected=expected: taints(n) == expected)
    await node_where(world, "n1", lambda n: taints(n) == {("unreachable", "NoSchedule")})
    world.clock.shift += 11
    await poke(world, "n1", "1")
    well = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await world.client.patch(NODES, "n2", well, subresource="status", kind="strategic")
    await node_where(world, "n1", lambda n: taints(n) == unreachable)
    assert [p["metadata"]["name"] for p in await world.pods()] == ["short"]  # its time starts anew
    world.clock.shift += 11
    await poke(world, "n1", "2")
    await world.gone(PODS, "short")


async def test_a_silent_node_is_marked_and_emptied_and_recovers(world):
    await world.node("n1")
    await world.node("n2")  # with no node well, none would be emptied
    await node_where(world, "n1", lambda n: not taints(n))
    await renew(world, "n1", "2026-01-01T00:00:00.000000Z")
    await bound_pod(world, "short", "n1", 10)
    await bound_pod(world, "long", "n1", 1000)
    await poke(world, "n1", "1")
    world.clock.shift += 70
    await poke(world, "n1", "2")
    unknown = await node_where(world, "n1", lambda n: len(taints(n)) == 2)
    assert condition(unknown, "Ready")["status"] == "Unknown"
    assert condition(unknown, "Ready")["reason"] == "NodeStatusUnknown"
    assert taints(unknown) == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    await world.get_until(PODS, "long", lambda p: condition(p, "Ready")["status"] == "False")
    world.clock.shift += 11
    await poke(world, "n1", "3")
    await world.gone(PODS, "short")
    assert [p["metadata"]["name"] for p in await world.pods()] == ["long"]
    await renew(world, "n1", "2026-01-01T00:01:00.000000Z")
    patch = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await world.client.patch(NODES, "n1", patch, subresource="status", kind="strategic")
    await node_where(world, "n1", lambda n: not taints(n))


async def test_conditions_and_cordon_become_taints(world):
    await world.node("n1")
    patch = {"status": {"conditions": [{"type": "MemoryPressure", "status": "True"}]}}
    await world.client.patch(NODES, "n1", patch, subresource="status", kind="strategic")
    await world.client.patch(NODES, "n1", {"spec": {"unschedulable": True}})
    await node_where(
        world, "n1",
        lambda n: taints(n) == {("memory-pressure", "NoSchedule"), ("unschedulable", "NoSchedule")},
    )  # fmt: skip
    await world.client.patch(NODES, "n1", {"spec": {"unschedulable": None}})
    await node_where(world, "n1", lambda n: taints(n) == {("memory-pressure", "NoSchedule")})


async def test_pods_of_a_removed_node_go(world):
    await world.node("n1")
    await bound_pod(world, "left", "n1", 1000)
    await bound_pod(world, "poke", "n1", 1000)
    await world.client.delete(NODES, "n1")
    await world.until(NODES, lambda items: not items, "*")
    # The quarantine begins when the controller sees that the node is gone: some change after that must find it over.
    async with asyncio.timeout(DEADLINE):
        while await world.pods(part="left"):
            world.clock.shift += 41
            try:
                patch = {"metadata": {"labels": {"at": str(int(world.clock.shift))}}}
                await world.client.patch(PODS, "poke", patch, "default")
            except ApiError as error:
                assert error.code == 404
                await world.gone(PODS, "left")
                break
