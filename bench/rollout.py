"""Deployments of a running cluster, timed over HTTPS: created, scaled up and down, behind a Service.

What came true, and when, is seen by one watch each of Deployments and of pods, so nothing is asked twice while the clock
runs. Both take their share of the two processors that the cluster runs on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

from bench import processes
from bench.boat import LONGEST, Boat
from bench.table import Figure, number, progress
from sampan.client.client import Client
from sampan.client.http import HTTPTransport
from sampan.client.informer import Informer
from sampan.client.kubeconfig import load
from sampan.client.resources import DEPLOYMENTS, PODS, SERVICES
from sampan.kube.types import GVR

NAMESPACE = "default"
MORE = 30  # pods that a scale adds
# kind: rolled out s, 30 more s, a pod's memory MB (of a container: without its program)
BUDGETS = {"wasm": (0.10, 0.5, 4.0), "container": (0.30, 2.5, 1.5)}
PROGRAMS = {"wasm": "", "container": "busybox"}  # what the image runs, as ps shows it

Object = dict[str, Any]


class Seen:
    """A collection as one watch shows it, and the moment at which something in it came true."""

    def __init__(self, client: Client, gvr: GVR) -> None:
        self.informer = Informer(client, gvr, NAMESPACE)
        self.informer.add_handler(self.changed)
        self.waiting: list[tuple[Callable[[], bool], asyncio.Future[float]]] = []

    def changed(self, *_: object) -> None:
        for check, future in self.waiting:
            if not future.done() and check():
                future.set_result(time.perf_counter())

    async def until(self, check: Callable[[], bool]) -> float:
        if check():
            return time.perf_counter()
        entry = (check, asyncio.get_running_loop().create_future())
        self.waiting.append(entry)
        try:
            async with asyncio.timeout(LONGEST):
                return await entry[1]
        finally:
            self.waiting.remove(entry)


class Bench:
    def __init__(self, boat: Boat, client: Client, deployments: Seen, pods: Seen) -> None:
        self.boat = boat
        self.client = client
        self.deployments = deployments
        self.pods = pods

    # States to wait for

    def available(self, kind: str, count: int) -> Callable[[], bool]:
        def check() -> bool:
            found = self.deployments.informer.get(NAMESPACE, kind) or {}
            return found.get("status", {}).get("availableReplicas", 0) == count

        return check

    def there(self, kind: str, count: int) -> Callable[[], bool]:
        def check() -> bool:
            found = self.pods.informer.list(NAMESPACE)
            return sum(pod["metadata"]["labels"].get("kind") == kind for pod in found) == count

        return check

    # Steps

    async def start(self, kind: str) -> float:
        """Seconds from the request to one replica available."""
        began = time.perf_counter()
        await self.client.create(DEPLOYMENTS, deployment(kind), NAMESPACE)
        return await self.deployments.until(self.available(kind, 1)) - began

    async def scale(self, kind: str, count: int) -> float:
        began = time.perf_counter()
        await self.client.patch(DEPLOYMENTS, kind, {"spec": {"replicas": count}}, NAMESPACE)
        return await self.deployments.until(self.available(kind, count)) - began

    async def fewer(self, kind: str, count: int) -> float:
        """Seconds until no other pod is left."""
        began = time.perf_counter()
        await self.client.patch(DEPLOYMENTS, kind, {"spec": {"replicas": count}}, NAMESPACE)
        return await self.pods.until(self.there(kind, count)) - began

    async def end(self, kind: str) -> None:
        await self.client.delete(DEPLOYMENTS, kind, NAMESPACE, propagation="Background")
        await self.pods.until(self.there(kind, 0))
        await self.deployments.until(lambda: not self.deployments.informer.get(NAMESPACE, kind))

    async def answer(self, kind: str) -> tuple[float, float]:
        """Seconds from the two requests until a replica is available, and until the Service answers."""
        began = time.perf_counter()
        service = await self.client.create(SERVICES, service_of(kind), NAMESPACE)
        ready = asyncio.create_task(self.start(kind))
        try:
            answered = await first_answer(service["spec"]["clusterIP"], 8080) - began
            return await ready, answered
        finally:
            ready.cancel()
            await self.client.delete(SERVICES, kind, NAMESPACE)

    # Figures

    async def rollouts(self, kind: str, count: int) -> list[Figure]:
        progress(f"{kind}: {count} rollouts")
        await self.start(kind)  # compiles or unpacks the image
        await self.end(kind)
        times, answers = [], []
        before = self.spent()
        for _ in range(count):
            times.append(await self.start(kind))
            await self.end(kind)
        costs = shares([difference(before, self.spent())], count)
        for _ in range(max(3, count // 2)):
            answers.append(await self.answer(kind))
            await self.end(kind)
        answered, ready = median(a for _, a in answers), median(r for r, _ in answers)
        note = f"{spread(times)}; processor with its end: {costs}"
        return [
            Figure(f"{kind}: Deployment created → available", median(times), "s", BUDGETS[kind][0], False, note=note),
            Figure(f"{kind}: Deployment and Service created → first answer", answered, "s", least=False,
                   note=f"{number(ready)} until available"),
        ]  # fmt: skip

    async def scales(self, kind: str, count: int) -> list[Figure]:
        progress(f"{kind}: {count} times {MORE} pods more, and fewer")
        _, scaled, size = BUDGETS[kind]
        await self.start(kind)
        ups, downs, sizes, besides, costs = [], [], [], [], []
        hidden = 0  # processes whose memory we may not read
        for _ in range(count):
            before, spent = self.boat.pids(), self.spent()
            whole, rest = memory(before), memory(before, PROGRAMS[kind])
            ups.append(await self.scale(kind, 1 + MORE))
            after = self.boat.pids()
            costs.append(difference(spent, self.spent()))
            hidden = max(hidden, sum(not processes.pss(pid) for pid in after - before))
            sizes.append((memory(after) - whole) / MORE)
            besides.append((memory(after, PROGRAMS[kind]) - rest) / MORE)
            downs.append(await self.fewer(kind, 1))
        await self.end(kind)
        note = f"{spread(ups)}; processor: {shares(costs)}"
        figures = [
            Figure(f"{kind}: +{MORE} pods", median(ups), "s", scaled, False, note=note),
            Figure(f"{kind}: −{MORE} pods, until gone", median(downs), "s", least=False, note=spread(downs)),
        ]  # fmt: skip
        what = f"all processes, by {MORE} pods; the first time"
        if hidden >= MORE:
            return figures
        if not PROGRAMS[kind]:
            return [
                *figures,
                Figure(f"{kind}: memory of a pod", sizes[0], "MB", size, False, note=what),
            ]
        note = f"{number(sizes[0])} with the program; {what}"
        return [
            *figures,
            Figure(
                f"{kind}: memory of a pod beside its program",
                besides[0],
                "MB",
                size,
                False,
                note=note,
            ),
        ]

    def spent(self) -> dict[str, float]:
        return processes.seconds_by_name(self.boat.pids())


def memory(pids: set[int], besides: str = "") -> float:
    """MB; `besides`: the name of a program that does not count."""
    return (
        sum(processes.pss(p) for p in pids if not besides or processes.command(p) != besides) / 1024
    )


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """By name; what ended meanwhile is with whoever waited for it."""
    return {name: max(0.0, value - before.get(name, 0.0)) for name, value in after.items()}


def shares(costs: Sequence[dict[str, float]], times: int = 1) -> str:
    """The median of seconds by name, in words: whole, then the names that took most."""
    names = {name for cost in costs for name in cost}
    each = {name: median(cost.get(name, 0.0) for cost in costs) / times for name in names}
    most = sorted(each.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{name.removeprefix('sampan-')} {number(value)}" for name, value in most)
    return f"{number(sum(each.values()))} s ({parts})"


def spread(times: Sequence[float]) -> str:
    return f"best {number(min(times))}, worst {number(max(times))} of {len(times)}"


def deployment(kind: str) -> Object:
    """The example's container without anything else, so that what is measured is ours."""
    labels = {"app": "bench", "kind": kind}
    container = {"name": "hello", "image": f"hello:{kind}", "ports": [{"containerPort": 8080}]}
    pod = {"runtimeClassName": kind, "containers": [container], "terminationGracePeriodSeconds": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": kind, "labels": labels},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service_of(kind: str) -> Object:
    spec = {"selector": {"kind": kind}, "ports": [{"port": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": kind}, "spec": spec}


async def first_answer(address: str, port: int) -> float:
    """The moment of the first HTTP 200. A packet sent before the address is known is lost and holds its connection up for
    a second, so that another is tried every few milliseconds."""
    attempts: set[asyncio.Task[bool]] = set()
    try:
        async with asyncio.timeout(LONGEST):
            while True:
                attempts.add(asyncio.create_task(answers(address, port)))
                await asyncio.sleep(0.005)
                done = {attempt for attempt in attempts if attempt.done()}
                if any(attempt.result() for attempt in done):
                    return time.perf_counter()
                attempts -= done
    finally:
        for attempt in attempts:
            attempt.cancel()
        await asyncio.gather(*attempts, return_exceptions=True)


async def answers(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(b"GET / HTTP/1.0\r\nHost: bench\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


@asynccontextmanager
async def connected(boat: Boat) -> AsyncIterator[Bench]:
    client = Client(HTTPTransport(load(boat.data / "kubeconfig.yaml")))
    deployments, pods = Seen(client, DEPLOYMENTS), Seen(client, PODS)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [seen.informer.start(group) for seen in (deployments, pods)]
            async with asyncio.timeout(LONGEST):
                await deployments.informer.synced()
                await pods.informer.synced()
            try:
                yield Bench(boat, client, deployments, pods)
            finally:
                for task in tasks:
                    task.cancel()
    finally:
        await client.close()
