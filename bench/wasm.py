"""WebAssembly services through their sockets: requests a second on one core at a fresh instance each, and many pods on one node.

    python -m bench.wasm [--seconds 5] [--pods 1000]

The worker is held to one core, wrk has the others. What else the machine does takes its share of that core, so the rate for a
second of the worker's own processor time stands beside it. The components are the tests' (componentize-py, componentize-js);
what cannot be built here is left out.
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
from wasm_lab import CACHE, Lab, artifact, compiled, componentized

from bench.table import Figure, progress, show

WAGI = {"sampan.dev/http": "wagi"}
# name, module, labels, budget in requests a second
SERVICES = (
    ("preview 1 (CGI)", lambda: compiled("web.c"), WAGI, 4500),
    ("JavaScript component", lambda: componentized("js"), {}, 900),
    ("Python component", lambda: componentized("python"), {}, 280),
)
TICK = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def rate(address: str, seconds: int) -> float:
    """Requests a second over one connection. Raises SystemExit when an answer was not 200."""
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", "-c1", f"-d{seconds}", f"http://{address}:8080/"),
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
        sandbox = await lab.pod()
        await lab.kind._cache.get(image.modules[0])
        began = time.perf_counter()
        process = await sandbox.start(lab.container("app"), image)
        started = (time.perf_counter() - began) * 1e3
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[:1])
        address = sandbox.spec.network.addresses[0]
        await rate(address, 1)
        before = processor_seconds(process.pid)
        reached = await rate(address, seconds)
        spent = processor_seconds(process.pid) - before
        own = reached * seconds / spent
        figures.append(Figure(f"{name}: requests", reached, "/s", budget))
        figures.append(Figure(f"{name}: for a second of its processor time", own, "/s", budget))
        figures.append(Figure(f"{name}: start", started, "ms", least=False))
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
