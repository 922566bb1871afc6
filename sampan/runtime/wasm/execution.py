"""exec: another module of the image, run once beside the container with the client's streams as its stdio.

With a terminal, its stdio is one of ours: the kernel edits lines and echoes, ^D ends the input. Nobody in the guest can
take a signal, so ^C, which a terminal would make one of, ends the guest.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pty
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from sampan.cri.streams import Streams, Writer
from sampan.image import UnpackedImage
from sampan.runtime import files
from sampan.runtime.sandbox import NotSupported
from sampan.runtime.wasm.link import Link, readable, writable

CHUNK = 32 * 1024
INTERRUPT, END_OF_INPUT = b"\x03", b"\x04"
TIMED_OUT = 124  # as timeout(1)


async def run(
    link: Link,
    what: dict[str, Any],
    streams: Streams,
    timeout: float,
    running: set[int],
    tty: bool = False,
) -> int:
    """Run to the end; the exit code. Cancelled or timed out: the process is killed.

    Its pidfd is in `running` meanwhile, so that it can be ended with its container.
    """
    guests, our_in, outputs = _terminal() if tty else _pipes()
    if streams.stdin is None:
        os.close(our_in)
    try:
        started = await link.start(what, guests)
    except BaseException:
        for fd in (*outputs, *([our_in] if streams.stdin is not None else [])):
            os.close(fd)
        raise
    finally:
        for fd in guests:
            os.close(fd)
    running.add(started.pidfd)
    feeding = None
    if streams.stdin is not None:
        typed = started.pidfd if tty else None
        feeding = asyncio.ensure_future(_feed(streams.stdin, our_in, typed))
    try:
        async with asyncio.timeout(timeout or None):
            async with asyncio.TaskGroup() as group:
                for fd, writer in zip(outputs, (streams.stdout, streams.stderr), strict=False):
                    group.create_task(_copy(fd, writer))
            await readable(started.pidfd)
        with suppress(BlockingIOError):
            data = started.status.recv(64)
            if data.startswith(b"exit"):
                return int(data[4:])
        return 137
    except TimeoutError:
        return TIMED_OUT
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(started.pidfd, signal.SIGKILL)
        if feeding is not None:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        running.discard(started.pidfd)
        os.close(started.pidfd)
        started.status.close()


def _pipes() -> tuple[tuple[int, int, int], int, list[int]]:
    """The guest's stdio, our end of its input, our ends of its outputs."""
    guest_in, our_in = os.pipe()
    our_out, guest_out = os.pipe()
    our_err, guest_err = os.pipe()
    return (guest_in, guest_out, guest_err), our_in, [our_out, our_err]


def _terminal() -> tuple[tuple[int, int, int], int, list[int]]:
    master, slave = pty.openpty()
    for fd in (master, slave):
        os.set_inheritable(fd, False)
    return (slave, os.dup(slave), os.dup(slave)), master, [os.dup(master)]


async def _copy(fd: int, writer: Writer | None) -> None:
    os.set_blocking(fd, False)
    try:
        while True:
            try:
                data = os.read(fd, CHUNK)
            except BlockingIOError:
                await readable(fd)
                continue
            except OSError as error:
                if error.errno == errno.EIO:  # nobody has the terminal open any more
                    return
                raise
            if not data:
                return
            if writer is not None:
                writer.write(data)
                await writer.drain()
    finally:
        os.close(fd)


async def _feed(reader: asyncio.StreamReader, fd: int, terminal_of: int | None) -> None:
    """The client's input into a pipe, which the guest may leave full for ever; or typed at the terminal of a pidfd."""
    os.set_blocking(fd, False)
    try:
        ended = False
        while not ended:
            data = await reader.read(CHUNK)
            ended = not data
            if terminal_of is not None:
                if INTERRUPT in data:
                    signal.pidfd_send_signal(terminal_of, signal.SIGINT)
                data = data or END_OF_INPUT
            while data:
                try:
                    data = data[os.write(fd, data) :]
                except BlockingIOError:
                    await writable(fd)
    except (BrokenPipeError, ProcessLookupError):
        return  # the guest has ended or does not read
    finally:
        os.close(fd)


def remember(directory: Path, image: UnpackedImage) -> None:
    """Keep what exec needs of the image, for a runtime that adopts the container."""
    kept = {
        "id": image.id,
        "reference": image.reference,
        "os": image.os,
        "architecture": image.architecture,
        "layers": [str(path) for path in image.layers],
        "modules": [str(path) for path in image.modules],
    }
    files.put(directory / "image.json", json.dumps(kept))  # if torn, `recall` says so


def recall(directory: Path) -> UnpackedImage:
    """The image of an adopted container. Raises NotSupported when it was not kept."""
    try:
        kept = json.loads((directory / "image.json").read_text())
    except (OSError, ValueError) as error:
        raise NotSupported(f"the image of this container is not known any more: {error}") from error
    return UnpackedImage(
        kept["id"],
        kept["reference"],
        kept["os"],
        kept["architecture"],
        tuple(Path(path) for path in kept["layers"]),
        tuple(Path(path) for path in kept["modules"]),
        {},
    )
