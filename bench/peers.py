"""Stock systems to compare with: whatever of them is installed here. Nothing is ever installed for a benchmark.

etcd is compared with the store: `Etcd` runs one in a temporary directory and counts puts over gRPC, each on disk before
it is answered, as the store's are. The messages are few enough to be written by hand.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType

# program: how to ask for its version
PROGRAMS: dict[str, tuple[str, ...]] = {
    "etcd": ("--version",),
    "containerd": ("--version",),
    "podman": ("--version",),
    "kube-apiserver": ("--version",),
    "kubelet": ("--version",),
    "k3s": ("--version",),
    "crun": ("--version",),
    "runc": ("--version",),
    "tar": ("--version",),
}
STOCK = ("etcd", "containerd", "podman", "kube-apiserver", "kubelet", "k3s")
START = 15.0  # seconds


def version(program: str) -> str | None:
    """None when it is not installed."""
    path = shutil.which(program)
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *PROGRAMS[program]], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\d+\.\d+[\w.+~-]*", done.stdout + done.stderr)
    return found[0] if found else "of unknown version"


def describe() -> str:
    """One paragraph: which there are, which there are not."""
    versions = {program: version(program) for program in PROGRAMS}
    present = [f"{program} {found}" for program, found in versions.items() if found]
    absent = [program for program in STOCK if versions[program] is None]
    text = ", ".join(present) or "none"
    return text + (f". Not installed, so not compared: {', '.join(absent)}." if absent else ".")


class Etcd:
    """One member on free loopback ports, for as long as the context lasts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Etcd:
        import grpc.aio

        client, peer = _free_ports(2)
        self.process = subprocess.Popen(
            [
                "etcd", "--name", "bench", "--data-dir", str(self.directory / "etcd"),
                "--listen-client-urls", f"http://127.0.0.1:{client}",
                "--advertise-client-urls", f"http://127.0.0.1:{client}",
                "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", f"bench=http://127.0.0.1:{peer}",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{client}")
        self._put = self.channel.unary_unary("/etcdserverpb.KV/Put", bytes, bytes)
        try:
            await self._put(_put_request("start", b""), timeout=START, wait_for_ready=True)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.channel.close(None)
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 10)

    async def put(self, key: str, value: bytes) -> None:
        await self._put(_put_request(key, value), timeout=10)


async def repeated(
    seconds: float, workers: int, step: Callable[[int, int], Awaitable[object]]
) -> float:
    """Steps a second, with `workers` of them at once; a step is told its worker and its number."""
    end = time.perf_counter() + seconds
    done = 0

    async def work(worker: int) -> None:
        nonlocal done
        number = 0
        while time.perf_counter() < end:
            await step(worker, number)
            number += 1
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(workers)))
    return done / (time.perf_counter() - began)


def _put_request(key: str, value: bytes) -> bytes:
    """etcdserverpb.PutRequest: key = 1, value = 2."""
    return _field(1, key.encode()) + _field(2, value)


def _field(number: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while size > 0x7F:
        length += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return bytes((number << 3 | 2,)) + length + bytes((size,)) + data


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(found.getsockname()[1]) for found in sockets]
    finally:
        for found in sockets:
            found.close()
