"""A whole cluster by `sampan up`: how fast it starts, what it costs idle, and how fast one manifest becomes running pods.

    python -m bench.cluster [--starts 5] [--rollouts 10] [--scales 3] [--kind wasm --kind container]

The clock is outside: it starts with the command or the request, and stops when `up` says so or when a watch over HTTPS
shows the status. Images are on the node beforehand. As root everything runs in a network namespace of its own, this process
too; without root the cluster is rootless and has wasm only.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

from cluster import AS_ROOT, HELLO, ROOT, Cluster, free_port

from bench import processes
from bench.table import Figure, number, progress, show
from sampan.client.client import Client
from sampan.client.http import HTTPTransport
from sampan.client.informer import Informer
from sampan.client.kubeconfig import load
from sampan.client.resources import DEPLOYMENTS, LEASES, PODS, SERVICES
from sampan.kube.objects import parse_time
from sampan.kube.types import GVR

KINDS = ("wasm", "container") if AS_ROOT else ("wasm",)
NAMESPACE = "default"
MORE = 30  # pods that a scale adds
IDLE = 10.0  # seconds
LONGEST = 60.0  # seconds for any one step
# kind: rolled out s, 30 more s, a pod's memory MB (of a container: without its program)
BUDGETS = {"wasm": (0.10, 0.5, 4.0), "container": (0.30, 2.5, 1.5)}
PROGRAMS = {"wasm": "", "container": "busybox"}  # what the image runs, as ps shows it
STEPS = {"API server ready": "api", "node Ready": "node"}  # what `up` says

Object = dict[str, Any]


class Boat(Cluster):
    """The tests' cluster, in the network that this process is in already."""

    spent = 0.0  # seconds of processor time that its processes had taken when it was up

    def open_network(self) -> None:
        pass

    def up(self) -> dict[str, tuple[float, float]]:
        """Start it; step to seconds, by the clock here and by its own. Raises SystemExit when it does not start."""
        if not hasattr(self, "ports"):
            self.ports = (free_port(), free_port())
        port, node_port = map(str, self.ports)
        command = [sys.executable, "-u", "-m", "sampan", "up", "--data-dir", str(self.data)]
        command += ["--port", port, "--node-port", node_port, "--node-name", "boat"]
        command += ["--rootless"] if self.rootless else []
        born, began = time.time(), time.perf_counter()
        process = self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        watchdog = threading.Timer(LONGEST, process.kill)
        watchdog.start()
        assert process.stdout is not None
        steps, said = {}, []
        for line in process.stdout:
            took = time.perf_counter() - began
            said.append(line)
            for words, step in STEPS.items():
                if words in line:
                    steps[step] = (took, float(line.split()[0]))
        status = process.wait()
        watchdog.cancel()
        if status or len(steps) != len(STEPS):
            raise SystemExit(f"the cluster did not start:\n{''.join(said)}")
        self.spent = processes.seconds(self.pids())
        took, own = steps["node"]
        steps["node"] = (max(took, asyncio.run(self.renewed(born)) - born), own)
        return steps

    async def renewed(self, since: float) -> float:
        """When the node first renewed its lease after `since`: a Ready condition may be from an earlier run."""
        client = Client(HTTPTransport(load(self.data / "kubeconfig.yaml")))
        watch: Any = client.watch(LEASES, "kube-node-lease")
        try:
            async with asyncio.timeout(LONGEST), aclosing(watch) as events:
                async for event in events:
                    spec = event.object.get("spec") or {}
                    at = parse_time(spec["renewTime"]).timestamp() if "renewTime" in spec else 0.0
                    if at >= since:
                        return at
        finally:
            await client.close()
        raise SystemExit("the node does not renew its lease")

    def pids(self) -> set[int]:
        return processes.marked(str(self.data))


# Start and idle


def starts(count: int) -> list[Figure]:
    """A first start makes certificates and the database; the second finds them. One of each is thrown away: it compiles."""
    seen: dict[str, list[dict[str, tuple[float, float]]]] = {"first": [], "again": []}
    spent: dict[str, list[float]] = {"first": [], "again": []}
    downs = []
    for turn in range(count + 1):
        progress(f"start {turn} of {count}")
        boat = Boat()
        try:
            for which, times in seen.items():
                times.append(boat.up())
                spent[which].append(boat.spent)
                began = time.perf_counter()
                boat.sampan("down", timeout=LONGEST)
                downs.append(time.perf_counter() - began)
        finally:
            boat.stop()
            boat.remove()
    figures = []
    for which, text in (("first", "first start"), ("again", "start with existing data")):
        for step, words, budget in (("api", "API ready", 0.7), ("node", "node Ready", 1.5)):
            outside = [times[step][0] for times in seen[which][1:]]
            inside = statistics.median(times[step][1] for times in seen[which][1:])
            note = f"{spread(outside)}; {number(inside)} by `up`'s own clock"
            if step == "node":
                note += f"; {number(statistics.median(spent[which][1:]))} s of processor"
            figures.append(Figure(f"{text} → {words}", statistics.median(outside), "s", budget, False, note=note))  # fmt: skip
    return [*figures, Figure("down, no pods", statistics.median(downs[2:]), "s", least=False)]


def memory(pids: set[int], besides: str = "") -> float:
    """MB; `besides`: the name of a program that does not count."""
    return (
        sum(processes.pss(p) for p in pids if not besides or processes.command(p) != besides) / 1024
    )


def idle(boat: Boat, when: str, budget: float | None) -> list[Figure]:
    progress(f"idle, {when}")
    time.sleep(IDLE)
    pids = boat.pids()
    parts: Counter[str] = Counter()
    for pid in pids:
        parts[processes.command(pid)] += processes.pss(pid)
    before, began = processes.seconds(pids), time.perf_counter()
    time.sleep(IDLE)
    spent = (processes.seconds(pids) - before) / (time.perf_counter() - began)
    shares = ", ".join(f"{name} {size / 1024:.0f}" for name, size in parts.most_common())
    return [
        Figure(f"idle memory, {when}", sum(parts.values()) / 1024, "MB", budget, False, note=shares),
        Figure(f"idle processor time, {when}", spent * 1e3, "ms/s", least=False, note=f"over {IDLE:.0f} s"),
    ]  # fmt: skip


# Pods


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

    async def run(self, kind: str, rollouts: int, scales: int) -> list[Figure]:
        median = statistics.median
        rolled_out, scaled, size = BUDGETS[kind]
        progress(f"{kind}: {rollouts} rollouts")
        await self.start(kind)  # compiles or unpacks the image
        await self.end(kind)
        times = []
        began = processes.seconds(self.boat.pids())
        for _ in range(rollouts):
            times.append(await self.start(kind))
            await self.end(kind)
        cost = (processes.seconds(self.boat.pids()) - began) / rollouts
        answers = []
        for _ in range(max(3, rollouts // 2)):
            answers.append(await self.answer(kind))
            await self.end(kind)
        progress(f"{kind}: {scales} times {MORE} pods more, and fewer")
        await self.start(kind)
        ups, downs, sizes, besides, costs = [], [], [], [], []
        for _ in range(scales):
            before = self.boat.pids()
            whole, rest = memory(before), memory(before, PROGRAMS[kind])
            began = processes.seconds(before)
            ups.append(await self.scale(kind, 1 + MORE))
            after = self.boat.pids()
            costs.append(processes.seconds(after) - began)
            sizes.append((memory(after) - whole) / MORE)
            besides.append((memory(after, PROGRAMS[kind]) - rest) / MORE)
            downs.append(await self.fewer(kind, 1))
        await self.end(kind)
        answered, ready = median(a for _, a in answers), median(r for r, _ in answers)
        figures = [
            Figure(f"{kind}: Deployment created → available", median(times), "s", rolled_out, False, note=f"{spread(times)}; {cost * 1e3:.0f} ms of processor, its end included"),
            Figure(f"{kind}: Deployment and Service created → first answer", answered, "s", least=False,
                   note=f"{number(ready)} until available"),
            Figure(f"{kind}: +{MORE} pods", median(ups), "s", scaled, False, note=f"{spread(ups)}; {number(median(costs))} s of processor"),
            Figure(f"{kind}: −{MORE} pods, until gone", median(downs), "s", least=False, note=spread(downs)),
        ]  # fmt: skip
        what = f"all processes, by {MORE} pods; the first time"
        if PROGRAMS[kind]:
            note = f"{number(sizes[0])} with the program; {what}"
            return [*figures, Figure(f"{kind}: memory of a pod beside its program", besides[0], "MB", size, False, note=note)]  # fmt: skip
        return [
            *figures,
            Figure(f"{kind}: memory of a pod", sizes[0], "MB", size, False, note=what),
        ]


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
    """The moment of the first HTTP 200; there is nothing to wait for but to ask again."""
    async with asyncio.timeout(LONGEST):
        while True:
            try:
                async with asyncio.timeout(0.5):
                    reader, writer = await asyncio.open_connection(address, port)
                    try:
                        writer.write(b"GET / HTTP/1.0\r\nHost: bench\r\n\r\n")
                        if b" 200 " in await reader.readline():
                            return time.perf_counter()
                    finally:
                        writer.close()
            except (OSError, TimeoutError):
                pass
            await asyncio.sleep(0.002)


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


async def pods(boat: Boat, kinds: Sequence[str], options: argparse.Namespace) -> list[Figure]:
    async with connected(boat) as bench:
        return [
            f for kind in kinds for f in await bench.run(kind, options.rollouts, options.scales)
        ]


def build(boat: Boat, kinds: Sequence[str]) -> None:
    progress("images")
    wasm_only = [] if "container" in kinds else ["--wasm"]
    subprocess.run(
        [sys.executable, str(HELLO / "build.py"), *wasm_only],
        check=True, stdout=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    for kind in kinds:
        dockerfile = str(HELLO / f"Dockerfile.{kind}")
        boat.sampan("image", "build", "-t", f"hello:{kind}", "-f", dockerfile, str(HELLO))


def main() -> None:
    parser = argparse.ArgumentParser(description="A whole cluster by `sampan up`.")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--rollouts", type=int, default=10)
    parser.add_argument("--scales", type=int, default=3)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if AS_ROOT and not options.inside:
        again = [sys.executable, "-m", "bench.cluster", *sys.argv[1:], "--inside"]
        inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *again]
        sys.exit(subprocess.call(inside))
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
    kinds = options.kind or KINDS
    figures = starts(options.starts) if options.starts else []
    boat = Boat()
    try:
        boat.up()
        figures += idle(boat, "no pods yet", 130)
        build(boat, kinds)
        figures += uvloop.run(pods(boat, kinds, options))
        figures += idle(boat, "after all pods", None)
    finally:
        boat.stop()
        boat.remove()
    show("Cluster", figures)


if __name__ == "__main__":
    main()
