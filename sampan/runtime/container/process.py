"""One container under conmon, which is its parent, writes its log and keeps its exit code while the runtime is away.

conmon ends when the container has ended, after it has written the exit file: so one pidfd, conmon's, tells everything.
What is needed to find all this again after a restart of the runtime is in `process.json` of the container's directory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from sampan.cri.streams import Streams
from sampan.runtime import files, groups, kernel
from sampan.runtime.container import rootfs
from sampan.runtime.container.attach import attach, send_control
from sampan.runtime.container.cgroups import Cgroup
from sampan.runtime.container.engine import Engine
from sampan.runtime.processes import Watched
from sampan.runtime.sandbox import ContainerSpec, Exit, Gone

RECORD = "process.json"
YOUTH = 300_000_000  # ns in which a program is expected to have set its signal handlers
STARVED = 5_000_000_000  # the same for one that is still waiting for a processor or for its pages


@dataclass(frozen=True, slots=True)
class Facts:
    """What is on disk of a started container."""

    pid: int
    pid_ticks: int  # with the pid, names the process beyond reuse of its number
    conmon: int
    conmon_ticks: int
    started_at: int
    cgroup: str
    own_pids: bool  # has a PID namespace of its own: killing the first process ends all

    def save(self, directory: Path) -> None:
        files.replace(directory / RECORD, json.dumps(asdict(self)))

    @classmethod
    def load(cls, directory: Path) -> Facts | None:
        try:
            return cls(**json.loads((directory / RECORD).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def find(cls, spec: ContainerSpec, cgroup: str, own_pids: bool) -> Facts | None:
        """Of a container that was started by a runtime which died before it wrote them down."""
        directory = spec.directory
        try:
            conmon = int((directory / "conmon.pid").read_text())
            file = directory / "container.pid"
            pid = int(file.read_text())
            if spec.id.encode() not in Path(f"/proc/{conmon}/cmdline").read_bytes():
                return None
            started_at = file.stat().st_mtime_ns
        except (OSError, ValueError):
            return None
        ticks, conmon_ticks = kernel.start_ticks(pid), kernel.start_ticks(conmon)
        return cls(pid, ticks, conmon, conmon_ticks, started_at, cgroup, own_pids)


class ContainerProcess:
    def __init__(self, spec: ContainerSpec, facts: Facts, engine: Engine) -> None:
        self.spec = spec
        self.pid = facts.pid
        self.started_at = facts.started_at
        self.cgroup = Cgroup(facts.cgroup)
        self._facts = facts
        self._engine = engine
        self._exit: Exit | None = None
        self._conmon: Watched | None = None
        if kernel.start_ticks(facts.conmon) == facts.conmon_ticks:
            try:
                self._conmon = Watched(facts.conmon)
            except ProcessLookupError:
                pass

    @cached_property
    def identity(self) -> tuple[int, int, tuple[int, ...]] | None:
        """uid, gid and supplementary groups that the first process started with, as the container sees them."""
        try:
            document = json.loads((self.spec.directory / "config.json").read_bytes())
        except (OSError, ValueError):
            return None
        user = document["process"]["user"]
        return user["uid"], user["gid"], tuple(user["additionalGids"])

    @property
    def running(self) -> bool:
        return self._conmon is not None and not self._conmon.ended

    @property
    def alive(self) -> bool:
        """Whether the first process itself still runs."""
        return kernel.start_ticks(self.pid) == self._facts.pid_ticks

    async def wait(self) -> Exit:
        if self._conmon is not None:
            await self._conmon.wait()
        if self._exit is None:
            self._exit = self._collect()
        return self._exit

    def _collect(self) -> Exit:
        if not self._facts.own_pids or self.alive:
            self.cgroup.kill()
        path = self.spec.directory / "exit" / self.spec.id
        try:
            code, finished = int(path.read_text()), path.stat().st_mtime_ns
        except (OSError, ValueError):
            # conmon itself was killed, or the machine went down with the container.
            return Exit(
                137, time.time_ns(), "Error", "the container's monitor ended without an exit code"
            )
        if code != 0 and self.cgroup.out_of_memory():
            return Exit(code, finished, "OOMKilled")
        return Exit(code, finished, "Completed" if code == 0 else "Error")

    async def signal(self, number: int) -> None:
        """To process 1, for which the kernel drops what it does not catch: one so young that it may not have come to
        set its handler is told again when it has.
        """
        while self.running and self.alive:
            caught = number == signal.SIGKILL or kernel.catches(self.pid, number)
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return
            if caught or not self._young or not self._facts.own_pids:
                return
            while self.alive and self._young and not kernel.catches(self.pid, number):
                await asyncio.sleep(0.01)
            if not kernel.catches(self.pid, number):
                return

    @property
    def _young(self) -> bool:
        age = time.time_ns() - self.started_at
        return age < YOUTH or (age < STARVED and kernel.state(self.pid) in ("R", "D"))

    async def kill(self) -> None:
        if not self.running:
            return
        if self.alive:
            await self.signal(signal.SIGKILL)
        self.cgroup.kill()

    async def remove(self) -> None:
        """Mount, cgroup and engine's state of the ended container are gone on return. Idempotent."""
        await self.kill()
        await self.wait()
        if self._conmon is not None:
            self._conmon.close()
        rootfs.unmount(self.spec.directory)
        self._engine.forget(self.spec.id)
        await groups.end(self.cgroup.path)

    async def attach(self, streams: Streams) -> None:
        if not self.running:
            raise Gone(f"container {self.spec.id} is not running")
        await attach(self.spec, streams)

    async def reopen_log(self) -> None:
        """conmon opens it on its own time; on return the new file is there."""
        if not self.running or self.spec.log_path is None:
            return
        send_control(self.spec.directory, 2, 0, 0)
        deadline = time.monotonic() + 5
        while not self.spec.log_path.exists() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
