"""Many pods on one node, each answering. SAMPAN_SOAK=1 makes a thousand of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from wasm_lab import Lab, artifact, workers_of
from wasm_service import Service

from sampan.network.pods import Attachment

SOAK = "SAMPAN_SOAK" in os.environ
pytestmark = pytest.mark.timeout(600 if SOAK else 60)
PODS, TOGETHER = (1000, 30) if SOAK else (40, 20)


@pytest.fixture
def lab(lab_alone: Lab) -> Lab:
    return lab_alone


async def test_each_of_many_answers(lab: Lab, web: Path) -> None:
    image = artifact(web, labels={"sampan.dev/http": "wagi"})

    async def start(number: int) -> Service:
        address = f"127.93.{number // 250}.{number % 250 + 1}"
        sandbox = await lab.pod(network=Attachment(None, (address,)))
        return Service(address, await sandbox.start(lab.container("web.wasm"), image))

    services: list[Service] = []
    for first in range(0, PODS, TOGETHER):
        numbers = range(first, min(first + TOGETHER, PODS))
        services += await asyncio.gather(*map(start, numbers))
    for service in services:
        status, _, body = await service.get("/")
        assert (status, body) == (200, b"hello\n")
    process = services[0].process
    assert process is not None and len(workers_of(process.pid)) == PODS
