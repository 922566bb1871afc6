"""The cluster that `bench.cluster` measures: the tests' one, in the network that this process is in already."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "e2e"))

from cluster import AS_ROOT, HELLO, ROOT, Cluster, free_port

from bench import processes
from sampan.client.client import Client
from sampan.client.http import HTTPTransport
from sampan.client.kubeconfig import load
from sampan.client.resources import LEASES
from sampan.kube.objects import parse_time

__all__ = ["AS_ROOT", "HELLO", "LONGEST", "ROOT", "Boat"]

LONGEST = 60.0  # seconds for any one step
STEPS = {"API server ready": "api", "node Ready": "node"}  # what `up` says


class Boat(Cluster):
    spent = 0.0  # seconds of processor time that its processes had taken when it was up

    def open_network(self) -> None:
        pass

    def up(self) -> dict[str, tuple[float, float]]:
        """Start it; step to seconds, by the clock here and by its own. Raises SystemExit when it does not start."""
        if not hasattr(self, "ports"):
            self.ports = (free_port(), free_port())
        port, node_port = map(str, self.ports)
        command = [sys.executable, "-u", "-m", "sampan", "up", "--data-dir", str(self.data)]
        command += ["--port", port, "--node-port", node_port, "--node-name", "boat"]
        command += ["--rootless"] if self.rootless else []
        born, began = time.time(), time.perf_counter()
        process = self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        watchdog = threading.Timer(LONGEST, process.kill)
        watchdog.start()
        assert process.stdout is not None
        steps, said = {}, []
        for line in process.stdout:
            took = time.perf_counter() - began
            said.append(line)
            for words, step in STEPS.items():
                if words in line:
                    steps[step] = (took, float(line.split()[0]))
        status = process.wait()
        watchdog.cancel()
        if status or len(steps) != len(STEPS):
            raise SystemExit(f"the cluster did not start:\n{''.join(said)}")
        self.spent = processes.seconds(self.pids())
        took, own = steps["node"]
        steps["node"] = (max(took, asyncio.run(self.renewed(born)) - born), own)
        return steps

    async def renewed(self, since: float) -> float:
        """When the node first renewed its lease after `since`: a Ready condition may be from an earlier run."""
        client = Client(HTTPTransport(load(self.data / "kubeconfig.yaml")))
        watch: Any = client.watch(LEASES, "kube-node-lease")
        try:
            async with asyncio.timeout(LONGEST), aclosing(watch) as events:
                async for event in events:
                    spec = event.object.get("spec") or {}
                    at = parse_time(spec["renewTime"]).timestamp() if "renewTime" in spec else 0.0
                    if at >= since:
                        return at
        finally:
            await client.close()
        raise SystemExit("the node does not renew its lease")

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.ports[0]}"

    def pids(self) -> set[int]:
        return processes.marked(str(self.data))
