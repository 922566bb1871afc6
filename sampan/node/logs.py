"""Container logs in CRI format, read and followed: `kubectl logs` with all its options.

    2026-01-31T09:30:00.123456789Z stdout F a whole line
    2026-01-31T09:30:00.123456790Z stdout P the beginning of a long

A partial line (P) goes on in the next entry of the same stream. Rotated files (`0.log.20260131-093000`) come before the
current one. Following waits for inotify, on the directory, so that a rotation is seen; nothing is polled.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sampan.node import linux

CHUNK = 64 * 1024
WATCHED = linux.IN_MODIFY | linux.IN_CREATE | linux.IN_MOVED_TO | linux.IN_ATTRIB


@dataclass(frozen=True, slots=True)
class LogOptions:
    follow: bool = False
    timestamps: bool = False
    tail: int | None = None  # lines; None: all
    since: str = ""  # RFC 3339 with nanoseconds, compared as text; "" from the beginning
    limit: int | None = None  # bytes
    stream: str = "All"  # Stdout, Stderr (KEP-3288)


@dataclass(frozen=True, slots=True)
class Entry:
    time: bytes
    stream: bytes
    partial: bool
    text: bytes


def parse(line: bytes) -> Entry | None:
    """One line of the file, without its newline; None for what is no entry."""
    parts = line.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    tags = parts[2].split(b":")
    return Entry(utc(parts[0]), parts[1], b"P" in tags, parts[3] if len(parts) == 4 else b"")


def utc(time: bytes) -> bytes:
    """Entries are compared as text. conmon writes local time with its offset, and `+00:00` for UTC."""
    if time.endswith(b"Z"):
        return time
    if time.endswith(b"+00:00"):
        return time[:-6] + b"Z"
    try:
        moment = datetime.fromisoformat((time[:19] + time[-6:]).decode()).astimezone(UTC)
    except ValueError:
        return time
    return moment.strftime("%Y-%m-%dT%H:%M:%S").encode() + time[19:-6] + b"Z"


def since_text(moment: datetime) -> str:
    """A moment as entries write it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def files(path: Path) -> list[Path]:
    """The log's files in the order they were written: rotated ones, then the current one."""
    rotated = sorted(p for p in path.parent.glob(f"{path.name}.*") if p.suffix != ".gz")
    return [*rotated, *([path] if path.exists() else [])]


class Renderer:
    """Turns entries into what is sent; keeps count of bytes and knows when there is enough."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._left = options.limit
        self._middle: set[bytes] = set()  # streams whose line is not ended
        self._since = options.since.encode()
        self.full = False

    def render(self, line: bytes) -> bytes:
        entry = parse(line)
        if entry is None or (self._since and entry.time < self._since):
            return b""
        wanted = self._options.stream
        if wanted != "All" and entry.stream.decode().title() != wanted:
            return b""
        text = entry.text
        if self._options.timestamps and entry.stream not in self._middle:
            text = entry.time + b" " + text
        if entry.partial:
            self._middle.add(entry.stream)
        else:
            self._middle.discard(entry.stream)
            text += b"\n"
        if self._left is not None:
            text = text[: self._left]
            self._left -= len(text)
            self.full = self._left <= 0
        return text


def begin_of_tail(path: Path, lines: int, end: int) -> tuple[int, int]:
    """Where the last `lines` whole log lines of the first `end` bytes begin, and how many there are: read backwards."""
    with open(path, "rb") as file:
        position, cut, found = end, b"", 0
        while position > 0 and lines:
            size = min(CHUNK, position)
            position -= size
            file.seek(position)
            block = file.read(size) + cut
            after = position + len(block)
            rows = block.split(b"\n")
            cut = rows.pop(0) if position else b""  # its beginning is in the block before
            for row in reversed(rows):
                if (entry := parse(row)) and not entry.partial:
                    if found == lines:
                        return after + 1, found
                    found += 1
                after -= len(row) + 1
    return (0 if lines else end), found


def stored(paths: list[Path], options: LogOptions) -> Iterator[tuple[Path, int, int]]:
    """(file, offset to begin at, and to end at) for what is already written."""
    ends = {path: path.stat().st_size for path in paths}
    if options.tail is None:
        yield from ((path, 0, end) for path, end in ends.items())
        return
    left, chosen = options.tail, []
    for path in reversed(paths):
        begin, found = begin_of_tail(path, left, ends[path])
        chosen.append((path, begin, ends[path]))
        left -= found
        if left <= 0:
            break
    yield from reversed(chosen)


class _Cursor:
    """How far the log was read: a file, known by its inode, and an offset at the beginning of a line."""

    def __init__(self, render: Renderer) -> None:
        self._render = render
        self.inode = 0
        self.offset = 0

    def jump(self, path: Path, offset: int) -> None:
        self.inode, self.offset = path.stat().st_ino, offset

    def take(self, path: Path, end: int | None = None) -> Iterator[bytes]:
        """What is to be sent of the file from the offset on; an unfinished line stays for the next time.

        `end`: how much was written when it was asked for. A container that writes faster than it is read has no other.
        """
        with open(path, "rb") as file:
            file.seek(self.offset)
            rest = b""
            left = CHUNK if end is None else end - self.offset
            while block := file.read(min(CHUNK, left)):
                left -= len(block) if end is not None else 0
                *lines, rest = (rest + block).split(b"\n")
                out = []
                for line in lines:
                    out.append(self._render.render(line))
                    self.offset += len(line) + 1
                    if self._render.full:
                        break
                yield b"".join(out)
                if self._render.full:
                    return

    def rotated_away(self, path: Path) -> Path | None:
        """The file that was being read, when the path names another one by now."""
        if not path.exists() or path.stat().st_ino == self.inode:
            return None
        return next((p for p in files(path) if p.stat().st_ino == self.inode), None)


async def read(
    path: Path, options: LogOptions, running: Callable[[], bool], news: Callable[[], asyncio.Event]
) -> AsyncIterator[bytes]:
    """The log as the user sees it. With `follow`, until the container has ended and all was sent.

    `running()` tells whether more may come; `news()` is an event that is set when that may have changed.
    """
    render = Renderer(options)
    cursor = _Cursor(render)
    watch = _Watch(path.parent) if options.follow else None
    try:
        for file, begin, end in stored(files(path), options):
            cursor.jump(file, begin)
            for piece in cursor.take(file, end):
                yield piece
        while watch is not None and not render.full:
            alive = running()
            changed, happened = watch.armed(), news()
            sent = 0
            if (old := cursor.rotated_away(path)) is not None:
                for piece in cursor.take(old):
                    yield piece
            if path.exists():
                if path.stat().st_ino != cursor.inode:
                    cursor.jump(path, 0)
                for piece in cursor.take(path):
                    sent += len(piece)
                    yield piece
            if sent:
                continue
            if not alive:
                return
            await _either(changed, happened)
    finally:
        if watch is not None:
            watch.close()


async def _either(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class _Watch:
    """Changes in a directory, as an event."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = linux.inotify()
        linux.inotify_watch(self._descriptor, directory, WATCHED)
        self._event = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_readable)

    def armed(self) -> asyncio.Event:
        """An event for changes from now on."""
        self._event.clear()
        return self._event

    def _on_readable(self) -> None:
        try:
            while os.read(self._descriptor, CHUNK):
                self._event.set()
        except BlockingIOError:
            return

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
