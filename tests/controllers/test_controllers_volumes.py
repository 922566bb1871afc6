"""Claims and volumes bound, provisioned, lost, released and grown, by the real controllers against the real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sampan.client.resources import (
    EVENTS,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    STORAGECLASSES,
)
from sampan.controllers.persistentvolume import localpath
from sampan.kube import persistent
from sampan.kube.errors import ApiError
from sampan.scheduler.scheduler import Scheduler

Object = dict[str, Any]
SELECTED = persistent.SELECTED_NODE


def volume(name: str, size: str = "1Gi", **spec: Any) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": f"/{name}"},
            **spec,
        },
    }


def claim(name: str, size: str = "1Gi", **spec: Any) -> Object:
    marks = spec.pop("annotations", {})
    return {
        "metadata": {"name": name, "annotations": marks},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


def storage_class(name: str, default: bool = False, **fields: Any) -> Object:
    marks = {persistent.DEFAULT_CLASS[0]: "true"} if default else {}
    return {
        "metadata": {"name": name, "annotations": marks},
        "provisioner": persistent.LOCAL_PATH,
        **fields,
    }


def in_phase(*phases: str) -> Any:
    return lambda obj: (obj.get("status") or {}).get("phase") in phases


class Storage:
    def __init__(self, world: Any) -> None:
        self.world = world
        self.client = world.client

    async def volume(self, *given: Any, **spec: Any) -> Object:
        return await self.client.create(PERSISTENTVOLUMES, volume(*given, **spec))

    async def claim(self, *given: Any, **spec: Any) -> Object:
        return await self.client.create(PERSISTENTVOLUMECLAIMS, claim(*given, **spec), "default")

    async def class_(self, *given: Any, **fields: Any) -> Object:
        return await self.client.create(STORAGECLASSES, storage_class(*given, **fields))

    async def node(self, name: str, storage: str = "/storage") -> None:
        await self.world.node(name, **{"kubernetes.io/hostname": f"host-{name}"})
        marks = {"metadata": {"annotations": {persistent.LOCAL_PATH: storage}}}
        await self.client.patch(NODES, name, {**marks, "spec": {"taints": None}})
        amounts = {"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}}}
        await self.client.patch(NODES, name, amounts, subresource="status")

    async def claim_until(self, name: str, holds: Any = in_phase("Bound")) -> Object:
        return await self.world.get_until(PERSISTENTVOLUMECLAIMS, name, holds)

    async def volume_until(self, name: str, holds: Any) -> Object:
        def one(items: list[Object]) -> Object | None:
            return next((o for o in items if o["metadata"]["name"] == name and holds(o)), None)

        return await self.world.until(PERSISTENTVOLUMES, one, "*")

    async def told(self, name: str, reason: str) -> str:
        """The message of an event on the object, once there is one."""

        def one(items: list[Object]) -> Object | None:
            return next(
                (e for e in items if e["involvedObject"]["name"] == name and e["reason"] == reason),
                None,
            )

        return str((await self.world.until(EVENTS, one))["message"])


@pytest.fixture
async def storage(world):
    return Storage(world)


async def test_the_smallest_fitting_volume_is_bound(storage):
    await storage.volume("large", "5Gi")
    await storage.volume("fits", "2Gi")
    await storage.volume("small", "500Mi")
    for name in ("large", "fits", "small"):
        await storage.volume_until(name, in_phase("Available"))
    await storage.claim("data")
    bound = await storage.claim_until("data")
    assert bound["spec"]["volumeName"] == "fits"
    assert bound["status"] == {
        "phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"},
    }  # fmt: skip
    marks = bound["metadata"]["annotations"]
    assert marks[persistent.BIND_COMPLETED] == marks[persistent.BOUND_BY_CONTROLLER] == "yes"
    found = await storage.volume_until("fits", in_phase("Bound"))
    assert found["spec"]["claimRef"]["uid"] == bound["metadata"]["uid"]
    assert found["metadata"]["annotations"][persistent.BOUND_BY_CONTROLLER] == "yes"
    assert found["status"]["lastPhaseTransitionTime"]


async def test_what_others_say_in_a_status_stays(storage):
    made = await storage.volume("v", storageClassName="other")
    await storage.volume_until("v", in_phase("Available"))
    said = {"status": {"message": "StatusPatched", "reason": "E2E"}}
    await storage.client.patch(PERSISTENTVOLUMES, "v", said, subresource="status")
    await storage.client.patch(PERSISTENTVOLUMES, "v", {"metadata": {"labels": {"seen": "yes"}}})
    await storage.volume("marker")  # reconciled after it: by then the first was looked at
    await storage.volume_until("marker", in_phase("Available"))
    kept = await storage.client.get(PERSISTENTVOLUMES, "v")
    assert kept["metadata"]["uid"] == made["metadata"]["uid"]
    assert kept["status"]["message"] == "StatusPatched"


async def test_many_claims_share_out_the_volumes(storage):
    """Each gets one of its own, whoever is faster."""
    await asyncio.gather(*(storage.volume(f"v{i}", f"{i + 1}Gi") for i in range(6)))
    await asyncio.gather(*(storage.claim(f"c{i}") for i in range(6)))
    bound = await storage.world.until(
        PERSISTENTVOLUMECLAIMS, lambda found: all(map(in_phase("Bound"), found)) and found
    )
    assert len({each["spec"]["volumeName"] for each in bound}) == 6


async def test_a_claim_waits_for_a_volume(storage):
    await storage.claim("data")
    assert await storage.told("data", "FailedBinding") == (
        "no persistent volumes available for this claim and no storage class is set"
    )
    await storage.volume("late")
    assert (await storage.claim_until("data"))["spec"]["volumeName"] == "late"


async def test_a_claim_that_names_its_volume(storage):
    await storage.volume("small", "1Mi")
    await storage.claim("greedy", volumeName="small")
    assert await storage.told("greedy", "VolumeMismatch") == (
        'Cannot bind to requested volume "small": requested PV is too small'
    )
    await storage.claim("modest", "1Mi", volumeName="small")
    bound = await storage.claim_until("modest")
    assert persistent.BOUND_BY_CONTROLLER not in bound["metadata"]["annotations"]
    assert await storage.told("greedy", "FailedBinding") == (
        'volume "small" already bound to a different claim.'
    )


async def test_a_volume_that_names_its_claim(storage):
    reserved = {"namespace": "default", "name": "chosen"}
    await storage.volume("kept", "9Gi", claimRef=reserved)
    await storage.volume("free", "1Gi")
    await storage.volume_until("kept", in_phase("Available"))
    await storage.volume_until("free", in_phase("Available"))
    await storage.claim("chosen")
    assert (await storage.claim_until("chosen"))["spec"]["volumeName"] == "kept"


async def test_a_claim_whose_volume_went_is_lost(storage):
    await storage.volume("frail")
    await storage.claim("data")
    await storage.claim_until("data")
    await storage.client.delete(PERSISTENTVOLUMES, "frail")
    await storage.client.patch(PERSISTENTVOLUMES, "frail", {"metadata": {"finalizers": None}})
    await storage.claim_until("data", in_phase("Lost"))
    assert "Data on the volume is lost!" in await storage.told("data", "ClaimLost")


LEFT_BEHIND = {
    "Retain": ("Released", ""),
    "Delete": ("Failed", "no deletable volume plugin matched"),
    "Recycle": ("Failed", "No recycler plugin found"),
}


async def test_what_is_left_behind(storage):
    for policy in LEFT_BEHIND:
        name = policy.lower()
        await storage.volume(name, persistentVolumeReclaimPolicy=policy)
        await storage.claim(name, volumeName=name)
    for policy in LEFT_BEHIND:
        await storage.claim_until(policy.lower())
        await storage.client.delete(PERSISTENTVOLUMECLAIMS, policy.lower(), "default")
    for policy, (phase, why) in LEFT_BEHIND.items():
        left = await storage.volume_until(policy.lower(), in_phase(phase))
        assert why in left["status"].get("message", "")
    # It is nobody else's before the administrator says so.
    await storage.claim("next")
    await storage.told("next", "FailedBinding")
    await storage.client.patch(PERSISTENTVOLUMES, "retain", {"spec": {"claimRef": None}})
    assert (await storage.claim_until("next"))["spec"]["volumeName"] == "retain"


async def test_the_default_class_comes_late(storage):
    await storage.claim("data")
    await storage.told("data", "FailedBinding")
    await storage.class_("slow", default=True, volumeBindingMode="WaitForFirstConsumer")
    given = await storage.claim_until("data", lambda c: c["spec"].get("storageClassName"))
    assert given["spec"]["storageClassName"] == "slow"
    assert await storage.told("data", "WaitForFirstConsumer") == (
        "waiting for first consumer to be created before binding"
    )


async def test_a_directory_is_provisioned_for_the_selected_node(storage):
    await storage.node("a", "/somewhere/storage")
    await storage.class_("local", volumeBindingMode="WaitForFirstConsumer")
    await storage.claim("data", "3Gi", storageClassName="local", annotations={SELECTED: "a"})
    bound = await storage.claim_until("data")
    uid = bound["metadata"]["uid"]
    made = await storage.volume_until(f"pvc-{uid}", in_phase("Bound"))
    spec = made["spec"]
    assert spec["local"]["path"] == f"/somewhere/storage/pvc-{uid}_default_data"
    assert spec["capacity"] == {"storage": "3Gi"}
    assert spec["persistentVolumeReclaimPolicy"] == "Delete"
    assert persistent.reachable(made, ("a", {"kubernetes.io/hostname": "host-a"}))
    assert not persistent.reachable(made, ("b", {"kubernetes.io/hostname": "host-b"}))
    assert await storage.told("data", "ProvisioningSucceeded") == (
        f"Successfully provisioned volume pvc-{uid}"
    )
    # The node does not answer: the volume stays, and says why. A node that is gone needs no answer.
    await storage.client.delete(PERSISTENTVOLUMECLAIMS, "data", "default")
    failed = await storage.volume_until(f"pvc-{uid}", in_phase("Failed"))
    assert failed["status"]["message"].startswith("node a: ")
    await storage.client.delete(NODES, "a")
    await storage.world.gone(PERSISTENTVOLUMES, f"pvc-{uid}", "*")


async def test_a_policy_that_becomes_retain_lets_go_of_the_volume(storage):
    await storage.node("a")
    await storage.class_("local")
    await storage.claim("data", storageClassName="local")
    name = (await storage.claim_until("data"))["spec"]["volumeName"]
    made = await storage.volume_until(name, in_phase("Bound"))
    assert localpath.FINALIZER in made["metadata"]["finalizers"]
    kept = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    await storage.client.patch(PERSISTENTVOLUMES, name, kept)
    await storage.volume_until(
        name, lambda v: localpath.FINALIZER not in v["metadata"]["finalizers"]
    )
    await storage.client.delete(PERSISTENTVOLUMECLAIMS, "data", "default")
    await storage.volume_until(name, in_phase("Released"))


NO_DIRECTORIES = {
    "shared": ({"accessModes": ["ReadWriteMany"]}, "not ReadWriteMany"),
    "raw": ({"volumeMode": "Block"}, "a directory is no block device"),
    "choosy": ({"selector": {"matchLabels": {"a": "b"}}}, "claim.spec.selector is not supported"),
}


async def test_what_a_directory_cannot_be(storage):
    await storage.node("a")
    await storage.class_("local")
    for name, (spec, _) in NO_DIRECTORIES.items():
        await storage.claim(name, storageClassName="local", **spec)
    for name, (_, why) in NO_DIRECTORIES.items():
        said = await storage.told(name, "ProvisioningFailed")
        assert said.startswith('failed to provision volume with StorageClass "local": ')
        assert why in said


async def test_other_provisioners_are_told(storage):
    await storage.class_("csi", provisioner="csi.example.com")
    await storage.claim("data", storageClassName="csi")
    assert "external provisioner 'csi.example.com'" in await storage.told(
        "data", "ExternalProvisioning"
    )
    marked = await storage.claim_until("data", in_phase("Pending"))
    for key in persistent.PROVISIONERS:
        assert marked["metadata"]["annotations"][key] == "csi.example.com"
    await storage.claim("lost", storageClassName="nowhere")
    assert await storage.told("lost", "ProvisioningFailed") == (
        'storageclass.storage.k8s.io "nowhere" not found'
    )


async def test_a_claim_grows_where_its_class_allows(storage):
    await storage.node("a")
    await storage.class_("stiff")
    await storage.class_("soft", allowVolumeExpansion=True)
    bigger = {"spec": {"resources": {"requests": {"storage": "5Gi"}}}}
    for name in ("stiff", "soft"):
        await storage.claim(name, storageClassName=name)
        await storage.claim_until(name)
    with pytest.raises(ApiError, match="only dynamically provisioned pvc can be resized"):
        await storage.client.patch(PERSISTENTVOLUMECLAIMS, "stiff", bigger, "default")
    await storage.client.patch(PERSISTENTVOLUMECLAIMS, "soft", bigger, "default")
    grown = await storage.claim_until(
        "soft", lambda c: c["status"]["capacity"] == {"storage": "5Gi"}
    )
    held = await storage.client.get(PERSISTENTVOLUMES, grown["spec"]["volumeName"])
    assert held["spec"]["capacity"] == {"storage": "5Gi"}
    assert await storage.told("soft", "VolumeResizeSuccessful") == "Resize volume succeeded"


def pod(name: str, *volumes: Object, **spec: Any) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [*volumes], **spec},
    }


@pytest.fixture
async def scheduled(storage):
    """The same with the real scheduler beside the controllers."""
    ready = asyncio.Event()
    running = asyncio.ensure_future(Scheduler(storage.client).run(ready))
    async with asyncio.timeout(15):
        await ready.wait()
    yield storage
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def bound_to_a_node(obj: Object) -> Any:
    return obj["spec"].get("nodeName")


async def test_a_pod_and_its_claim_find_a_node_together(scheduled):
    storage = scheduled
    await storage.node("a")
    await storage.node("b")
    await storage.class_("local", volumeBindingMode="WaitForFirstConsumer")
    await storage.claim("data", storageClassName="local")
    using = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    await storage.client.create(PODS, pod("first", using, nodeSelector={"kubernetes.io/hostname": "host-b"}), "default")  # fmt: skip
    first = await storage.world.get_until(PODS, "first", bound_to_a_node)
    assert first["spec"]["nodeName"] == "b"
    claimed = await storage.claim_until("data")
    assert claimed["metadata"]["annotations"][SELECTED] == "b"
    # Whoever comes later goes where the volume is.
    await storage.client.create(PODS, pod("second", using), "default")
    second = await storage.world.get_until(PODS, "second", bound_to_a_node)
    assert second["spec"]["nodeName"] == "b"


async def test_an_ephemeral_volume_gets_a_claim_of_its_pod(scheduled):
    storage = scheduled
    await storage.node("a")
    await storage.class_("local", volumeBindingMode="WaitForFirstConsumer")
    template = {"metadata": {"labels": {"of": "pod"}}, "spec": claim("x", storageClassName="local")["spec"]}  # fmt: skip
    using = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}
    made = await storage.client.create(PODS, pod("p", using), "default")
    await storage.world.get_until(PODS, "p", bound_to_a_node)
    claimed = await storage.claim_until("p-scratch")
    assert claimed["metadata"]["labels"] == {"of": "pod"}
    (owner,) = claimed["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == (
        "Pod", made["metadata"]["uid"], True,
    )  # fmt: skip


async def test_a_claim_of_somebody_else_is_not_taken(scheduled):
    storage = scheduled
    await storage.node("a")
    await storage.claim("p-scratch", storageClassName="")
    template = {"spec": claim("x", storageClassName="")["spec"]}
    using = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}
    await storage.client.create(PODS, pod("p", using), "default")
    said = await storage.told("p", "FailedScheduling")
    assert "PVC default/p-scratch was not created for pod default/p (pod is not owner)" in said


async def test_static_local_volumes_are_matched_with_the_pod(scheduled):
    storage = scheduled
    await storage.node("a")
    await storage.node("b")
    await storage.class_(
        "static", provisioner=persistent.NO_PROVISIONER, volumeBindingMode="WaitForFirstConsumer"
    )
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["host-b"]}
    near = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    await storage.volume("disk", storageClassName="static", nodeAffinity=near)
    await storage.volume_until("disk", in_phase("Available"))
    for name in ("one", "two"):
        await storage.claim(name, storageClassName="static")
        using = {"name": "v", "persistentVolumeClaim": {"claimName": name}}
        await storage.client.create(PODS, pod(f"pod-{name}", using), "default")
    placed = await storage.world.until(
        PODS, lambda found: [p for p in found if p["spec"].get("nodeName")]
    )
    assert [p["spec"]["nodeName"] for p in placed] == ["b"]
    other = {"pod-one": "pod-two", "pod-two": "pod-one"}[placed[0]["metadata"]["name"]]
    said = await storage.told(other, "FailedScheduling")
    assert "didn't find available persistent volumes to bind" in said


async def test_a_claim_for_one_pod(scheduled):
    storage = scheduled
    await storage.node("a")
    await storage.class_("local", volumeBindingMode="WaitForFirstConsumer")
    await storage.claim("data", storageClassName="local", accessModes=["ReadWriteOncePod"])
    using = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    for name in ("first", "second"):
        await storage.client.create(PODS, pod(name, using), "default")
        await storage.told(name, "Scheduled" if name == "first" else "FailedScheduling")
    said = await storage.told("second", "FailedScheduling")
    assert "ReadWriteOncePod access mode already in-use by another pod" in said
    await storage.client.delete(PODS, "first", "default", grace=0)
    await storage.world.get_until(PODS, "second", bound_to_a_node)
