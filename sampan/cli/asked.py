"""The supervisor's end of the control socket: one JSON object a line there, one back, then the connection closes.

Never blocks: whoever connects and says nothing, or nonsense, or too much, costs a descriptor and nobody's time.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 4096  # bytes of a request
MOST = 32  # connections at once; more are closed unheard
USAGE = 'ask with one line: {"op": "status"} or {"op": "stop", "pods": true}'

Answer = Callable[[dict[str, Any], socket.socket], dict[str, Any] | None]


@dataclass(eq=False)
class Asker:
    connection: socket.socket
    buffer: bytes = b""


class ControlSocket:
    """`answer(request, connection)` gives the reply, or None to keep the connection and reply later."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, answer: Answer) -> None:
        self.answer = answer
        self.selector = selector
        self.askers: set[Asker] = set()
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        mask = os.umask(0o177)
        try:
            self.listener.bind(str(path))
        finally:
            os.umask(mask)
        self.listener.listen(8)
        self.listener.setblocking(False)
        selector.register(self.listener, selectors.EVENT_READ, self.accept)

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return  # it went away again
        connection.setblocking(False)
        if len(self.askers) >= MOST:
            connection.close()
            return
        asker = Asker(connection)
        self.askers.add(asker)
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.hear(asker))

    def hear(self, asker: Asker) -> None:
        try:
            data = asker.connection.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        asker.buffer += data
        line, end, _ = asker.buffer.partition(b"\n")
        if data and not end and len(asker.buffer) < LONGEST:
            return
        self.askers.discard(asker)
        self.selector.unregister(asker.connection)
        if not asker.buffer:
            asker.connection.close()
            return
        answer = self.respond(line, asker.connection)
        if answer is not None:
            reply(asker.connection, answer)

    def respond(self, line: bytes, connection: socket.socket) -> dict[str, Any] | None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            return {"error": USAGE}
        return self.answer(request, connection)

    def close(self) -> None:
        """In a forked child: let go of every connection without a word."""
        self.listener.close()
        for asker in self.askers:
            asker.connection.close()


def reply(connection: socket.socket, answer: dict[str, Any]) -> None:
    try:
        connection.setblocking(True)
        connection.settimeout(1.0)
        connection.sendall(json.dumps(answer).encode() + b"\n")
        connection.setblocking(False)
        while connection.recv(65536):  # what is left unheard would turn our close into a reset
            pass
    except OSError:
        pass  # the asker went away
    finally:
        connection.close()
