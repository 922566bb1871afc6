"""A tenant whose module never ends: it takes the share of the processors that is its own, and others' requests are answered."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, logged
from wasm_service import Service

from sampan.network.pods import Attachment
from sampan.runtime.sandbox import Resources
from sampan.runtime.wasm.sandbox import WasmSandbox

PERIOD, QUOTA = 100_000, 5_000  # µs: a twentieth of a core: less than a busy machine would give it
SEEN = 8  # periods
REQUESTS = 50
TICK = 10**9 // os.sysconf("SC_CLK_TCK")  # ns: what is counted without cgroups' help


async def spent(pod: WasmSandbox) -> int:
    """ns of processor time."""
    return (await pod.stats()).cpu_nanoseconds


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups")
async def test_a_runaway_module_takes_its_share_and_no_more(lab: Lab, cli: Path, web: Path) -> None:
    parent = f"/sampan-runaway-{os.getpid()}"
    address = "127.94.0.1"
    victim = await lab.pod(network=Attachment(None, (address,)), cgroup_parent=f"{parent}/victim")
    served = artifact(web, labels={"sampan.dev/http": "wagi"})
    service = Service(address, await victim.start(lab.container("web.wasm"), served))
    runaways = []
    for number in range(os.cpu_count() or 1):
        pod = await lab.pod(cgroup_parent=f"{parent}/runaway{number}")
        share = Resources(cpu_quota=QUOTA, cpu_period=PERIOD)
        process = await pod.start(lab.container("cli.wasm", "spin", resources=share), artifact(cli))
        await logged(process, "spinning")
        if not process.cgroup.directories:
            pytest.skip("no writable cgroup hierarchy on this machine")
        runaways.append((pod, process))
    used = [await spent(pod) for pod, _ in runaways]
    began = time.monotonic_ns()
    answered = 0
    while answered < REQUESTS or time.monotonic_ns() - began < SEEN * PERIOD * 1000:
        assert (await service.get("/"))[::2] == (200, b"hello\n")
        answered += 1
    for before, (pod, _) in zip(used, runaways, strict=True):
        more = await spent(pod) - before
        passed = time.monotonic_ns() - began
        assert more > 0, "it runs all the time"
        # its share of each period that was touched
        assert more <= QUOTA * 1000 * (passed // (PERIOD * 1000) + 2) + TICK
    directories = list(runaways[0][1].cgroup.directories.values())
    for pod in (victim, *(pod for pod, _ in runaways)):
        await pod.stop(0)
    for directory in directories:
        directory.parent.parent.rmdir()
