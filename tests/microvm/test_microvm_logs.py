"""Logs that several runtimes write one after the other, of which all but the last were killed."""

from __future__ import annotations

import mmap
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from micropods import KIND, until
from runtime_fixture import Runtime
from runtime_spawned import Spawned

from sampan.runtime.microvm.log import HALF, WHICH, Log

LONG = "SAMPAN_SOAK" in os.environ
LINES, KILLS = (600_000, 50) if LONG else (30_000, 3)


def texts(path: Path) -> list[str]:
    return [line.split(" ", 3)[3] for line in path.read_text().splitlines()]


def test_a_killed_runtime_loses_no_line_and_doubles_none(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    output = b"".join(b"line %d\n" % number for number in range(50))
    log = Log(path, state)
    seen = log.write(0, output[:100])
    log.write(1, b"complaint\n")
    with path.open("ab") as file:  # written, and killed before it was noted how far
        file.write(b"2026-01-01T00:00:00Z stdout F line 12\n")
    again = Log(path, state)
    assert again.seen == [seen, 10]
    again.write(0, output[seen:])
    again.flush()
    found = [text for text in texts(path) if text != "complaint"]
    assert found == output.decode().splitlines()


def test_a_rotated_log_is_not_cut(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    log = Log(path, state)
    log.write(0, b"before\nbeg")
    path.rename(tmp_path / "log.1")
    path.write_text("2026-01-01T00:00:00Z stdout F somebody's\n")
    again = Log(path, state)
    again.write(0, b"un\nlast")
    again.flush()
    assert texts(path) == ["somebody's", "begun", "last"]
    assert path.read_text().splitlines()[-1].split(" ")[2] == "P"


def test_what_was_half_noted_does_not_count(tmp_path: Path) -> None:
    path, state = tmp_path / "log", tmp_path / "state"
    log = Log(path, state)
    for number in range(3):
        log.write(0, b"line %d\nbegun" % number)
    with state.open("r+b") as file, mmap.mmap(file.fileno(), 0) as noted:
        other = HALF * (1 - noted[WHICH])
        noted[other : other + 60] = b"\xff" * 60
    again = Log(path, state)
    assert again.seen == log.seen
    again.write(0, b" and ended\n")
    assert texts(path) == ["line 0", "begunline 1", "begunline 2", "begun and ended"]


@pytest.fixture
async def spawned(runtime: Runtime, home: Path) -> AsyncIterator[Spawned]:
    """The fixture's runtime, moved into a process that can be killed; it takes over again at the end."""
    await runtime.stop()
    spawned = Spawned(runtime, home / "images", KIND)
    await spawned.start()
    yield spawned
    spawned.kill()
    await runtime.start()


@pytest.mark.root
@pytest.mark.timeout(600 if LONG else 120)
async def test_a_runtime_that_is_killed_in_a_flood_loses_no_line(
    runtime: Runtime, spawned: Spawned
) -> None:
    """`kill -9`, again and again, while a container writes as fast as it is read."""
    pod = await runtime.pod(KIND)
    flood = await runtime.container(pod, "sh", "-c", f"seq 1 {LINES}; exit 7")
    log = Path((await runtime.status(flood)).log_path)
    for kill in range(1, KILLS + 1):
        await until(lambda: log.stat().st_size > kill * 200_000, "it writes")  # noqa: B023
        spawned.kill()
        await spawned.start()
        await runtime.client.version(wait=True)
    assert (await runtime.ended(flood)).exit_code == 7
    assert texts(log) == [str(number) for number in range(1, LINES + 1)]
