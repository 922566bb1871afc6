"""QEMU's control socket (QMP): commands, their answers, events, and descriptors sent along.

https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from sampan.runtime.microvm import sockets
from sampan.runtime.microvm.errors import VMMError

ANSWER_LIMIT = 20.0
LONGEST_LINE = 4 << 20


class Control(asyncio.Protocol):
    def __init__(self, connection: socket.socket, on_event: Callable[[str, Any], None]) -> None:
        self._connection = connection
        self._on_event = on_event
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number = 0
        self._ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are not of that class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > LONGEST_LINE:
            self.close()
            return
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "QMP" in message and not self._greeted.done():
            self._greeted.set_result(None)
        elif "event" in message:
            self._on_event(message["event"], message.get("data"))
        elif (future := self._waiting.pop(message.get("id", 0), None)) and not future.done():
            if "error" in message:
                future.set_exception(VMMError(f"QEMU: {message['error'].get('desc')}"))
            else:
                future.set_result(message.get("return"))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._ended.set()
        self._connection.close()
        gone = VMMError("QEMU has ended")
        for future in (self._greeted, *self._waiting.values()):
            if not future.done():
                future.set_exception(gone)
                future.exception()
        self._waiting.clear()

    async def greet(self) -> None:
        """The answer to its greeting goes out before that has come: QEMU reads it behind."""
        answered = asyncio.ensure_future(self.command("qmp_capabilities"))
        try:
            async with asyncio.timeout(ANSWER_LIMIT):
                await self._greeted
        except TimeoutError:
            raise VMMError(f"QEMU said nothing within {ANSWER_LIMIT:g} s") from None
        finally:
            if not self._greeted.done() or self._greeted.exception():
                answered.cancel()
        await answered

    async def command(self, name: str, *, descriptor: int = -1, **arguments: Any) -> Any:
        """Its answer. Raises VMMError with QEMU's own words."""
        if self._transport is None:
            raise VMMError("QEMU has ended")
        self._number += 1
        number = self._number
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        line = json.dumps({"execute": name, "id": number, "arguments": named}).encode() + b"\n"
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            if descriptor >= 0:
                socket.send_fds(self._connection, [line], [descriptor])
            else:
                self._transport.write(line)
            async with asyncio.timeout(ANSWER_LIMIT):
                return await future
        except TimeoutError:
            raise VMMError(f"QEMU did not answer {name} within {ANSWER_LIMIT:g} s") from None
        except OSError as error:
            raise VMMError(f"QEMU: {error}") from error
        finally:
            self._waiting.pop(number, None)

    async def hang_up(self) -> None:
        """QEMU has closed its end too on return: it does when it reads that nothing more comes. Raises VMMError."""
        if self._transport is None:
            return
        try:
            self._connection.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(ANSWER_LIMIT):
                await self._ended.wait()
        except TimeoutError:
            raise VMMError(f"QEMU did not hang up within {ANSWER_LIMIT:g} s") from None
        except OSError as error:
            raise VMMError(f"QEMU: {error}") from error

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect(path: Path, on_event: Callable[[str, Any], None]) -> Control:
    """Raises OSError when nobody listens, VMMError when it is not QEMU."""
    connection = sockets.connect(path)
    try:
        connection.setblocking(False)
        second = connection.dup()
        try:
            loop = asyncio.get_running_loop()
            _, control = await loop.create_unix_connection(
                lambda: Control(second, on_event), sock=connection
            )
        except BaseException:
            second.close()
            raise
    except BaseException:
        connection.close()
        raise
    try:
        await control.greet()
    except BaseException:
        control.close()
        raise
    return control
