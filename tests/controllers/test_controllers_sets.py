"""StatefulSets and DaemonSets against the real API server; the test plays the nodes."""

from __future__ import annotations

import asyncio

from conftest import template, workload

from sampan.client.resources import (
    CONTROLLERREVISIONS,
    DAEMONSETS,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    STATEFULSETS,
)
from sampan.kube.objects import is_deleting, labels, pod_ready

HASH = "controller-revision-hash"


def stateful(**spec):
    return workload("StatefulSet", serviceName="web", **spec)


def daemon(**spec):
    made = workload("DaemonSet", **spec)
    del made["spec"]["replicas"]
    return made


async def names(world):
    return sorted(pod["metadata"]["name"] for pod in await world.pods())


async def set_image(world, gvr, image):
    await world.client.patch(gvr, "web", {"spec": {"template": template(image)}}, "default")


def image_of(pod):
    return pod["spec"]["containers"][0]["image"]


# StatefulSet


async def test_pods_come_one_after_another_with_lasting_names(world):
    await world.client.create(STATEFULSETS, stateful(replicas=3), "default")
    (first,) = await world.until(PODS, lambda items: items)
    assert first["metadata"]["name"] == first["spec"]["hostname"] == "web-0"
    assert first["spec"]["subdomain"] == "web"
    assert labels(first)["apps.kubernetes.io/pod-index"] == "0"
    await world.get_until(STATEFULSETS, "web", lambda s: (s.get("status") or {}).get("replicas"))
    assert await names(world) == ["web-0"]  # the second waits for the first
    for number in range(3):
        await world.until(PODS, lambda items, n=number: len(items) == n + 1)
        await world.set_pod(f"web-{number}")
    done = await world.get_until(STATEFULSETS, "web", ready(3))
    assert done["status"]["currentRevision"] == done["status"]["updateRevision"]
    assert done["status"]["currentReplicas"] == 3


def ready(count):
    return lambda s: (s.get("status") or {}).get("readyReplicas") == count


async def test_parallel_pods_come_together(world):
    await world.client.create(
        STATEFULSETS, stateful(replicas=3, podManagementPolicy="Parallel"), "default"
    )
    await world.until(PODS, lambda items: len(items) == 3)


async def test_scaling_down_takes_the_last_first(alive):
    await alive.client.create(STATEFULSETS, stateful(replicas=3), "default")
    await alive.get_until(STATEFULSETS, "web", ready(3))
    await alive.client.patch(STATEFULSETS, "web", {"spec": {"replicas": 1}}, "default")
    await alive.until(PODS, lambda items: len(items) == 1)
    assert await names(alive) == ["web-0"]


async def test_a_pod_that_goes_comes_back_under_its_name(alive):
    await alive.client.create(STATEFULSETS, stateful(replicas=2), "default")
    await alive.get_until(STATEFULSETS, "web", ready(2))
    (old,) = [p for p in await alive.pods() if p["metadata"]["name"] == "web-0"]
    await alive.client.delete(PODS, "web-0", "default")
    await alive.until(
        PODS,
        lambda items: any(
            p["metadata"]["name"] == "web-0" and p["metadata"]["uid"] != old["metadata"]["uid"]
            for p in items
        ),
    )


async def test_an_update_goes_backwards_to_the_partition(alive):
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}
    await alive.client.create(
        STATEFULSETS, stateful(replicas=3, updateStrategy=strategy), "default"
    )
    await alive.get_until(STATEFULSETS, "web", ready(3))
    await set_image(alive, STATEFULSETS, "b")
    held = await alive.get_until(
        STATEFULSETS,
        "web",
        lambda s: s["status"].get("updatedReplicas") == 2 and ready(3)(s),
    )
    images = {p["metadata"]["name"]: image_of(p) for p in await alive.pods()}
    assert images == {"web-0": "a", "web-1": "b", "web-2": "b"}
    assert held["status"]["currentRevision"] != held["status"]["updateRevision"]
    # What goes below the partition comes back as it was.
    await alive.client.delete(PODS, "web-0", "default")
    await alive.get_until(STATEFULSETS, "web", lambda s: not ready(3)(s))
    await alive.get_until(STATEFULSETS, "web", ready(3))
    images = {p["metadata"]["name"]: image_of(p) for p in await alive.pods()}
    assert images["web-0"] == "a"
    patch = {"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}}
    await alive.client.patch(STATEFULSETS, "web", patch, "default")
    done = await alive.get_until(
        STATEFULSETS,
        "web",
        lambda s: s["status"]["currentRevision"] == s["status"]["updateRevision"],
    )
    assert done["status"]["updatedReplicas"] == 3


async def test_on_delete_waits_for_the_user(alive):
    await alive.client.create(
        STATEFULSETS, stateful(replicas=1, updateStrategy={"type": "OnDelete"}), "default"
    )
    await alive.get_until(STATEFULSETS, "web", ready(1))
    await set_image(alive, STATEFULSETS, "b")
    await alive.until(CONTROLLERREVISIONS, lambda items: len(items) == 2)
    (pod,) = await alive.pods()
    assert image_of(pod) == "a"
    await alive.client.delete(PODS, "web-0", "default")
    await alive.until(PODS, lambda items: items and image_of(items[0]) == "b")


async def test_claims_are_made_once_and_stay(alive):
    volume_claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    await alive.client.create(
        STATEFULSETS, stateful(replicas=1, volumeClaimTemplates=[volume_claim]), "default"
    )
    (pod,) = await alive.until(PODS, lambda items: items)
    (made,) = await alive.until(PERSISTENTVOLUMECLAIMS, lambda items: items)
    assert made["metadata"]["name"] == "data-web-0"
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == "data-web-0"
    await alive.client.patch(STATEFULSETS, "web", {"spec": {"replicas": 0}}, "default")
    await alive.until(PODS, lambda items: not items)
    assert (await alive.client.list(PERSISTENTVOLUMECLAIMS, "default")).items


async def test_a_retention_policy_lets_claims_go_with_their_pods(alive):
    volume_claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    made = stateful(
        replicas=2,
        volumeClaimTemplates=[volume_claim],
        persistentVolumeClaimRetentionPolicy={"whenScaled": "Delete", "whenDeleted": "Retain"},
    )
    await alive.client.create(STATEFULSETS, made, "default")
    await alive.get_until(STATEFULSETS, "web", ready(2))
    await alive.client.patch(STATEFULSETS, "web", {"spec": {"replicas": 1}}, "default")
    await alive.until(
        PERSISTENTVOLUMECLAIMS,
        lambda items: [c["metadata"]["name"] for c in items] == ["data-web-0"],
    )
    # Owned by the set as long as the policy says so.
    for policy, count in (("Delete", 1), ("Retain", 0)):
        changed = {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": policy}}
        await alive.client.patch(STATEFULSETS, "web", {"spec": changed}, "default")
        await alive.get_until(
            PERSISTENTVOLUMECLAIMS,
            "data-web-0",
            lambda c, n=count: len(c["metadata"].get("ownerReferences", ())) == n,
        )


async def test_going_back_gives_the_old_revision_a_new_number(alive):
    await alive.client.create(STATEFULSETS, stateful(replicas=1), "default")
    await alive.get_until(STATEFULSETS, "web", ready(1))
    for image in ("b", "a"):
        await set_image(alive, STATEFULSETS, image)
        await alive.until(PODS, lambda items, i=image: items and image_of(items[0]) == i)
    found = await alive.until(
        CONTROLLERREVISIONS, lambda items: {each["revision"] for each in items} == {2, 3} and items
    )
    newest = max(found, key=lambda each: each["revision"])
    held = newest["data"]["spec"]["template"]  # as Kubernetes writes it, which compares bytes
    assert list(held) == sorted(held) and held["$patch"] == "replace"
    assert newest["data"]["spec"]["template"]["spec"]["containers"][0]["image"] == "a"


# DaemonSet


async def assigned(world, count):
    """So many daemons, each bound as the scheduler would."""
    pods = await world.until(
        PODS, lambda items: len([p for p in items if not is_deleting(p)]) == count and items
    )
    return {target(pod): pod for pod in pods if not is_deleting(pod)}


def target(pod):
    required = pod["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    return required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]


async def test_one_daemon_a_node_and_on_nodes_that_come(world):
    for name in ("a", "b"):
        await world.node(name)
    await world.client.create(DAEMONSETS, daemon(), "default")
    assert set(await assigned(world, 2)) == {"a", "b"}
    await world.node("c")
    assert set(await assigned(world, 3)) == {"a", "b", "c"}
    done = await world.get_until(
        DAEMONSETS, "web", lambda d: d["status"].get("currentNumberScheduled") == 3
    )
    assert done["status"]["desiredNumberScheduled"] == 3
    assert done["status"]["numberUnavailable"] == 3


async def test_daemons_go_where_labels_and_taints_let_them(world):
    spec = {**template()["spec"], "nodeSelector": {"disk": "ssd"}}
    made = daemon(template={**template(), "spec": spec})
    await world.node("a", disk="ssd")
    await world.node("b", disk="hdd")
    await world.client.create(DAEMONSETS, made, "default")
    assert set(await assigned(world, 1)) == {"a"}
    await world.client.patch(NODES, "b", {"metadata": {"labels": {"disk": "ssd"}}})
    assert set(await assigned(world, 2)) == {"a", "b"}
    taint = {"key": "gone", "value": "", "effect": "NoExecute"}
    node = await world.client.get(NODES, "a")
    node["spec"]["taints"] = [*(node["spec"].get("taints") or ()), taint]
    await world.client.update(NODES, node)
    assert set(await assigned(world, 1)) == {"b"}


async def test_daemons_are_replaced_a_node_at_a_time(world):
    for name in ("a", "b"):
        await world.node(name)
    await world.client.create(DAEMONSETS, daemon(), "default")
    for pod in (await assigned(world, 2)).values():
        await world.set_pod(pod["metadata"]["name"])
    playing = asyncio.ensure_future(world.play_node())
    await world.get_until(DAEMONSETS, "web", lambda d: d["status"].get("numberAvailable") == 2)
    await set_image(world, DAEMONSETS, "b")
    await world.get_until(
        DAEMONSETS,
        "web",
        lambda d: (
            d["status"]["observedGeneration"] == d["metadata"]["generation"]
            and d["status"].get("updatedNumberScheduled") == 2
            and d["status"].get("numberAvailable") == 2
        ),
    )
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)
    pods = [pod for pod in await world.pods() if not is_deleting(pod)]
    assert {image_of(pod) for pod in pods} == {"b"}
    assert all(pod_ready(pod) for pod in pods)


async def test_a_failed_daemon_is_replaced(world):
    await world.node("a")
    await world.client.create(DAEMONSETS, daemon(), "default")
    pod = (await assigned(world, 1))["a"]
    await world.set_pod(pod["metadata"]["name"])
    fresh = await world.client.get(PODS, pod["metadata"]["name"], "default")
    fresh["status"]["phase"] = "Failed"
    await world.client.update(PODS, fresh, "status")
    await world.until(
        PODS,
        lambda items: any(
            p["metadata"]["uid"] != pod["metadata"]["uid"] and not is_deleting(p) for p in items
        ),
    )
