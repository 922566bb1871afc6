"""Container logs: every option on real files, and following through writes, rotation and the container's end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sampan.node import logs
from sampan.node.logs import LogOptions
from sampan.node.logtail import tail

STAMP = "2026-01-31T09:30:0{}.000000000Z"


def line(second: int, text: str, stream: str = "stdout", tag: str = "F") -> str:
    return f"{STAMP.format(second)} {stream} {tag} {text}\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "0.log"
    path.write_text(
        line(1, "one")
        + line(2, "two", "stderr")
        + line(3, "thr", tag="P")
        + line(3, "ee")
        + line(4, "four")
    )
    return path


async def text_of(path: Path, **options: object) -> str:
    pieces = logs.read(path, LogOptions(**options), lambda: False, asyncio.Event)  # type: ignore[arg-type]
    return b"".join([piece async for piece in pieces]).decode()


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "one\ntwo\nthree\nfour\n"),
        ({"tail": 2}, "three\nfour\n"),
        ({"tail": 0}, ""),
        ({"tail": 99}, "one\ntwo\nthree\nfour\n"),
        ({"since": STAMP.format(3)}, "three\nfour\n"),
        ({"limit": 6}, "one\ntw"),
        ({"stream": "Stderr"}, "two\n"),
        ({"tail": 1, "timestamps": True}, f"{STAMP.format(4)} four\n"),
        ({"tail": 2, "timestamps": True}, f"{STAMP.format(3)} three\n{STAMP.format(4)} four\n"),
    ],
)
async def test_options(log: Path, options: dict[str, object], wanted: str) -> None:
    assert await text_of(log, **options) == wanted


async def test_rotated_files_come_first(log: Path) -> None:
    log.rename(log.with_name("0.log.20260131-093000"))
    log.write_text(line(5, "five"))
    assert (await text_of(log)).endswith("four\nfive\n")
    assert await text_of(log, tail=2) == "four\nfive\n"


async def test_an_unfinished_line_is_not_sent(log: Path) -> None:
    with log.open("a") as file:
        file.write("2026-01-31T09:30:05.000000000Z stdout F half")
    assert (await text_of(log)).endswith("four\n")


async def test_a_tail_longer_than_a_block(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_text("".join(line(1, f"{n:07d}" + "x" * 100) for n in range(3000)))
    found = (await text_of(path, tail=1500)).splitlines()
    assert len(found) == 1500 and found[0].startswith("0001500")


async def test_following(log: Path) -> None:
    alive, news = True, asyncio.Event()
    pieces = logs.read(log, LogOptions(follow=True, tail=1), lambda: alive, lambda: news)
    seen = b""

    async def until(end: bytes) -> None:
        nonlocal seen
        async with asyncio.timeout(5):
            while not seen.endswith(end):
                seen += await anext(pieces)

    await until(b"four\n")
    with log.open("a") as file:
        file.write(line(5, "five"))
    await until(b"five\n")
    with log.open("a") as file:
        file.write(line(6, "six"))
        log.rename(log.with_name("0.log.20260131-093006"))
    log.write_text(line(7, "seven"))
    await until(b"seven\n")
    with log.open("a") as file:
        file.write(line(8, "last words"))
    alive = False
    news.set()
    async with asyncio.timeout(5):
        seen += b"".join([piece async for piece in pieces])
    assert seen.decode() == "four\nfive\nsix\nseven\nlast words\n"


def test_tail_for_termination_messages(log: Path) -> None:
    assert tail(log, lines=3) == "three\nfour\n" or tail(log, lines=3) == "ee\nfour\n"
    assert tail(log.with_name("none")) == ""


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        (b"2026-01-02T03:04:05.123456789Z", b"2026-01-02T03:04:05.123456789Z"),
        (b"2026-01-02T03:04:05.123456789+00:00", b"2026-01-02T03:04:05.123456789Z"),
        (b"2026-01-02T03:04:05.123456789+05:30", b"2026-01-01T21:34:05.123456789Z"),
        (b"2026-01-01T23:04:05.5-02:00", b"2026-01-02T01:04:05.5Z"),
        (b"yesterday", b"yesterday"),
    ],
)
def test_local_times_are_read_as_utc(written: bytes, compared: bytes) -> None:
    entry = logs.parse(written + b" stdout F text")
    assert entry is not None and entry.time == compared


async def test_what_is_written_faster_than_it_is_read_has_an_end(log: Path) -> None:
    """As `kubectl logs` of a container that floods its log."""
    log.write_text(line(1, "x" * 1000) * 200)
    sent = 0
    async for piece in logs.read(log, LogOptions(), lambda: True, asyncio.Event):
        sent += piece.count(b"\n")
        with log.open("a") as more:
            more.write(line(2, "y" * 1000) * 200)
    assert sent == 200


@pytest.mark.parametrize("lines", [1, 70, 399, 400, 401])
async def test_a_tail_of_many_blocks(log: Path, lines: int) -> None:
    texts = [f"{number} " + "x" * (number % 700) * 4 for number in range(400)]
    log.write_text("".join(line(1, text) for text in texts))
    assert log.stat().st_size > 4 * logs.CHUNK
    assert (await text_of(log, tail=lines)).splitlines() == texts[-lines:]
