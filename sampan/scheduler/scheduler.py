"""The scheduling loop: takes waiting pods by priority, chooses a node, binds; keeps what does not fit until something changes.

A pod that fits nowhere waits in `parked` and is tried again when a node or a pod changes in its favour, not by a clock. A
binding is assumed in the snapshot before the API has answered, so the next pod already sees the node as it will be; it is
taken back when the API refuses.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from typing import Any

from sampan.client.client import Client
from sampan.client.events import EventRecorder
from sampan.client.informer import Informer
from sampan.client.resources import NODES, PODS
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, is_deleting, now, pod_finished
from sampan.scheduler.pods import PodInfo, describe
from sampan.scheduler.snapshot import Snapshot, explain

log = logging.getLogger(__name__)

Object = dict[str, Any]
NAME = "default-scheduler"
BINDERS = 16  # bindings under way at once
RETRY = 1.0  # seconds before a pod whose binding failed is tried again


class Scheduler:
    def __init__(self, client: Client, name: str = NAME) -> None:
        self.client = client
        self.name = name
        self.snapshot = Snapshot()
        self.events = EventRecorder(client, name)
        self.pods = Informer(
            client, PODS, field_selector="status.phase!=Succeeded,status.phase!=Failed"
        )
        self.nodes = Informer(client, NODES)
        self.pods.add_handler(self.on_pod)
        self.nodes.add_handler(self.on_node)
        self.waiting: list[tuple[int, int, str]] = []  # heap of (-priority, order, uid)
        self.known: dict[str, PodInfo] = {}  # pods without a node, by uid
        self.parked: set[str] = set()
        self.order = itertools.count()
        self.wake = asyncio.Event()
        self.binding = asyncio.Semaphore(BINDERS)

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Schedule until cancelled. `ready` is set when the first picture of the cluster is complete."""
        async with asyncio.TaskGroup() as group:
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
                        await self.schedule(group, pod)

    # What changes

    def on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        pod: Any = new or old
        uid = pod["metadata"]["uid"]
        if new is None or pod_finished(pod):
            self.known.pop(uid, None)
            self.parked.discard(uid)
            if uid in self.snapshot.where:
                self.snapshot.forget(uid)
                self.unpark()
            return
        if pod["spec"].get("nodeName"):
            self.known.pop(uid, None)
            self.parked.discard(uid)
            self.snapshot.see_pod(pod)
            return
        if not self.is_mine(pod):
            self.known.pop(uid, None)
            return
        if uid in self.snapshot.where or (old and uid in self.known and old["spec"] == pod["spec"]):
            return  # assumed already, or only its status changed
        self.known[uid] = describe(pod)
        self.parked.discard(uid)
        self.enqueue(uid)

    def is_mine(self, pod: Object) -> bool:
        spec = pod["spec"]
        return (
            (spec.get("schedulerName") or NAME) == self.name
            and not spec.get("schedulingGates")
            and not is_deleting(pod)
        )

    def on_node(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self.snapshot.remove_node(old["metadata"]["name"])
            return
        if old is None or relevant(old) != relevant(new):
            self.snapshot.set_node(new)
            self.unpark()

    def enqueue(self, uid: str) -> None:
        heapq.heappush(self.waiting, (-self.known[uid].priority, next(self.order), uid))
        self.wake.set()

    def unpark(self) -> None:
        for uid in self.parked:
            self.enqueue(uid)
        self.parked.clear()

    # What is done

    async def schedule(self, group: asyncio.TaskGroup, pod: PodInfo) -> None:
        chosen, reasons, looked = self.snapshot.choose(pod)
        if chosen is None:
            self.parked.add(pod.uid)
            await self.binding.acquire()
            group.create_task(self.report_failure(pod, explain(reasons, looked)))
            return
        self.snapshot.place(pod, chosen)
        self.known.pop(pod.uid, None)
        await self.binding.acquire()
        group.create_task(self.bind(pod, chosen))

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
            self.snapshot.forget(pod.uid)
            if error.code in (404, 409):  # gone, or bound by somebody else: the watch tells
                log.debug("%s/%s: not bound to %s: %s", namespace, name, node, error.message)
                return
            log.warning("%s/%s: cannot bind to %s: %s", namespace, name, node, error.message)
            self.events.event(
                pod.pod, "Warning", "FailedScheduling", f"binding rejected: {error.message}"
            )
            asyncio.get_running_loop().call_later(RETRY, self.again, pod)
        except Exception:
            self.snapshot.forget(pod.uid)
            log.exception("%s/%s: cannot bind to %s", namespace, name, node)
            asyncio.get_running_loop().call_later(RETRY, self.again, pod)
        else:
            message = f"Successfully assigned {namespace}/{name} to {node}"
            self.events.event(pod.pod, "Normal", "Scheduled", message)
        finally:
            self.binding.release()

    def again(self, pod: PodInfo) -> None:
        """Try a pod once more, if it still is what it was."""
        present = self.pods.get(*pod.key)
        if present is not None and present["metadata"]["uid"] == pod.uid and self.is_mine(present):
            if not present["spec"].get("nodeName"):
                self.known[pod.uid] = pod
                self.enqueue(pod.uid)

    async def report_failure(self, pod: PodInfo, message: str) -> None:
        try:
            self.events.event(pod.pod, "Warning", "FailedScheduling", message)
            present = condition(self.pods.get(*pod.key) or pod.pod, "PodScheduled") or {}
            if (present.get("status"), present.get("message")) == ("False", message):
                return
            entry = {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastTransitionTime": now(),
            }
            patch = {"metadata": {"uid": pod.uid}, "status": {"conditions": [entry]}}
            namespace, name = pod.key
            await self.client.patch(
                PODS, name, patch, namespace, kind="strategic", subresource="status"
            )
        except ApiError as error:
            if error.code not in (404, 409):
                log.warning("%s/%s: cannot say why it waits: %s", *pod.key, error.message)
        except Exception:
            log.exception("%s/%s: cannot say why it waits", *pod.key)
        finally:
            self.binding.release()


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
