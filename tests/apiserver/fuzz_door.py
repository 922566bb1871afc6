"""A running server for the fuzzing tests, spoken to in memory, and how often each of them tries."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from apiserver_harness import (
    DEPLOYMENTS,
    MAPS,
    PODS,
    Harness,
    config_map,
    deployment,
    open_server,
    pod,
    service_account,
)
from hypothesis import HealthCheck, settings
from memory_door import exchange

from sampan.apiserver import lists
from sampan.client.transport import User

ADMIN = User("admin", ("system:masters", "system:authenticated"))
# `make fuzz` makes it a minute for all of them together, `make soak` much longer.
EXAMPLES = int(os.environ.get("SAMPAN_EXAMPLES") or (5_000 if "SAMPAN_SOAK" in os.environ else 120))


class Door:
    """A running server and the loop it runs on."""

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.harness: Harness = self.runner.run(open_server(directory))
        self.runner.run(self._fill())

    async def _fill(self) -> None:
        await self.harness.server.start()
        await service_account(self.harness)
        await self.harness.call("POST", MAPS, config_map("one"))
        await self.harness.call("POST", PODS, pod("one"))
        await self.harness.call("POST", DEPLOYMENTS, deployment("one"))

    def says(self, wire: bytes, step: int = 0) -> list[int]:
        """The statuses of the answers to these bytes."""
        pieces = [wire[at : at + step] for at in range(0, len(wire), step)] if step else [wire]
        seen = self.runner.run(exchange(self.harness.server.http.door, pieces, ADMIN)).seen
        assert not seen or seen.startswith(b"HTTP/1.1 "), seen[:200]
        return statuses(seen)

    def close(self) -> None:
        self.runner.run(self.harness.server.close())
        self.runner.run(self.harness.store.close())
        self.runner.close()


def statuses(seen: bytes) -> list[int]:
    found = []
    while seen:
        head, _, rest = seen.partition(b"\r\n\r\n")
        status = int(head[9:12])
        found.append(status)
        if status == 101 or b"chunked" in head:
            break
        lengths = [
            line[16:] for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")
        ]
        seen = rest[int(lengths[0]) if lengths else 0 :]
    return found


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lists, "FRESH_WAIT", 0.0)  # nobody waits for versions that never come
        opened = Door(tmp_path_factory.mktemp("fuzz"))
        yield opened
        opened.close()


@pytest.fixture(autouse=True)
def nothing_is_logged_as_unexpected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def request(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


SAMPLES = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
