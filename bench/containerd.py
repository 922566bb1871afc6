"""containerd as the peer of our runtime, when it is installed: the same calls over the same CRI, on the same busybox image.

It runs on directories of its own, with pods in the host's network as ours are in `bench.cri`, so no CNI plugin is needed.
Its pause container is the busybox image too, asleep.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from types import TracebackType

from bench import processes
from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError

NETWORK_OF_NODE = 2  # runtime.v1.NamespaceMode.NODE
START = 20.0  # seconds

CONFIG = """\
version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{base}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{base}/cni"
conf_dir = "{base}/cni"
[plugins."io.containerd.internal.v1.opt"]
path = "{base}/opt"
"""


def installed() -> bool:
    return all(map(shutil.which, ("containerd", "ctr", "containerd-shim-runc-v2", "runc")))


class Containerd:
    """One containerd for as long as the context lasts. `layouts`: image name to OCI layout; `pause` runs by itself."""

    def __init__(self, base: Path, layouts: dict[str, Path], image: str, pause: str) -> None:
        self.base, self.layouts, self.image, self.pause = base, layouts, image, pause
        self.socket = base / "containerd.sock"
        self.client = CRIClient(self.socket)
        self.serial = itertools.count()
        self.pods: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Containerd:
        self.base.mkdir(parents=True)
        config = self.base / "config.toml"
        config.write_text(CONFIG.format(base=self.base, pause=self.pause))
        with (self.base / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["containerd", "--config", str(config)], stdout=log, stderr=log
            )
        try:
            await self.answering()
            for name, layout in self.layouts.items():
                self.load(name, layout)
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
        for pod in self.pods:
            await self.client.stop_pod_sandbox(pod_sandbox_id=pod)
            await self.client.remove_pod_sandbox(pod_sandbox_id=pod)
        await self.client.close()
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 20)

    def load(self, name: str, layout: Path) -> None:
        index = json.loads((layout / "index.json").read_bytes())
        index["manifests"][0]["annotations"] = {"io.containerd.image.name": name}
        (layout / "index.json").write_text(json.dumps(index))
        archive = shutil.make_archive(str(layout), "tar", layout)
        ctr = ["ctr", "--address", str(self.socket), "--namespace", "k8s.io"]
        subprocess.run(
            [*ctr, "images", "import", archive], check=True, stdout=subprocess.DEVNULL, timeout=60
        )

    async def answering(self) -> None:
        async with asyncio.timeout(START):
            while True:
                try:
                    await self.client.version(version="v1")
                    return
                except CRIError:
                    await asyncio.sleep(0.05)

    async def start(self) -> float:
        """One pod with one container, ms."""
        began = time.perf_counter()
        number = next(self.serial)
        pod_config = {
            "metadata": {"name": f"pod{number}", "uid": f"uid{number}", "namespace": "default"},
            "log_directory": str(self.base / "logs" / f"pod{number}"),
            "linux": {"security_context": {"namespace_options": {"network": NETWORK_OF_NODE}}},
        }
        answer = await self.client.run_pod_sandbox(config=pod_config)
        self.pods.append(answer.pod_sandbox_id)
        made = await self.client.create_container(
            pod_sandbox_id=answer.pod_sandbox_id,
            config={
                "metadata": {"name": "c"},
                "image": {"image": self.image},
                "command": ["/bin/sleep", "100000"],
                "log_path": "c.log",
                "linux": {"security_context": {"namespace_options": {"network": NETWORK_OF_NODE}}},
            },
            sandbox_config=pod_config,
        )
        await self.client.start_container(container_id=made.container_id)
        return (time.perf_counter() - began) * 1e3

    async def measure(self, pods: int, parallel: int) -> tuple[float, float, float]:
        """What `bench.cri` measures of containers: start in ms, many at once in s, memory of a pod in MB."""
        await self.start()
        before = sum(map(processes.pss, processes.marked(str(self.base))))
        times = [await self.start() for _ in range(pods)]
        after = sum(map(processes.pss, processes.marked(str(self.base))))
        began = time.perf_counter()
        await asyncio.gather(*(self.start() for _ in range(parallel)))
        together = time.perf_counter() - began
        return statistics.median(times), together, (after - before) / pods / 1024
