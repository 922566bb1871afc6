"""Deployments and ReplicaSets against the real API server; the test plays the node."""

from __future__ import annotations

import asyncio
import random

import pytest
from conftest import World, template, workload

from sampan.client.resources import (
    DEPLOYMENTS,
    PODS,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    SERVICEACCOUNTS,
)
from sampan.controllers.base import Expectations, Key
from sampan.controllers.replicaset import replica_set_status
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, controller_of

REVISION = "deployment.kubernetes.io/revision"


def rolled_out(deployment):
    status, spec = deployment.get("status") or {}, deployment["spec"]
    return (
        status.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
        and status.get("updatedReplicas", 0) == spec["replicas"] == status.get("replicas", 0)
        and status.get("availableReplicas", 0) == spec["replicas"]
    )


def progress(deployment):
    return (condition(deployment, "Progressing") or {}).get("reason")


async def apply_image(world, image):
    patch = {"spec": {"template": template(image)}}
    return await world.client.patch(DEPLOYMENTS, "web", patch, "default")


async def images(world):
    return {pod["spec"]["containers"][0]["image"] for pod in await world.pods()}


async def revisions(world):
    found = (await world.client.list(REPLICASETS, "default")).items
    return {
        rs["spec"]["template"]["spec"]["containers"][0]["image"]: rs["metadata"]["annotations"][REVISION]
        for rs in found
    }  # fmt: skip


async def test_update_rollback_and_history(alive):
    await alive.client.create(DEPLOYMENTS, workload("Deployment", revisionHistoryLimit=1))
    done = await alive.get_until(DEPLOYMENTS, "web", rolled_out)
    assert condition(done, "Available")["status"] == "True"
    for image in ("b", "c"):
        await apply_image(alive, image)
        done = await alive.get_until(DEPLOYMENTS, "web", rolled_out)
        assert await images(alive) == {image}
    assert done["metadata"]["annotations"][REVISION] == "3"
    await alive.until(REPLICASETS, lambda items: len(items) == 2)
    assert await revisions(alive) == {"b": "2", "c": "3"}
    await apply_image(alive, "b")
    await alive.get_until(DEPLOYMENTS, "web", rolled_out)
    await alive.get_until(
        DEPLOYMENTS, "web", lambda d: progress(d) == "NewReplicaSetAvailable" and rolled_out(d)
    )
    assert await revisions(alive) == {"b": "4", "c": "3"}


async def test_pause_holds_a_new_template_back_and_scales(alive):
    await alive.client.create(DEPLOYMENTS, workload("Deployment", paused=True))
    await alive.get_until(DEPLOYMENTS, "web", lambda d: progress(d) == "DeploymentPaused")
    assert await alive.pods() == []
    await alive.client.patch(DEPLOYMENTS, "web", {"spec": {"paused": None}}, "default")
    await alive.get_until(DEPLOYMENTS, "web", rolled_out)
    patch = {"spec": {"paused": True, "replicas": 4, "template": template("b")}}
    await alive.client.patch(DEPLOYMENTS, "web", patch, "default")
    await alive.get_until(
        DEPLOYMENTS, "web", lambda d: (d.get("status") or {}).get("availableReplicas") == 4
    )
    assert await images(alive) == {"a"}
    await alive.client.patch(DEPLOYMENTS, "web", {"spec": {"paused": None}}, "default")
    await alive.get_until(DEPLOYMENTS, "web", rolled_out)
    assert await images(alive) == {"b"}


async def test_progress_deadline(world):
    await world.client.create(DEPLOYMENTS, workload("Deployment", progressDeadlineSeconds=60))
    await world.get_until(DEPLOYMENTS, "web", lambda d: progress(d) == "ReplicaSetUpdated")
    await world.until(PODS, lambda pods: len(pods) == 2)
    world.clock.shift += 62
    await world.client.patch(DEPLOYMENTS, "web", {"metadata": {"labels": {"x": "y"}}}, "default")
    late = await world.get_until(
        DEPLOYMENTS, "web", lambda d: progress(d) == "ProgressDeadlineExceeded"
    )
    assert condition(late, "Progressing")["status"] == "False"
    assert "has timed out progressing." in condition(late, "Progressing")["message"]
    for pod in await world.pods():
        await world.set_pod(pod["metadata"]["name"])
    done = await world.get_until(
        DEPLOYMENTS, "web", lambda d: progress(d) == "NewReplicaSetAvailable"
    )
    assert condition(done, "Progressing")["status"] == "True"


async def test_recreate_waits_for_the_old_to_be_gone(world):
    made = workload("Deployment", strategy={"type": "Recreate"})
    await world.client.create(DEPLOYMENTS, made)
    old = await world.until(PODS, lambda pods: len(pods) == 2 and pods)
    for pod in old:
        await world.client.patch(
            PODS, pod["metadata"]["name"], {"metadata": {"finalizers": ["test/hold"]}}, "default"
        )
        await world.set_pod(pod["metadata"]["name"])
    await world.get_until(DEPLOYMENTS, "web", rolled_out)
    await apply_image(world, "b")
    await world.until(PODS, lambda pods: all("deletionTimestamp" in p["metadata"] for p in pods))
    assert await images(world) == {"a"}
    for pod in old:
        await world.client.patch(
            PODS, pod["metadata"]["name"], {"metadata": {"finalizers": None}}, "default"
        )
    await world.until(
        PODS,
        lambda pods: (
            len(pods) == 2 and {p["spec"]["containers"][0]["image"] for p in pods} == {"b"}
        ),
    )


async def test_scaling_in_the_middle_is_proportional(world):
    strategy = {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}
    await world.client.create(DEPLOYMENTS, workload("Deployment", replicas=6, strategy=strategy))
    for pod in await world.until(PODS, lambda pods: len(pods) == 6 and pods):
        await world.set_pod(pod["metadata"]["name"])
    await world.get_until(DEPLOYMENTS, "web", rolled_out)
    await apply_image(world, "b")
    await world.until(PODS, lambda pods: len(pods) == 8)
    await world.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 12}}, "default")

    def sizes(items):
        return sorted(rs["spec"]["replicas"] for rs in items) in ([3, 11], [4, 10])

    await world.until(REPLICASETS, sizes)


async def test_deployment_adopts_and_releases_replica_sets(alive):
    made = workload("ReplicaSet", name="handmade", replicas=1)
    made["metadata"]["labels"] = {"app": "web"}
    await alive.client.create(REPLICASETS, made)
    created = await alive.client.create(DEPLOYMENTS, workload("Deployment"))
    adopted = await alive.get_until(REPLICASETS, "handmade", controller_of)
    assert controller_of(adopted)["uid"] == created["metadata"]["uid"]
    await alive.get_until(DEPLOYMENTS, "web", rolled_out)
    adopted = await alive.client.get(REPLICASETS, "handmade", "default")
    patch = {"metadata": {"labels": {"app": "other"}}}
    # Labels of a ReplicaSet are free to change; adoption looked at them, so does release.
    await alive.client.patch(REPLICASETS, "handmade", patch, "default")
    await alive.get_until(REPLICASETS, "handmade", lambda rs: controller_of(rs) is None)


async def test_a_taken_name_counts_as_collision(alive):
    from sampan.controllers import rollout

    made = workload("Deployment")
    created = await alive.client.create(
        DEPLOYMENTS, {**made, "spec": {**made["spec"], "paused": True}}
    )
    name = f"web-{rollout.template_hash(created['spec']['template'])}"
    other = workload("ReplicaSet", name=name, replicas=0)
    other["spec"]["selector"] = {"matchLabels": {"app": "x"}}
    other["spec"]["template"]["metadata"]["labels"] = {"app": "x"}
    await alive.client.create(REPLICASETS, other)
    await alive.client.patch(DEPLOYMENTS, "web", {"spec": {"paused": None}}, "default")
    done = await alive.get_until(DEPLOYMENTS, "web", rolled_out)
    assert done["status"]["collisionCount"] == 1


async def test_replica_set_keeps_its_number(world):
    await world.client.create(REPLICASETS, workload("ReplicaSet", replicas=3))
    pods = await world.until(PODS, lambda pods: len(pods) == 3 and pods)
    await world.set_pod(pods[1]["metadata"]["name"])
    await world.client.delete(PODS, pods[0]["metadata"]["name"], "default", grace=0)
    await world.until(
        PODS,
        lambda now: (
            len(now) == 3
            and pods[0]["metadata"]["name"] not in [p["metadata"]["name"] for p in now]
        ),
    )
    await world.client.patch(REPLICASETS, "web", {"spec": {"replicas": 1}}, "default")
    left = await world.until(PODS, lambda now: len(now) == 1 and now)
    assert left[0]["metadata"]["name"] == pods[1]["metadata"]["name"], "the ready one stays"
    await world.get_until(REPLICASETS, "web", lambda rs: rs["status"].get("readyReplicas") == 1)


async def test_replica_set_adopts_and_releases_pods(world):
    orphan = {"apiVersion": "v1", "kind": "Pod", **template()}
    orphan["metadata"] = {**orphan["metadata"], "name": "orphan", "namespace": "default"}
    await world.client.create(SERVICEACCOUNTS, {"metadata": {"name": "x"}}, "default")
    await world.until(
        SERVICEACCOUNTS, lambda items: any(a["metadata"]["name"] == "default" for a in items)
    )
    await world.client.create(PODS, orphan)
    await world.client.create(REPLICASETS, workload("ReplicaSet", replicas=2))
    await world.until(PODS, lambda pods: len(pods) == 2 and all(controller_of(p) for p in pods))
    patch = {"metadata": {"labels": {"app": "debug"}}}
    await world.client.patch(PODS, "orphan", patch, "default")
    await world.get_until(PODS, "orphan", lambda pod: controller_of(pod) is None)
    await world.until(PODS, lambda pods: len(pods) == 3)


async def test_refused_pods_of_a_replication_controller_are_a_condition(world):
    spec = {"replicas": 1, "selector": {"app": "web"}, "template": template()}
    spec["template"]["spec"]["serviceAccountName"] = "nobody"
    made = {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "web"}}
    await world.client.create(REPLICATIONCONTROLLERS, {**made, "spec": spec}, "default")
    await world.get_until(REPLICATIONCONTROLLERS, "web", lambda rc: condition(rc, "ReplicaFailure"))
    patch = {"spec": {"replicas": 0}}
    await world.client.patch(REPLICATIONCONTROLLERS, "web", patch, "default")
    await world.get_until(
        REPLICATIONCONTROLLERS, "web", lambda rc: not condition(rc, "ReplicaFailure")
    )


async def test_replication_controller_keeps_its_number_adopts_and_releases(alive):
    made = workload("ReplicationController", replicas=2, selector={"app": "web"})
    await alive.client.create(REPLICATIONCONTROLLERS, {**made, "apiVersion": "v1"})
    done = await alive.get_until(
        REPLICATIONCONTROLLERS, "web", lambda rc: rc["status"].get("availableReplicas") == 2
    )
    assert done["status"]["readyReplicas"] == done["status"]["fullyLabeledReplicas"] == 2
    first, second = await alive.pods()
    assert controller_of(first)["kind"] == "ReplicationController"
    name = first["metadata"]["name"]
    relabel = {"metadata": {"labels": {"app": "debug"}}}
    await alive.client.patch(PODS, name, relabel, "default")
    await alive.get_until(PODS, name, lambda pod: controller_of(pod) is None)
    await alive.until(PODS, lambda pods: len(pods) == 3)
    await alive.client.delete(PODS, second["metadata"]["name"], "default")
    relabel["metadata"]["labels"]["app"] = "web"
    await alive.client.patch(PODS, name, relabel, "default")
    await alive.until(PODS, lambda pods: len(pods) == 2 and all(controller_of(p) for p in pods))
    await alive.client.delete(REPLICATIONCONTROLLERS, "web", "default", propagation="Foreground")
    await alive.gone(REPLICATIONCONTROLLERS, "web")
    assert await alive.pods() == []


async def test_min_ready_seconds(world):
    await world.client.create(REPLICASETS, workload("ReplicaSet", replicas=1, minReadySeconds=30))
    (pod,) = await world.until(PODS, lambda pods: pods)
    await world.set_pod(pod["metadata"]["name"])
    fresh = await world.get_until(REPLICASETS, "web", lambda rs: rs["status"].get("readyReplicas"))
    assert "availableReplicas" not in fresh["status"]
    world.clock.shift += 31
    await world.client.patch(REPLICASETS, "web", {"metadata": {"labels": {"x": "y"}}}, "default")
    await world.get_until(REPLICASETS, "web", lambda rs: rs["status"].get("availableReplicas") == 1)


async def test_a_refused_pod_is_a_condition(world):
    made = workload("ReplicaSet", replicas=2)
    made["spec"]["template"]["spec"]["serviceAccountName"] = "nobody"
    await world.client.create(REPLICASETS, made)
    refused = await world.get_until(REPLICASETS, "web", lambda rs: condition(rs, "ReplicaFailure"))
    failure = condition(refused, "ReplicaFailure")
    assert failure["reason"] == "FailedCreate"
    assert 'serviceaccount "nobody" not found' in failure["message"]
    await world.client.create(SERVICEACCOUNTS, {"metadata": {"name": "nobody"}}, "default")
    await world.until(PODS, lambda pods: len(pods) == 2)
    await world.get_until(REPLICASETS, "web", lambda rs: not condition(rs, "ReplicaFailure"))


class SlowInformer:
    """An informer as a slow watch leaves it: a picture that the test moves on."""

    def __init__(self):
        self.objects, self.resource_version = {}, "1"

    def get(self, namespace, name):
        return self.objects.get((namespace, name))


def test_expectations_end_when_seen_or_read_past():
    informer, key = SlowInformer(), Key("default", "web")
    expectations = Expectations(informer)
    pod = {"metadata": {"namespace": "default", "name": "p", "uid": "u", "resourceVersion": "7"}}
    expectations.expect_created(key, pod)
    assert not expectations.satisfied(key)
    informer.resource_version = "6"
    assert not expectations.satisfied(key)
    informer.resource_version = "9"  # made and deleted again: never to be seen
    assert expectations.satisfied(key)
    informer.objects["default", "p"] = pod
    expectations.expect_deleted(key, pod)
    assert not expectations.satisfied(key)
    del informer.objects["default", "p"]
    assert expectations.satisfied(key)


@pytest.mark.parametrize("seed", range(4))
async def test_killed_anywhere_it_converges_to_the_same(idle: World, seed: int):
    """Every write of the controllers may be their last: they are stopped after a random number, and started again."""
    dice = random.Random(seed)
    await idle.start()
    playing = asyncio.ensure_future(idle.play_node())
    await idle.client.create(DEPLOYMENTS, workload("Deployment", replicas=3))
    handle, budget, killed = idle.server.pipeline.handle, 0, asyncio.Event()
    client_handler = idle.client.transport.handler

    class Fuse:
        async def handle(self, request):
            nonlocal budget
            response = await handle(request)
            if request.method != "GET" and request.user is not None:
                budget -= 1
                if budget == 0:
                    killed.set()
                    if idle.running is not None:
                        idle.running.cancel()
            return response

    idle.client.transport.handler = Fuse()
    for image in ("b", "c", "d"):
        budget = dice.randint(1, 12)
        killed.clear()
        await apply_image(idle, image)
        done = asyncio.ensure_future(idle.get_until(DEPLOYMENTS, "web", rolled_out))
        fell = asyncio.ensure_future(killed.wait())
        await asyncio.wait({done, fell}, return_when=asyncio.FIRST_COMPLETED)
        fell.cancel()
        await idle.stop()
        await idle.start()
        await done
    idle.client.transport.handler = client_handler
    await idle.until(PODS, lambda pods: len(pods) == 3)
    assert await images(idle) == {"d"}
    assert sorted((await revisions(idle)).values()) == ["1", "2", "3", "4"]
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)


def test_a_refusal_is_told_once_and_tried_again_in_peace():
    """Every refusal names another pod; were that written each time, the change would be acted on at once."""
    refused = {"metadata": {"generation": 1}, "status": {}}
    spec = {"replicas": 2, "template": {"spec": {}}}
    first = ApiError(403, "Forbidden", 'pods "web-1" is forbidden: exceeded quota')
    second = ApiError(403, "Forbidden", 'pods "web-2" is forbidden: exceeded quota')
    status = replica_set_status({**refused, "spec": spec}, [], [], first, 100.0)
    again = replica_set_status({**refused, "spec": spec, "status": status}, [], [], second, 200.0)
    assert again == status and "web-1" in status["conditions"][0]["message"]
    calm = replica_set_status({**refused, "spec": spec, "status": status}, [], [], None, 300.0)
    assert "conditions" not in calm
