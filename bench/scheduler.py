"""Scheduler and controllers beside their budgets: everything in one process, each write on disk before it counts.

    python -m bench.scheduler [--nodes 1000] [--pods 3000] [--scale 500] [--profile FILE]

The budget's case first: pods wait, the scheduler starts, the clock stops at the last binding. Then pods that come while it
runs, the time of a single pod from its creation to its binding, and a Deployment scaled up from zero.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.table import Figure, show
from sampan import controllers
from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.client import Client
from sampan.client.inprocess import InProcess
from sampan.client.resources import DEPLOYMENTS, NODES, PODS, SERVICEACCOUNTS
from sampan.client.transport import User
from sampan.scheduler.pods import describe
from sampan.scheduler.scheduler import Scheduler
from sampan.scheduler.snapshot import Snapshot
from sampan.store.sqlite import SQLiteStore

ADMIN = User("bench", ("system:masters", "system:authenticated"))
WRITERS = 64
SINGLE = 50  # pods whose latency is measured one by one
DEADLINE = 300.0

Object = dict[str, Any]


@asynccontextmanager
async def cluster(nodes: int) -> AsyncIterator[Client]:
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory:
        path = Path(directory)
        store = await SQLiteStore.open(path / "state.db")
        server = APIServer(store, ServerConfig(path / "pki", path / "kubeconfig.yaml", port=0))
        await server.start(serve=False)
        client = Client(InProcess(server, ADMIN))
        try:
            account = {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default"},
            }
            await client.create(SERVICEACCOUNTS, account, "default")
            await every(nodes, lambda i: join(client, node(i)))
            yield client
        finally:
            await server.close()
            await store.close()


async def every(count: int, make: Any) -> None:
    """`make(i)` for each i, `WRITERS` at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await make(number)

    await asyncio.gather(*(worker() for _ in range(WRITERS)))


async def join(client: Client, joining: Object) -> None:
    """Admission taints a new node `not-ready`; what would take that away is not what is measured."""
    created = await client.create(NODES, joining)
    await client.update(NODES, {**created, "spec": {}})


def node(index: int) -> Object:
    name = f"node-{index}"
    zone = f"zone-{index % 3}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone},
        },
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    }


def template() -> Object:
    resources = {"requests": {"cpu": "100m", "memory": "500Mi"}}
    container = {"name": "main", "image": "registry.example/app:1", "resources": resources}
    return {"metadata": {"labels": {"app": "bench"}}, "spec": {"containers": [container]}}


def pod(name: str) -> Object:
    metadata = {"name": name, "namespace": "default", "labels": {"app": "bench"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template()["spec"]}


class Bound:
    """Counts bindings as the scheduler's informer shows them."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.count = 0
        self.changed = asyncio.Event()
        scheduler.pods.add_handler(self.on_pod)

    def on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is not None and new["spec"].get("nodeName"):
            if old is None or not old["spec"].get("nodeName"):
                self.count += 1
                self.changed.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.count < count:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def task_of(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def backlog(nodes: int, pods: int, profile: str) -> float:
    async with cluster(nodes) as client:
        await every(pods, lambda i: client.create(PODS, pod(f"pod-{i}")))
        scheduler = Scheduler(client)
        bound = Bound(scheduler)
        profiler = None
        if profile:
            import cProfile

            profiler = cProfile.Profile()
            profiler.enable()
        began = time.perf_counter()
        async with task_of(scheduler.run()):
            await bound.reach(pods)
            took = time.perf_counter() - began
        if profiler:
            profiler.disable()
            profiler.dump_stats(profile)
        return pods / took


async def arriving(nodes: int, pods: int) -> tuple[float, float, float]:
    """(pods/s while they come; median seconds of one alone: until its creation is answered, until it is bound)."""
    async with cluster(nodes) as client:
        scheduler = Scheduler(client)
        bound = Bound(scheduler)
        ready = asyncio.Event()
        async with task_of(scheduler.run(ready)):
            await ready.wait()
            began = time.perf_counter()
            await every(pods, lambda i: client.create(PODS, pod(f"pod-{i}")))
            await bound.reach(pods)
            rate = pods / (time.perf_counter() - began)
            await scheduler.events.flush()
            answered, times = [], []
            for index in range(SINGLE):
                began = time.perf_counter()
                await client.create(PODS, pod(f"single-{index}"))
                answered.append(time.perf_counter() - began)
                await bound.reach(pods + index + 1)
                times.append(time.perf_counter() - began)
                await scheduler.events.flush()
            return rate, statistics.median(answered), statistics.median(times)


def decisions(nodes: int, pods: int) -> float:
    """Decisions per second of processor time, without any API."""
    snapshot = Snapshot()
    for index in range(nodes):
        snapshot.set_node({**node(index), "spec": {}})
    waiting = [pod(f"pod-{index}") for index in range(pods)]
    for index, item in enumerate(waiting):
        item["metadata"]["uid"] = str(index)
    snapshot.choose(describe(waiting[0]))
    began = time.process_time()
    for item in waiting:
        info = describe(item)
        chosen = snapshot.choose(info).node
        assert chosen is not None
        snapshot.place(info, chosen)
    return pods / (time.process_time() - began)


async def scale(count: int) -> float:
    """Pods per second that a Deployment makes when it is scaled from 0."""
    async with cluster(1) as client:
        ready = asyncio.Event()
        async with task_of(controllers.run(client, ready=ready)):
            await ready.wait()
            deployment = {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {
                    "replicas": 0,
                    "selector": {"matchLabels": {"app": "bench"}},
                    "template": template(),
                },
            }
            created = await client.create(DEPLOYMENTS, deployment)
            version = created["metadata"]["resourceVersion"]
            seen = 0
            async with asyncio.timeout(DEADLINE):
                await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": count}}, "default")
                began = time.perf_counter()
                async for event in client.watch(PODS, "default", resource_version=version):
                    seen += event.type == "ADDED"
                    if seen == count:
                        break
            return count / (time.perf_counter() - began)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=3000)
    parser.add_argument("--scale", type=int, default=500)
    parser.add_argument("--profile", default="")
    options = parser.parse_args()
    waiting = await backlog(options.nodes, options.pods, options.profile)
    coming, answered, single = await arriving(options.nodes, options.pods)
    created = await scale(options.scale)
    what = f"{options.pods:,} pods on {options.nodes:,} nodes"
    show(
        "Scheduler and controllers",
        [
            Figure(f"schedule {what}", waiting, "pods/s", 1500, note="bindings on disk"),
            Figure("decisions alone", decisions(options.nodes, options.pods), "pods/s"),
            Figure(f"create and schedule {what}", coming, "pods/s"),
            Figure(
                "one pod, sent → bound",
                single * 1000,
                "ms",
                2,
                least=False,
                note=f"two durable writes; {answered * 1000:.2g} ms until its creation was answered",
            ),
            Figure(f"Deployment 0 → {options.scale}: pods created", created, "pods/s"),
        ],
    )


if __name__ == "__main__":
    try:
        import uvloop

        uvloop.run(main())
    except ImportError:
        asyncio.run(main())
