"""`make profile`: the API server under load, as flame graphs in bench/out/, one for each sort of request.

    python -m bench.profile [--seconds 8] [--load get --load list --load create]

py-spy looks at the running server from outside, so it runs as it always does. It needs root, or a kernel that lets a user
trace their own processes (kernel.yama.ptrace_scope = 0).
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from bench.apiserver import CONNECTIONS, LIST, Bench
from bench.laden import MAP, MAPS, WRITERS
from bench.load import HAS_WRK, Server
from bench.table import progress

OUT = Path(__file__).resolve().parent / "out"
# What is asked for: path, connections, body of a create.
LOADS = {
    "get": (f"{LIST}/c0", CONNECTIONS, ""),
    "list": (LIST, CONNECTIONS, ""),
    "create": (MAPS, WRITERS, MAP),
}
RATE = 250  # samples a second


def spy() -> str:
    """The program; raises SystemExit when it is not there."""
    found = shutil.which("py-spy", path=f"{Path(sys.executable).parent}") or shutil.which("py-spy")
    if found is None:
        raise SystemExit("py-spy is not installed: pip install py-spy (it is in the dev extra)")
    return found


async def record(bench: Bench, name: str, program: str) -> Path:
    """The flame graph of one load. Raises SystemExit with what py-spy said."""
    path, connections, body = LOADS[name]
    target = OUT / f"apiserver-{name}.svg"
    command = [program, "record", "--output", str(target), "--rate", str(RATE), "--duration"]
    command += [f"{bench.seconds:.0f}", "--pid", str(bench.server.pid)]
    spying = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        figure = await bench.rate(f"{name} under py-spy", path, connections, 0, body)
        async with asyncio.timeout(60):
            said, _ = await spying.communicate()
    finally:
        if spying.returncode is None:
            spying.kill()
            await spying.wait()
    if spying.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {spying.returncode}\n{said.decode()}")
    print(f"{target}  {figure.value:,.0f} /s, {figure.note}")
    return target


async def profile(server: Server, names: list[str], seconds: float) -> None:
    bench = Bench(server, seconds)
    streams = await bench.client.open()
    await bench.prepare(streams)
    streams[1].close()
    for name in names:
        await record(bench, name, spy())


def main() -> None:
    parser = argparse.ArgumentParser(description="Flame graphs of the API server under load.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--load", action="append", choices=list(LOADS))
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    spy()
    if not HAS_WRK:
        progress("wrk is not installed: the load comes from asyncio clients")
    with tempfile.TemporaryDirectory(prefix="apiserver-profile-", dir=".") as scratch:
        server = Server(Path(scratch) / "data")
        try:
            uvloop.run(profile(server, options.load or list(LOADS), options.seconds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
