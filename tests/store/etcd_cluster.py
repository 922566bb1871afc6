"""Real etcd for tests: Debian's binary, one member or several, on free ports of an address of 127/8.

A member can be killed and started again on its data; data lives in a temporary directory and is not synced to disk,
since no test here cuts the power.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

BINARY = shutil.which("etcd")
MISSING = "etcd is not installed (Debian: etcd-server)"
ADDRESS = "127.0.0.1"
READY = 30.0  # seconds


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((ADDRESS, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Member:
    def __init__(self, name: str, directory: Path, client: int, peer: int) -> None:
        self.name = name
        self.directory = directory
        self.client = f"http://{ADDRESS}:{client}"
        self.peer = f"http://{ADDRESS}:{peer}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, members: list[Member]) -> None:
        cluster = ",".join(f"{each.name}={each.peer}" for each in members)
        command = [
            BINARY or "etcd",
            *("--name", self.name, "--data-dir", str(self.directory / self.name)),
            *("--listen-client-urls", self.client, "--advertise-client-urls", self.client),
            *("--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer),
            *("--initial-cluster", cluster, "--initial-cluster-token", "test"),
            *("--max-request-bytes", str(8 << 20), "--unsafe-no-fsync"),
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *("--log-level", "error", "--logger", "zap"),
        ]
        with open(self.directory / f"{self.name}.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """As a power failure would, but for the disk."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


class EtcdCluster:
    def __init__(self, directory: Path, size: int = 1) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        ports = free_ports(2 * size)
        self.members = [
            Member(f"m{n}", directory, ports[2 * n], ports[2 * n + 1]) for n in range(size)
        ]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.client for member in self.members)

    def start(self) -> None:
        for member in self.members:
            member.start(self.members)
        for member in self.members:
            wait_healthy(member)

    def stop(self) -> None:
        for member in self.members:
            member.kill()


def wait_healthy(member: Member, patience: float = READY) -> None:
    """Return when the member answers that it is part of a cluster with a leader."""
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"{member.client}/health", timeout=1) as answer:
                if b'"true"' in answer.read():
                    return
        except (OSError, urllib.error.URLError):
            pass
        assert member.process is not None
        assert member.process.poll() is None, f"{member.name} ended: {os.fspath(member.directory)}"
        assert time.monotonic() < deadline, f"{member.name} is not healthy"
        time.sleep(0.05)  # of the test's own patience: /health cannot be waited for
