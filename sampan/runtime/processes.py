"""Processes by pidfd: wait for the end of any process, child or not, and spawn children without a watcher thread.

`asyncio`'s own subprocesses need a child watcher and belong to the loop that made them; what the runtime starts must
outlive it, and what it adopts was never its child. A pidfd serves all cases and makes no poll necessary.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


class Watched:
    """A running process, named by pid and pidfd: signals never hit another that got its number."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError when it is gone."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._on_end)

    def _on_end(self) -> None:
        self.close()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> None:
        await self._ended.wait()

    def signal(self, number: int) -> None:
        if self._descriptor < 0:
            return
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            pass

    def close(self) -> None:
        """Stop watching; those who wait are told that it ended."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        self._ended.set()


async def kill(pid: int) -> None:
    """The process is gone on return. Idempotent."""
    try:
        process = Watched(pid)
    except ProcessLookupError:
        return
    process.signal(signal.SIGKILL)
    try:
        await process.wait()
    finally:
        process.close()


def spawn(
    argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a child. `vfork` inside: no copy of this process is made, whatever its size."""
    return subprocess.Popen(list(argv), env=dict(env) if env is not None else None, **options)


async def ended(child: subprocess.Popen[bytes], *, spare: bool = False) -> int:
    """The child's return code (negative: killed by that signal), after its end.

    Cancelled: it is killed and reaped, unless it is to be spared: then the caller sees to its end.
    """
    if child.returncode is not None:
        return child.returncode
    watched = Watched(child.pid)
    try:
        await watched.wait()
    except BaseException:
        watched.close()
        if not spare:
            child.kill()
            child.wait()
        raise
    return child.wait()


async def run(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """Run a short command to its end: return code and what it wrote (both streams)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = spawn(argv, env=env, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    try:
        output = await read_all(reader)
    except BaseException:
        child.kill()
        child.wait()
        raise
    return await ended(child), output


async def read_all(descriptor: int, limit: int = 1 << 20) -> bytes:
    """Everything until end of file, at most `limit` bytes kept; the descriptor is closed."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    done: asyncio.Future[None] = loop.create_future()
    kept = bytearray()

    def readable() -> None:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            kept.extend(data[: max(0, limit - len(kept))])
        elif not done.done():
            done.set_result(None)

    loop.add_reader(descriptor, readable)
    try:
        await done
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return bytes(kept)
