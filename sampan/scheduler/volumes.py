"""Volumes: a pod goes where its volumes are, or where they can be had. Reads claims, volumes and classes, as far as a pod
names any claim.

A bound volume's node affinity and zone decide. A claim whose class waits for its first pod is matched node by node with the
volumes that are there, or provisioned for the node, if its class can be (KEP-490). Everything else that is not bound keeps
its pod waiting and says so, in kube-scheduler's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sampan.kube import objects, persistent
from sampan.kube.objects import is_deleting

if TYPE_CHECKING:
    from sampan.scheduler.nodes import NodeInfo
    from sampan.scheduler.pods import PodClass, PodInfo

Object = dict[str, Any]
ClaimKey = tuple[str, str]

CONFLICT = "node(s) had volume node affinity conflict"
NO_ZONE = "node(s) had no available volume zone"
NOTHING_TO_BIND = "node(s) didn't find available persistent volumes to bind"
ALREADY_USED = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use "
    "by another pod"
)
UNBOUND = "pod has unbound immediate PersistentVolumeClaims"


@dataclass(slots=True)
class Plan:
    """What has to be done before a pod is bound to a node."""

    match: list[tuple[Object, Object]] = field(default_factory=list)  # claim, volume
    provision: list[Object] = field(default_factory=list)  # claims

    def __bool__(self) -> bool:
        return bool(self.match or self.provision)

    def claims(self) -> list[Object]:
        return [*(claim for claim, _ in self.match), *self.provision]


class Volumes:
    """The callables give the objects, or None; they are set when the first pod with a claim is seen."""

    def __init__(self) -> None:
        self.claim: Callable[[str, str], Object | None] = lambda namespace, name: None
        self.volume: Callable[[str], Object | None] = lambda name: None
        self.storage_class: Callable[[str], Object | None] = lambda name: None
        # (index, value) → volumes; indexes `available` by class and `claim` by whom they name
        self.find: Callable[[str, str], Iterable[Object]] = lambda index, value: ()
        # What pods that are being bound were promised, until the objects show it.
        self.promised: dict[str, ClaimKey] = {}  # volume → claim
        self.assigned: dict[ClaimKey, str] = {}  # claim → node that its volume is made for

    def problem(self, pod: PodInfo) -> str | None:
        """Why the pod can run nowhere at all; None when its volumes are there, or depend on the node."""
        for name in pod.group.claims:
            found = self.problem_of(pod, name)
            if found is not None:
                return found
        return None

    def problem_of(self, pod: PodInfo, name: str) -> str | None:
        group = pod.group
        claim = self.claim(group.namespace, name)
        if claim is None:
            what = f'persistentvolumeclaim "{name}"'
            if name in group.ephemeral:
                return f"waiting for ephemeral volume controller to create the {what}"
            return f"{what} not found"
        if name in group.ephemeral and not persistent.made_for(claim, pod.pod):
            place = group.namespace
            return f"PVC {place}/{name} was not created for pod {place}/{pod.key[1]} (pod is not owner)"
        if is_deleting(claim):
            return f'persistentvolumeclaim "{name}" is being deleted'
        bound = claim["spec"].get("volumeName")
        if (claim.get("status") or {}).get("phase") == "Lost":
            return (
                f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{bound}"'
            )
        if persistent.is_bound(claim):
            return None if self.volume(bound) else f'persistentvolume "{bound}" not found'
        storage_class = self.storage_class(persistent.class_of(claim))
        if bound or not persistent.waits_for_pod(storage_class):
            return UNBOUND
        return None

    def for_one_pod(self, group: PodClass) -> list[str]:
        """Claims that no second pod may use (KEP-2485)."""
        return [
            name
            for name in group.claims
            if (claim := self.claim(group.namespace, name)) is not None
            and persistent.ONE_POD in persistent.modes_of(claim)
        ]

    def refusal(self, group: PodClass, info: NodeInfo) -> str | None:
        settled = self.settle(group, info)
        return settled if isinstance(settled, str) else None

    def settle(self, group: PodClass, info: NodeInfo) -> Plan | str:
        """What it takes to have the pod's volumes on this node, or why they cannot be there."""
        place = info.name, info.labels
        unbound = []
        for name in group.claims:
            claim = self.claim(group.namespace, name)
            if claim is None:
                continue
            if not persistent.is_bound(claim):
                unbound.append(claim)
                continue
            volume = self.volume(claim["spec"]["volumeName"])
            if volume is not None and not persistent.reachable(volume, place):
                return CONFLICT
            if volume is not None and not persistent.in_zone(volume, info.labels):
                return NO_ZONE
        plan = Plan()
        for claim in sorted(unbound, key=lambda claim: persistent.asked_by(claim).nanos()):
            if not self.settle_claim(claim, info, plan):
                return NOTHING_TO_BIND
        return plan

    def settle_claim(self, claim: Object, info: NodeInfo, plan: Plan) -> bool:
        """Add to the plan what this claim needs; False when it cannot be had on the node."""
        key = key_of(claim)
        chosen = objects.annotations(claim).get(persistent.SELECTED_NODE) or self.assigned.get(key)
        if chosen:
            plan.provision.append(claim)
            return chosen == info.name
        name = persistent.class_of(claim)
        taken = {volume for volume, whose in self.promised.items() if whose != key}
        taken |= {volume["metadata"]["name"] for _, volume in plan.match}
        volume = persistent.best(
            claim,
            [*self.find("claim", "/".join(key)), *self.find("available", name)],
            place=(info.name, info.labels),
            taken=taken,
        )
        if volume is not None:
            plan.match.append((claim, volume))
            return True
        storage_class = self.storage_class(name)
        if storage_class is None or not can_provision(storage_class, info):
            return False
        plan.provision.append(claim)
        return True

    def promise(self, plan: Plan, node: str) -> None:
        for claim, volume in plan.match:
            self.promised[volume["metadata"]["name"]] = key_of(claim)
        for claim in plan.provision:
            self.assigned[key_of(claim)] = node

    def release(self, plan: Plan) -> None:
        """The objects show it by now, or it will not be."""
        for _, volume in plan.match:
            self.promised.pop(volume["metadata"]["name"], None)
        for claim in plan.provision:
            self.assigned.pop(key_of(claim), None)


def key_of(claim: Object) -> ClaimKey:
    return claim["metadata"]["namespace"], claim["metadata"]["name"]


def can_provision(storage_class: Object, info: NodeInfo) -> bool:
    provisioner = storage_class.get("provisioner")
    if provisioner == persistent.LOCAL_PATH and info.node is not None:
        if persistent.LOCAL_PATH not in objects.annotations(info.node):
            return False
    return provisioner != persistent.NO_PROVISIONER and persistent.allows(
        storage_class, (info.name, info.labels)
    )
