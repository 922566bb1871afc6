"""`sampan runtime` under a kubelet that tells its Node's pod CIDR: the built-in network takes it, and remembers it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sampan.cli.config import instance_of
from sampan.cri.client import CRIClient
from sampan.cri.errors import InvalidArgument
from sampan.linux import mounts
from sampan.network import netns

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
ROOT = Path(__file__).parents[2]


class Alone:
    """The command itself, in a network namespace that outlives it."""

    def __init__(self, base: Path, configuration: str) -> None:
        self.base, self.data = base, base / "data"
        (base / "runtime.toml").write_text('kinds = ["wasm"]\n' + configuration)
        self.space = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert self.space.stdout is not None
        self.space.stdout.readline()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[CRIClient]:
        """Killed afterwards."""
        command = [
            *("nsenter", f"--net=/proc/{self.space.pid}/ns/net", sys.executable, "-m", "sampan"),
            *("runtime", "--data-dir", str(self.data), "--config", str(self.base / "runtime.toml")),
            *("--listen", f"unix://{self.base}/cri.sock"),
        ]
        with open(self.base / "log", "ab") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            async with CRIClient(self.base / "cri.sock") as client:
                await client.version(wait=True)
                yield client
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
            (self.base / "cri.sock").unlink(missing_ok=True)

    def close(self) -> None:
        self.space.kill()
        self.space.communicate()
        netns.delete_all(f"{instance_of(self.data)}-")


async def address(client: CRIClient, pod: str) -> str:
    status = (await client.pod_sandbox_status(pod_sandbox_id=pod)).status
    return str(status.network.ip)


def as_of_an_older_build(alone: Alone, pod: str) -> Path:
    """Give the pod's network namespace another name, which its record has."""
    record = alone.data / "runtime" / "sandboxes" / pod / "sandbox.json"
    document = json.loads(record.read_text())
    there = Path(document["network"]["namespace"])
    renamed = netns.DIRECTORY / f"{instance_of(alone.data)}-{pod[:12]}"
    renamed.touch()
    mounts.mount(str(there), renamed, flags=mounts.MS_BIND)
    netns.delete(there.name)
    document["network"]["namespace"] = str(renamed)
    record.write_text(json.dumps(document))
    return renamed


async def new_pod(client: CRIClient, name: str) -> str:
    config = {"metadata": {"name": name, "namespace": "default", "uid": name}}
    return str((await client.run_pod_sandbox(config=config)).pod_sandbox_id)


async def tell(client: CRIClient, cidr: str) -> None:
    await client.update_runtime_config(runtime_config={"network_config": {"pod_cidr": cidr}})


async def end(client: CRIClient, *pods: str) -> None:
    for pod in pods:
        await client.stop_pod_sandbox(pod_sandbox_id=pod)
        await client.remove_pod_sandbox(pod_sandbox_id=pod)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
async def test_a_nodes_pod_cidr_is_that_of_its_pods_over_a_restart() -> None:
    with tempfile.TemporaryDirectory(prefix="sampan-cidr-") as directory:
        alone = Alone(Path(directory), "")
        try:
            async with alone.running() as client:
                old = await new_pod(client, "old")
                before = await address(client, old)
                assert before.startswith("10.42.0.")
                for nonsense in ("10.77.0.0/33", "fd00:10::/64", "10.77.0.0/31"):
                    with pytest.raises(InvalidArgument, match="pod CIDR"):
                        await tell(client, nonsense)
                await tell(client, "")
                await tell(client, "10.77.3.0/24,fd00:10::/64")
                new = await new_pod(client, "new")
                assert (await address(client, new)).startswith("10.77.3.")
            renamed = as_of_an_older_build(alone, old)
            async with alone.running() as client:
                assert await address(client, old) == before
                newest = await new_pod(client, "newest")
                assert (await address(client, newest)).startswith("10.77.3.")
                assert netns.is_namespace(renamed)
                await end(client, old, new, newest)
                assert not renamed.exists()
        finally:
            alone.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
async def test_what_the_configuration_says_stays() -> None:
    with tempfile.TemporaryDirectory(prefix="sampan-cidr-") as directory:
        alone = Alone(Path(directory), 'pod_cidr = "10.66.0.0/24"\n')
        try:
            async with alone.running() as client:
                await tell(client, "10.77.3.0/24")
                pod = await new_pod(client, "configured")
                assert (await address(client, pod)).startswith("10.66.0.")
                await end(client, pod)
        finally:
            alone.close()
