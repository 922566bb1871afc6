"""Pod networks and services: time to attach and detach, to write the first table, and to change one service of many.

    python -m bench.network [--pods 50] [--services 1000]

Needs root: runs in network and mount namespaces of its own (`unshare`), so the host's are not touched.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from bench.table import Figure, show
from sampan.network.bridge import BridgeNetwork
from sampan.network.nft import NFTProxy
from sampan.network.pods import PodRef

INSTANCE = "spbench"


async def timed(work: Awaitable[object]) -> float:
    start = time.perf_counter()
    await work
    return (time.perf_counter() - start) * 1e3


def cluster(count: int, extra: str = "") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    services, slices = [], []
    for number in range(count):
        name = {"namespace": "bench", "name": f"s{number}"}
        address = f"10.43.{number // 250 + 1}.{number % 250 + 1}"
        ports = [{"port": 80, "nodePort": 30000 + number % 2700}]
        services.append({"metadata": name, "spec": {"clusterIP": address, "ports": ports}})
        addresses = [f"10.42.0.{number % 200 + 2}", "10.42.0.250"]
        if extra and number == 0:
            addresses.append(extra)
        slices.append(
            {
                "metadata": {
                    "namespace": "bench",
                    "labels": {"kubernetes.io/service-name": f"s{number}"},
                },
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address]} for address in addresses],
            }
        )
    return services, slices


async def measure(pods: int, services: int, directory: Path) -> list[Figure]:
    network = BridgeNetwork(directory, "10.42.0.0/23", INSTANCE)
    refs = [
        PodRef(f"{number:012x}".ljust(64, "0"), "bench", f"p{number}") for number in range(pods)
    ]
    await network.attach(refs[0])  # makes the bridge
    attach = [await timed(network.attach(ref)) for ref in refs[1:]]
    detach = [await timed(network.detach(ref)) for ref in refs]
    proxy = NFTProxy(INSTANCE)
    first = await timed(proxy.apply(*cluster(services)))
    change = [
        await timed(proxy.apply(*cluster(services, f"10.42.1.{number + 1}"))) for number in range(5)
    ]
    small = NFTProxy(INSTANCE)
    await small.apply(*cluster(3))
    few = [await timed(small.apply(*cluster(3, f"10.42.1.{n + 1}"))) for n in range(9)]
    await proxy.remove()
    await network.remove()
    await network.close()
    median = statistics.median
    return [
        Figure("attach a pod", median(attach), "ms", least=False),
        Figure("detach a pod", median(detach), "ms", least=False),
        Figure(f"first table, {services} services", first, "ms", least=False),
        Figure(f"one endpoint more, {services} services", median(change), "ms", least=False),
        Figure("one endpoint more, 3 services", median(few), "ms", least=False),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Pod networks and services.")
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        if os.geteuid() != 0:
            sys.exit("needs root: network namespaces")
        again = [sys.executable, "-m", "bench.network", *sys.argv[1:], "--inside"]
        os.execvp("unshare", ["unshare", "--net", "--mount", *again])
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory:
        figures = asyncio.run(measure(options.pods, options.services, Path(directory)))
    show("Network", figures)


if __name__ == "__main__":
    main()
