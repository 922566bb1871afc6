"""What claims mean for the choice of a node: decisions without a server, and the scheduler's words with one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from sampan.client.resources import PERSISTENTVOLUMECLAIMS, PRIORITYCLASSES
from sampan.kube import persistent
from sampan.scheduler import preemption
from sampan.scheduler.pods import describe
from sampan.scheduler.snapshot import Snapshot
from sampan.scheduler.volumes import (
    ALREADY_USED,
    CONFLICT,
    NO_ZONE,
    NOTHING_TO_BIND,
    UNBOUND,
    Plan,
)

Object = dict[str, Any]
ZONE = "topology.kubernetes.io/zone"


class World:
    """Two nodes in two zones, and whatever claims, volumes and classes a test puts there."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        for name, zone in (("a", "north"), ("b", "south")):
            self.snapshot.set_node(
                {
                    "metadata": {"name": name, "labels": {ZONE: zone}},
                    "spec": {},
                    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"}},
                }
            )
        self.claims: dict[str, Object] = {}
        self.pvs: dict[str, Object] = {}
        self.classes: dict[str, Object] = {}
        volumes = self.snapshot.volumes
        volumes.claim = lambda namespace, name: self.claims.get(name)
        volumes.volume = self.pvs.get
        volumes.storage_class = self.classes.get
        indexes = {"available": persistent.available_class, "claim": persistent.claimed_by}
        volumes.find = lambda index, value: [
            each for each in self.pvs.values() if value in indexes[index](each)
        ]

    def claim(self, name: str, bound: str = "", mode: str = "ReadWriteOnce", **spec: Any) -> None:
        self.claims[name] = {
            "metadata": {"namespace": "default", "name": name, "uid": name, "annotations": {}},
            "spec": {
                "accessModes": [mode],
                "resources": {"requests": {"storage": "1Gi"}},
                **({"volumeName": bound} if bound else {}),
                **spec,
            },
            "status": {"phase": "Bound" if bound else "Pending"},
        }

    def volume(self, name: str, node: str = "", zone: str = "", **spec: Any) -> None:
        if node:
            field = {"key": "metadata.name", "operator": "In", "values": [node]}
            term = {"matchFields": [field]}
            spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [term]}}
        self.pvs[name] = {
            "metadata": {"name": name, "labels": {ZONE: zone} if zone else {}},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], **spec},
            "status": {"phase": "Available"},
        }

    def class_(self, name: str, provisioner: str = "csi.example.com", **fields: Any) -> None:
        binding = {"volumeBindingMode": "WaitForFirstConsumer"}
        self.classes[name] = {
            "metadata": {"name": name},
            "provisioner": provisioner,
            **binding,
            **fields,
        }

    def choose(self, *claims: str, **volumes: Any) -> tuple[str | None, Counter[str]]:
        pod = self.pod("p", *claims, **volumes)
        self.snapshot.forget_volumes()
        return self.snapshot.choose(describe(pod))[:2]

    def pod(self, name: str, *claims: str, ephemeral: str = "", priority: int = 0) -> Object:
        volumes: list[Object] = [
            {"name": each, "persistentVolumeClaim": {"claimName": each}} for each in claims
        ]
        if ephemeral:
            volumes.append({"name": ephemeral, "ephemeral": {}})
        return {
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {
                "containers": [{"name": "c", "image": "i"}],
                "volumes": volumes,
                "priority": priority,
            },
        }


@pytest.fixture
def world() -> World:
    return World()


def test_a_pod_goes_where_its_volumes_are(world: World) -> None:
    world.volume("v", node="b")
    world.claim("c", bound="v")
    assert world.choose("c")[0] == "b"
    world.volume("w", zone="north")
    world.claim("d", bound="w")
    assert world.choose("d")[0] == "a"
    assert world.choose("c", "d") == (None, Counter({CONFLICT: 1, NO_ZONE: 1}))


def test_volumes_that_wait_for_the_pod_are_matched_on_its_node(world: World) -> None:
    world.class_("static", provisioner=persistent.NO_PROVISIONER)
    world.claim("c", storageClassName="static")
    assert world.choose("c") == (None, Counter({NOTHING_TO_BIND: 2}))
    world.volume("v", node="b", storageClassName="static")
    assert world.choose("c")[0] == "b"
    world.claim("d", storageClassName="static")
    assert world.choose("c", "d") == (None, Counter({NOTHING_TO_BIND: 2}))  # one volume, two claims
    world.volume("w", node="b", storageClassName="static")
    info = world.snapshot.nodes["b"]
    plan = world.snapshot.volumes.settle(describe(world.pod("p", "c", "d")).group, info)
    assert isinstance(plan, Plan)
    assert sorted(volume["metadata"]["name"] for _, volume in plan.match) == ["v", "w"]


def test_what_is_promised_is_nobody_elses(world: World) -> None:
    world.class_("static", provisioner=persistent.NO_PROVISIONER)
    world.volume("v", storageClassName="static")
    for name in ("c", "d"):
        world.claim(name, storageClassName="static")
    volumes = world.snapshot.volumes
    plan = volumes.settle(describe(world.pod("p", "c")).group, world.snapshot.nodes["a"])
    assert isinstance(plan, Plan)
    volumes.promise(plan, "a")
    assert world.choose("d") == (None, Counter({NOTHING_TO_BIND: 2}))
    volumes.release(plan)
    assert world.choose("d")[0] is not None


def test_a_claim_that_is_being_provisioned_draws_its_pods(world: World) -> None:
    world.class_("made")
    world.claim("c", storageClassName="made")
    assert world.choose("c")[0] == "a"
    world.claims["c"]["metadata"]["annotations"][persistent.SELECTED_NODE] = "b"
    assert world.choose("c")[0] == "b"


def test_where_a_class_can_provision(world: World) -> None:
    term = {"matchLabelExpressions": [{"key": ZONE, "values": ["south"]}]}
    world.class_("zonal", allowedTopologies=[term])
    world.claim("c", storageClassName="zonal")
    assert world.choose("c")[0] == "b"
    world.class_("ours", provisioner=persistent.LOCAL_PATH)
    world.claim("d", storageClassName="ours")
    assert world.choose("d") == (None, Counter({NOTHING_TO_BIND: 2}))  # neither keeps directories
    node = world.snapshot.nodes["b"].node
    assert node is not None
    marks = {"annotations": {persistent.LOCAL_PATH: "/storage"}}
    world.snapshot.set_node({**node, "metadata": {**node["metadata"], **marks}})
    assert world.choose("d")[0] == "b"


@pytest.mark.parametrize(
    ("status", "spec", "why"),
    [
        ({}, {}, UNBOUND),
        ({}, {"volumeName": "v"}, UNBOUND),
        (
            {"phase": "Lost"}, {"volumeName": "v"},
            'persistentvolumeclaim "c" bound to non-existent persistentvolume "v"',
        ),
        ({"phase": "Bound"}, {"volumeName": "v"}, 'persistentvolume "v" not found'),
    ],
)  # fmt: skip
def test_claims_for_which_no_node_will_do(
    world: World, status: Object, spec: Object, why: str
) -> None:
    world.claim("c", **spec)
    world.claims["c"]["status"] = status
    assert world.choose("c") == (None, Counter({why: 0}))


def test_an_ephemeral_volume_waits_for_its_claim(world: World) -> None:
    found = world.choose(ephemeral="e")[1]
    (why,) = found
    assert why == (
        'waiting for ephemeral volume controller to create the persistentvolumeclaim "p-e"'
    )


def test_one_pod_alone_and_who_may_take_its_place(world: World) -> None:
    world.volume("v", accessModes=["ReadWriteOncePod"])
    world.claim("c", bound="v", mode="ReadWriteOncePod")
    user = describe(world.pod("user", "c"))
    world.snapshot.place(user, "a")
    assert world.choose("c") == (None, Counter({ALREADY_USED: 2}))
    vip = describe(world.pod("vip", "c", priority=10))
    plan, _ = preemption.plan(world.snapshot, vip, [])
    assert plan is not None
    assert (plan.node, plan.victims) == ("a", [user])


async def test_a_missing_claim_cannot_be_preempted(cluster) -> None:
    """And the scheduler does not try for ever, though pods of lower priority are there."""
    made = {"metadata": {"name": "high"}, "value": 1000}
    await cluster.client.create(PRIORITYCLASSES, made)
    await cluster.node("a")
    await cluster.pod("low")
    await cluster.bound("low")
    using = {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}
    await cluster.pod("vip", volumes=[using], priorityClassName="high")
    assert await cluster.waits("vip") == (
        '0/1 nodes are available: persistentvolumeclaim "data" not found. preemption: '
        "0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"metadata": {"name": "data"}, "spec": spec}
    await cluster.client.create(PERSISTENTVOLUMECLAIMS, claim, "default")
    assert (await cluster.waits("vip", UNBOUND)).startswith(f"0/1 nodes are available: {UNBOUND}.")
