"""What a URL of the streaming server stands for, and what is the same for all wire protocols."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sampan.cri.streaming import status
from sampan.cri.streams import Streams

LOG = logging.getLogger(__name__)

# How long a client has to close after it was told the end; closing first could cost it what is still under way.
FAREWELL = 5.0

Sizes = asyncio.Queue[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Attach:
    run: Callable[[Streams], Awaitable[int | None]]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


class Exec(Attach):
    """The same, and `run` returns an exit code."""


@dataclass(frozen=True, slots=True)
class PortForward:
    connect: Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


Session = Attach | PortForward


async def conduct(
    session: Attach, streams: Streams, connection: asyncio.Task[None]
) -> dict[str, Any] | None:
    """Run the session to its end and return the status; None when `connection` ended first: it is cancelled."""
    work = asyncio.ensure_future(session.run(streams))
    try:
        await asyncio.wait({work, connection}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return None
        try:
            return status.of_exit(work.result() or 0)
        except asyncio.CancelledError:
            return None
        except Exception as error:
            cause = first_cause(error)
            if not isinstance(cause, ConnectionError):
                LOG.info("session ended with an error: %s", cause)
            return status.of_error(cause)
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def first_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def put_size(sizes: Sizes, message: bytes) -> None:
    """`{"Width": columns, "Height": rows}`; a malformed one is passed over, and the newest wins."""
    try:
        size = json.loads(message)
        columns, rows = int(size["Width"]), int(size["Height"])
    except (ValueError, KeyError, TypeError):
        return
    if 0 <= columns < 65536 and 0 <= rows < 65536:
        while sizes.full():
            sizes.get_nowait()
        with contextlib.suppress(asyncio.QueueFull):
            sizes.put_nowait((columns, rows))
