"""The scheduling loop: takes waiting pods by priority, chooses a node, binds; keeps what does not fit until something changes.

A pod that fits nowhere waits in `parked` and is tried again when a node or a pod changes in its favour, not by a clock. A
binding is assumed in the snapshot before the API has answered, so the next pod already sees the node as it will be; it is
taken back when the API refuses. Bindings are under way side by side; events and statuses never hold one up.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from sampan.client.client import Client
from sampan.client.events import EventRecorder
from sampan.client.informer import Informer
from sampan.client.resources import (
    NAMESPACES,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODDISRUPTIONBUDGETS,
    PODS,
    STORAGECLASSES,
)
from sampan.kube import persistent
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, is_deleting, now, pod_finished
from sampan.kube.persistent import claims_of
from sampan.kube.types import GVR
from sampan.scheduler import preemption
from sampan.scheduler.pods import PodInfo, describe
from sampan.scheduler.snapshot import Snapshot, explain
from sampan.scheduler.volumebinding import VolumeBinder, VolumesNotBound
from sampan.scheduler.volumes import Plan

log = logging.getLogger(__name__)

Object = dict[str, Any]
NAME = "default-scheduler"
BINDERS = 64  # bindings under way at once
RETRY = 1.0  # seconds before a pod whose binding failed is tried again
VOLUME_KINDS = (PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, STORAGECLASSES)
INDEXES = {"available": persistent.available_class, "claim": persistent.claimed_by}
GATED = "Scheduling is blocked due to non-empty scheduling gates"


class Scheduler:
    def __init__(self, client: Client, name: str = NAME) -> None:
        self.client = client
        self.name = name
        self.snapshot = Snapshot()
        self.binder = VolumeBinder(client, self.snapshot.volumes)
        self.events = EventRecorder(client, name)
        self.pods = Informer(
            client, PODS, field_selector="status.phase!=Succeeded,status.phase!=Failed"
        )
        self.nodes = Informer(client, NODES)
        self.pods.add_handler(self.on_pod)
        self.nodes.add_handler(self.on_node)
        self.others: dict[GVR, Informer] = {}  # watched since a pod first needed them
        self.waiting: list[tuple[int, int, str]] = []  # heap of (-priority, order, uid)
        self.known: dict[str, PodInfo] = {}  # pods without a node, by uid
        self.parked: dict[str, PodInfo] = {}
        self.told: dict[str, str] = {}  # uid -> what was last said of why it waits
        self.order = itertools.count()
        self.wake = asyncio.Event()
        self.binding = asyncio.Semaphore(BINDERS)
        self.preempting = asyncio.Lock()
        self.group: asyncio.TaskGroup | None = None

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Schedule until cancelled. `ready` is set when the first picture of the cluster is complete."""
        async with asyncio.TaskGroup() as group:
            self.group = group
            self.events.start(group)
            self.nodes.start(group)
            self.pods.start(group)
            await self.nodes.synced()
            await self.pods.synced()
            if ready is not None:
                ready.set()
            while True:
                await self.wake.wait()
                self.wake.clear()
                while self.waiting:
                    _, _, uid = heapq.heappop(self.waiting)
                    pod = self.known.get(uid)
                    if pod is not None and uid not in self.parked:
                        await self.attempt(pod)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self.group is not None
        self.group.create_task(work)

    # What changes

    def on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        pod: Any = new or old
        uid = pod["metadata"]["uid"]
        if new is None or pod_finished(pod):
            self.lose(uid)
            if uid in self.snapshot.where:
                self.snapshot.forget(uid)
                self.unpark()
                self.binder.changed((pod["metadata"]["namespace"], n) for n in claims_of(pod))
            return
        if pod["spec"].get("nodeName"):
            unseen = uid not in self.snapshot.where
            self.lose(uid)
            self.snapshot.see_pod(pod)
            if unseen:
                self.unpark(neighbours=True)
            return
        if not self.is_mine(pod):
            self.lose(uid)
            return
        if pod["spec"].get("schedulingGates"):
            if (condition(pod, "PodScheduled") or {}).get("reason") != "SchedulingGated":
                self.spawn(self.say_waiting(describe(pod), "SchedulingGated", GATED))
            return
        if uid in self.snapshot.where:
            return  # assumed already
        fresh = describe(pod)
        known = self.known.get(uid)
        if known is not None and known.group is fresh.group:
            known.pod = pod  # only its status changed
            return
        nominated = (pod.get("status") or {}).get("nominatedNodeName")
        if nominated and known is None:
            self.snapshot.nominate(fresh, nominated)
        self.known[uid] = fresh
        self.parked.pop(uid, None)
        if fresh.group.claims or any(
            term.needs_namespaces
            for term in (
                *fresh.group.affinity,
                *fresh.group.anti_affinity,
                *fresh.group.preferred,
            )
        ):
            self.spawn(self.enqueue_prepared(fresh))
        else:
            self.enqueue(fresh)

    def lose(self, uid: str) -> None:
        """The pod does not wait for a node (any more)."""
        if self.known.pop(uid, None) is not None:
            self.parked.pop(uid, None)
            self.told.pop(uid, None)
        if self.snapshot.withdraw(uid) is not None:
            self.unpark()

    def is_mine(self, pod: Object) -> bool:
        return (pod["spec"].get("schedulerName") or NAME) == self.name and not is_deleting(pod)

    def on_node(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self.snapshot.remove_node(old["metadata"]["name"])
            self.unpark()
            return
        if old is None or relevant(old) != relevant(new):
            self.snapshot.set_node(new)
            self.unpark()

    def on_namespace(self, kind: str, old: Object | None, new: Object | None) -> None:
        """Answers that were remembered may be wrong now."""
        self.snapshot.namespaces = {
            obj["metadata"]["name"]: obj["metadata"].get("labels") or {}
            for obj in self.others[NAMESPACES].list()
        }
        self.snapshot.forget_answers()
        self.unpark()

    def on_volume(self, kind: str, old: Object | None, new: Object | None) -> None:
        """A claim, a volume or a class changed: news for the pods of that claim, or of any that is not bound."""
        self.snapshot.forget_volumes()
        claims = {whose_claim(obj) for obj in (old, new) if obj is not None}
        self.binder.changed(claim for claim in claims if claim is not None)
        for uid, pod in list(self.parked.items()):
            group = pod.group
            if group.claims and (
                None in claims or any((group.namespace, name) in claims for name in group.claims)
            ):
                del self.parked[uid]
                self.enqueue(pod)

    async def enqueue_prepared(self, pod: PodInfo) -> None:
        """Enqueue a pod that needs more than pods and nodes, once that is known."""
        wanted = [*VOLUME_KINDS] if pod.group.claims else []
        if pod.group.looks_around or not wanted:
            wanted.append(NAMESPACES)
        for gvr in wanted:
            await self.other(gvr).synced()
        if self.known.get(pod.uid) is pod:
            self.enqueue(pod)

    def other(self, gvr: GVR) -> Informer:
        informer = self.others.get(gvr)
        if informer is None:
            assert self.group is not None
            informer = self.others[gvr] = Informer(
                self.client, gvr, indexes=INDEXES if gvr == PERSISTENTVOLUMES else None
            )
            volumes = self.snapshot.volumes
            if gvr == PERSISTENTVOLUMECLAIMS:
                volumes.claim = informer.get
            elif gvr == PERSISTENTVOLUMES:
                volumes.volume = partial(informer.get, "")
                volumes.find = informer.by_index
            elif gvr == STORAGECLASSES:
                volumes.storage_class = partial(informer.get, "")
            informer.add_handler(self.on_namespace if gvr == NAMESPACES else self.on_volume)
            informer.start(self.group)
        return informer

    def enqueue(self, pod: PodInfo) -> None:
        heapq.heappush(self.waiting, (-pod.priority, next(self.order), pod.uid))
        self.wake.set()

    def unpark(self, *, neighbours: bool = False) -> None:
        """Try parked pods again; with `neighbours`, those alone to whom a new pod somewhere can be good news."""
        if not self.parked:
            return
        for uid, pod in list(self.parked.items()):
            if not neighbours or pod.group.affinity or pod.group.spreads:
                del self.parked[uid]
                self.enqueue(pod)

    # What is done

    async def attempt(self, pod: PodInfo) -> None:
        """One pod that cannot be judged must not end the scheduler, and the server around it: it waits, like one that
        fits nowhere, until something changes.
        """
        try:
            await self.schedule(pod)
        except Exception:
            log.exception("%s/%s: cannot schedule", *pod.key)
            if pod.uid in self.known:
                self.parked[pod.uid] = pod

    async def schedule(self, pod: PodInfo) -> None:
        promised = self.snapshot.withdraw(pod.uid)  # its own promise must not stand in its way
        chosen, reasons, looked = self.snapshot.choose(pod)
        if chosen is None:
            if promised is not None:
                self.snapshot.nominate(pod, promised)
            self.parked[pod.uid] = pod
            self.spawn(self.settle_failure(pod, explain(reasons, looked)))
            return
        plan = self.promise_volumes(pod, chosen) if pod.group.claims else None
        self.snapshot.place(pod, chosen)
        self.known.pop(pod.uid, None)
        self.told.pop(pod.uid, None)
        if self.parked:
            self.unpark(neighbours=True)
        if plan:
            self.spawn(self.bind_with_volumes(pod, chosen, plan))
            return
        await self.binding.acquire()
        self.spawn(self.bind(pod, chosen))

    def promise_volumes(self, pod: PodInfo, node: str) -> Plan:
        """What has to be bound before the pod; for others it counts as taken from now on."""
        plan = self.snapshot.volumes.settle(pod.group, self.snapshot.nodes[node])
        assert isinstance(plan, Plan)  # or the node had not been chosen
        if plan:
            self.snapshot.volumes.promise(plan, node)
            self.snapshot.forget_volumes()
        return plan

    async def bind_with_volumes(self, pod: PodInfo, node: str, plan: Plan) -> None:
        """Volumes first. A pod waits for them beside the others: they may take minutes."""
        info = self.snapshot.nodes[node]
        why = ""
        try:
            await self.binder.bind(
                plan, (node, info.labels), lambda: pod.uid in self.snapshot.where
            )
        except (VolumesNotBound, ApiError) as error:
            why = error.message if isinstance(error, ApiError) else str(error)
        except Exception:
            log.exception("%s/%s: cannot bind its volumes", *pod.key)
            why = "internal error"
        finally:
            self.snapshot.volumes.release(plan)
        if not why:
            await self.binding.acquire()
            await self.bind(pod, node)
            return
        gone = pod.uid not in self.snapshot.where
        self.take_back(pod)
        if not gone:
            text = f'running PreBind plugin "VolumeBinding": {why}'
            self.events.event(pod.pod, "Warning", "FailedScheduling", text)
            asyncio.get_running_loop().call_later(RETRY, self.again, pod)

    async def bind(self, pod: PodInfo, node: str) -> None:
        namespace, name = pod.key
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self.client.create(PODS, binding, namespace, name=name, subresource="binding")
        except ApiError as error:
            self.take_back(pod)
            if error.code in (404, 409):  # gone, or bound by somebody else: the watch tells
                log.debug("%s/%s: not bound to %s: %s", namespace, name, node, error.message)
                return
            log.warning("%s/%s: cannot bind to %s: %s", namespace, name, node, error.message)
            self.events.event(
                pod.pod, "Warning", "FailedScheduling", f"binding rejected: {error.message}"
            )
            asyncio.get_running_loop().call_later(RETRY, self.again, pod)
        except Exception:
            self.take_back(pod)
            log.exception("%s/%s: cannot bind to %s", namespace, name, node)
            asyncio.get_running_loop().call_later(RETRY, self.again, pod)
        else:
            message = f"Successfully assigned {namespace}/{name} to {node}"
            self.events.event(pod.pod, "Normal", "Scheduled", message)
        finally:
            self.binding.release()

    def take_back(self, pod: PodInfo) -> None:
        """What was assumed did not come true. What the informer shows counts."""
        self.snapshot.forget(pod.uid)
        present = self.pods.get(*pod.key)
        if present is not None and present["metadata"]["uid"] == pod.uid:
            if present["spec"].get("nodeName"):
                self.snapshot.see_pod(present)
        self.unpark()

    def again(self, pod: PodInfo) -> None:
        """Try a pod once more, if it still is what it was."""
        present = self.pods.get(*pod.key)
        if present is not None and present["metadata"]["uid"] == pod.uid and self.is_mine(present):
            if not present["spec"].get("nodeName"):
                self.known[pod.uid] = pod
                self.enqueue(pod)

    async def settle_failure(self, pod: PodInfo, message: str) -> None:
        """Make room by preemption if that is possible, and tell the user why the pod waits."""
        try:
            async with self.preempting:
                if self.parked.get(pod.uid) is not pod:
                    return
                node, said = await self.preempt(pod)
            await self.say_waiting(pod, "Unschedulable", message + said, nominated=node)
        except ApiError as error:
            log.warning("%s/%s: cannot make room: %s", *pod.key, error.message)
        except Exception:
            log.exception("%s/%s: cannot make room", *pod.key)

    async def preempt(self, pod: PodInfo) -> tuple[str, str]:
        """(node where room is being made, or "", and what is said of the attempt)."""
        snapshot = self.snapshot
        if not snapshot.slots:
            return "", ""
        ineligible = preemption.not_eligible(snapshot, pod)
        if ineligible is not None:
            return snapshot.nominations.get(pod.uid, ""), f" preemption: {ineligible}"
        budgets: list[Object] = []
        if preemption.worth_trying(snapshot, pod):
            budgets = (await self.client.list(PODDISRUPTIONBUDGETS)).items
            if self.parked.get(pod.uid) is not pod:
                return "", ""
        snapshot.withdraw(pod.uid)
        plan, why = preemption.plan(snapshot, pod, budgets)
        if plan is None:
            return "", f" preemption: {why}"
        for name in [
            uid
            for uid, other in snapshot.nodes[plan.node].nominated.items()
            if other.priority < pod.priority
        ]:
            snapshot.withdraw(name)  # their promise is broken; they look for another place
        snapshot.nominate(pod, plan.node)
        await asyncio.gather(*(self.evict(pod, victim, plan.node) for victim in plan.victims))
        if not plan.victims and self.parked.pop(pod.uid, None) is not None:
            self.enqueue(pod)  # it fits already: the room came meanwhile
        return plan.node, ""

    async def evict(self, pod: PodInfo, victim: PodInfo, node: str) -> None:
        namespace, name = victim.key
        entry = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": f"{self.name}: preempting to accommodate a higher priority pod",
            "lastTransitionTime": now(),
        }
        patch = {"metadata": {"uid": victim.uid}, "status": {"conditions": [entry]}}
        try:
            if not victim.group.deleting:
                await self.client.patch(
                    PODS, name, patch, namespace, kind="strategic", subresource="status"
                )
                await self.client.delete(PODS, name, namespace, uid=victim.uid)
                text = f"Preempted by pod {pod.uid} on node {node}"
                self.events.event(victim.pod, "Normal", "Preempted", text)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def say_waiting(
        self, pod: PodInfo, reason: str, message: str, *, nominated: str = ""
    ) -> None:
        """PodScheduled=False, and an event when it is news."""
        status = (self.pods.get(*pod.key) or pod.pod).get("status") or {}
        said = f"{nominated}|{message}"
        if self.told.get(pod.uid) == said:
            return
        if pod.uid in self.known:
            self.told[pod.uid] = said
        if reason == "Unschedulable":
            self.events.event(pod.pod, "Warning", "FailedScheduling", message)
        present: Object = condition({"status": status}, "PodScheduled") or {}
        was = present.get("status"), present.get("reason"), present.get("message")
        if was == ("False", reason, message) and status.get("nominatedNodeName", "") == nominated:
            return
        entry = {
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "lastTransitionTime": present.get("lastTransitionTime")
            if present.get("status") == "False"
            else now(),
        }
        changed: Object = {"conditions": [entry]}
        if nominated or status.get("nominatedNodeName"):
            changed["nominatedNodeName"] = nominated or None
        patch = {"metadata": {"uid": pod.uid}, "status": changed}
        namespace, name = pod.key
        try:
            await self.client.patch(
                PODS, name, patch, namespace, kind="strategic", subresource="status"
            )
        except ApiError as error:
            if error.code not in (404, 409):
                log.warning("%s/%s: cannot say why it waits: %s", *pod.key, error.message)
        except Exception:
            log.exception("%s/%s: cannot say why it waits", *pod.key)


def whose_claim(obj: Object) -> tuple[str, str] | None:
    """The claim that a change of a claim or volume concerns; None: it may be any."""
    wanted = obj["metadata"] if "namespace" in obj["metadata"] else None
    if wanted is None:
        wanted = (obj.get("spec") or {}).get("claimRef")
    return (wanted.get("namespace", ""), wanted.get("name", "")) if wanted else None


def relevant(node: Object) -> tuple[Any, ...]:
    """What of a node decides about pods; a heartbeat changes none of it."""
    status = node.get("status") or {}
    spec = node["spec"]
    images = [image.get("names") for image in status.get("images") or ()]
    return (
        node["metadata"].get("labels"),
        spec.get("taints"),
        spec.get("unschedulable"),
        status.get("allocatable"),
        images,
    )
