"""A whole cluster by `sampan up`: how fast it starts, what it costs idle, and how fast one manifest becomes running pods.

    python -m bench.cluster [--starts 5] [--objects 30000] [--rollouts 10] [--scales 3] [--kind wasm --kind container]

The clock is outside: it starts with the command or the request, and stops when `up` says so or when a watch over HTTPS
shows the status. Images are on the node beforehand. As root everything runs in a network namespace of its own, this process
too; without root the cluster is rootless and has wasm only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

import uvloop

from bench import laden, processes
from bench.boat import AS_ROOT, HELLO, LONGEST, ROOT, Boat
from bench.rollout import connected, spread
from bench.table import Figure, number, progress, show

KINDS = ("wasm", "container") if AS_ROOT else ("wasm",)
IDLE = 10.0  # seconds


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


def many(objects: int) -> list[Figure]:
    """The server process of a whole cluster (API, controllers, scheduler) with so many objects, and its next start."""
    boat = Boat()
    try:
        boat.up()
        [server] = [pid for pid in boat.pids() if processes.command(pid) == "sampan-server"]
        sizes = [uvloop.run(laden.settled(server))]
        uvloop.run(laden.load(boat, objects))
        sizes.append(processes.pss(server) / 1024)
        uvloop.run(laden.unload(boat))
        sizes.append(uvloop.run(laden.settled(server)))
        uvloop.run(laden.load(boat, objects))
        boat.sampan("down", timeout=LONGEST)
        steps = boat.up()
    finally:
        boat.stop()
        boat.remove()
    text = f"start with {objects:,} ConfigMaps in the store"
    return [
        Figure("server process, idle", sizes[0], "MB", 70, False),
        Figure(f"server process, after {objects:,} creates", sizes[1], "MB", 200, False),
        Figure("server process, after they were deleted", sizes[2], "MB", 70, False),
        Figure(f"{text} → API ready", steps["api"][0], "s", 2, False),
        Figure(f"{text} → node Ready", steps["node"][0], "s", least=False),
    ]


async def pods(boat: Boat, kinds: Sequence[str], options: argparse.Namespace) -> list[Figure]:
    async with connected(boat) as bench:
        figures = []
        for kind in kinds:
            figures += await bench.rollouts(kind, options.rollouts)
            figures += await bench.scales(kind, options.scales)
        return figures


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
    parser.add_argument("--objects", type=int, default=30000)
    parser.add_argument("--rollouts", type=int, default=10)
    parser.add_argument("--scales", type=int, default=3)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if AS_ROOT and not options.inside:
        again = [sys.executable, "-m", "bench.cluster", *sys.argv[1:], "--inside"]
        inside = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *again]
        os.execvp(inside[0], inside)  # still this process: a signal reaches what has to clean up
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), path)))
    kinds = options.kind or KINDS
    figures = starts(options.starts) if options.starts else []
    figures += many(options.objects) if options.objects else []
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
