"""WebAssembly services through their sockets: requests a second on one core at a fresh instance each, and many pods on one node.

    python -m bench.wasm [--seconds 5] [--pods 1000]

One core is a CPU limit of one: one worker, with connections enough that it never waits for wrk, which has what is left of the machine.
Two cores is no limit, with more connections: the service takes a second worker. wrk and whatever else runs take their share of both cores,
so the rate for a second of the workers' own processor time stands beside each. The components are the tests' (componentize-py,
jco); what cannot be built here is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "wasm"))

import pytest
from wasm_lab import CACHE, Lab, Resources, artifact, compiled, componentized, workers_of

from bench.table import Figure, progress, show

WAGI = {"sampan.dev/http": "wagi"}
# name, module, labels, budget in requests a second
SERVICES = (
    ("preview 1 (CGI)", lambda: compiled("web.c"), WAGI, 4500),
    ("JavaScript component", lambda: componentized("js"), {}, 900),
    ("Python component", lambda: componentized("python"), {}, 280),
)
TICK = os.sysconf("SC_CLK_TCK")


# name, CPU limit in cores (0: none), connections
LOADS = (("one core", 1, 4), ("two cores", 0, 16))
PERIOD = 100_000  # µs


def processor_seconds(pids: set[int]) -> float:
    spent = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        spent += int(fields[11]) + int(fields[12])
    return spent / TICK


async def rate(address: str, seconds: int, connections: int) -> float:
    """Requests a second. Raises SystemExit when an answer was not 200."""
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}", f"http://{address}:8080/"),
        stdout=asyncio.subprocess.PIPE,
    )
    said = (await process.communicate())[0].decode()
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(said)
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found, said
    return float(found[1])


async def throughput(lab: Lab, seconds: int) -> list[Figure]:
    figures = []
    for name, module, labels, budget in SERVICES:
        progress(name)
        try:
            image = artifact(module(), labels=labels)
        except pytest.skip.Exception as missing:
            progress(f"left out: {missing}")
            continue
        await lab.kind._cache.get(image.modules[0])
        for load, cores, connections in LOADS:
            sandbox = await lab.pod()
            limit = Resources(cpu_quota=cores * PERIOD, cpu_period=PERIOD)
            began = time.perf_counter()
            process = await sandbox.start(lab.container("app", resources=limit), image)
            started = (time.perf_counter() - began) * 1e3
            address = sandbox.spec.network.addresses[0]
            await rate(address, 1, connections)
            workers = workers_of(process.pid)
            before = processor_seconds(workers)
            reached = await rate(address, seconds, connections)
            own = reached * seconds / (processor_seconds(workers) - before)
            many = len(workers)
            wanted = budget * (1 if cores else 2)
            figures += [
                Figure(f"{name}, {load}: requests", reached, "/s", wanted, note=f"workers: {many}"),
                Figure(f"{name}, {load}: for a second of processor time", own, "/s", budget),
                Figure(f"{name}, {load}: start", started, "ms", least=False),
            ]
            await sandbox.stop(0)
    return figures


async def density(lab: Lab, count: int) -> list[Figure]:
    """Pods of the preview 1 service, all of them asked once."""
    progress(f"{count} pods")
    image = artifact(compiled("web.c"), labels=WAGI)
    await lab.kind._cache.get(image.modules[0])
    began = time.perf_counter()
    pids, addresses = [], []
    for number in range(count):
        address = f"127.92.{number // 250}.{number % 250 + 1}"
        spec = lab.pod_spec()
        network = type(spec.network)(None, (address,))
        sandbox = await lab.pod(network=network)
        process = await sandbox.start(lab.container("app"), image)
        pids.append(process.pid)
        addresses.append(address)
    started = (time.perf_counter() - began) * 1e3 / count
    for address in addresses:
        reader, writer = await asyncio.open_connection(address, 8080)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.endswith(b"hello\n"), answer
    memory = sum(private(pid) for pid in pids) / count
    return [
        Figure(f"{count} pods, each answering: start of one", started, "ms", 12, least=False),
        Figure(f"{count} pods: memory of one", memory / (1 << 20), "MB", 4, least=False),
    ]


def private(pid: int) -> int:
    """Proportional memory of a process, in bytes: what it shares counts in part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


async def measure(seconds: int, pods: int, directory: Path) -> list[Figure]:
    lab = Lab(directory, CACHE / "aot", directory / "run")
    try:
        figures = await throughput(lab, seconds) if shutil.which("wrk") else []
        return figures + await density(lab, pods)
    finally:
        await lab.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="WebAssembly services.")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--pods", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sampan-bench-") as directory:
        os.chmod(directory, 0o755)
        figures = asyncio.run(measure(options.seconds, options.pods, Path(directory)))
    show("WebAssembly", figures)


if __name__ == "__main__":
    main()
