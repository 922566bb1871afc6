"""Asking the supervisor: one JSON line there, one back, on its socket in the run directory."""

from __future__ import annotations

import json
import socket
from typing import Any

from sampan.cli.config import Config

BUSY = 75  # exit code of a supervisor: another has the data directory (EX_TEMPFAIL)


def ask(
    config: Config, operation: str, timeout: float = 5.0, **arguments: Any
) -> dict[str, Any] | None:
    """The supervisor's answer; None when none runs. Raises TimeoutError when it does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(config.control_socket))
            client.sendall(json.dumps({"op": operation, **arguments}).encode() + b"\n")
            data = client.makefile("rb").readline()
        except (FileNotFoundError, ConnectionError):
            return None  # none, or one that ended while we asked
    return json.loads(data) if data else None
