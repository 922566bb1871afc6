"""podman as the peer of our runtime, when it is installed: pods with one container, by its own commands, on the same image.

It has no daemon and no CRI, so each step is a process, as its users have it. Its storage and its configuration are the bench's
own; containers are in the host's network, as ours are in `bench.cri`, and pods have no infra container, which asks for limits
that not every machine lets root set.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from bench import processes

SLEEP = ("/bin/sleep", "1000000")
# Its own are above what this process may set, where a container host does not let root raise limits.
LIMITS = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
LONGEST = 120.0  # seconds for one command


def runtime() -> str:
    """crun, its default, wants the host's cgroups to be of one version where they are of both."""
    return "runc" if Path("/sys/fs/cgroup/unified").exists() else "crun"


def installed() -> bool:
    return all(map(shutil.which, ("podman", runtime()))) and os.geteuid() == 0


class Podman:
    def __init__(self, base: Path, layout: Path, image: str) -> None:
        base.mkdir()
        conf = base / "containers.conf"
        conf.write_text(LIMITS)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(conf)}
        self.base, self.layout, self.image = base, layout, image
        self.serial = itertools.count()

    def __enter__(self) -> Podman:
        found = self.run("pull", "--quiet", f"oci:{self.layout}").split()
        self.run("tag", found[-1], self.image)
        return self

    def __exit__(self, *_: object) -> None:
        self.run("pod", "rm", "--force", "--all", "--time", "0")
        overlay = self.base / "root" / "overlay"  # it mounts its store on itself, for good
        subprocess.run(["umount", str(overlay)], check=False, stderr=subprocess.DEVNULL)

    def run(self, *words: str) -> str:
        """Raises SubprocessError, with what podman said."""
        command = [
            "podman", "--root", str(self.base / "root"), "--runroot", str(self.base / "run"),
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
            "--runtime", runtime(),
        ]  # fmt: skip
        done = subprocess.run(
            [*command, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        if done.returncode:
            raise subprocess.SubprocessError(f"podman {words[0]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def start(self) -> float:
        """One pod with one container, ms."""
        name = f"pod{next(self.serial)}"
        began = time.perf_counter()
        self.run("pod", "create", "--name", name, "--infra=false")
        container = ("--pod", name, "--network", "host", "--pull=never", self.image, *SLEEP)
        self.run("run", "--detach", *container)
        return (time.perf_counter() - began) * 1e3

    async def measure(self, pods: int, parallel: int) -> tuple[float, float, float]:
        """As `bench.containerd` does: start in ms, many at once in s, memory of a pod in MB."""
        self.start()
        before = sum(map(processes.pss, processes.marked(str(self.base))))
        times = [self.start() for _ in range(pods)]
        after = sum(map(processes.pss, processes.marked(str(self.base))))
        began = time.perf_counter()
        await asyncio.gather(*(asyncio.to_thread(self.start) for _ in range(parallel)))
        together = time.perf_counter() - began
        return statistics.median(times), together, (after - before) / pods / 1024
