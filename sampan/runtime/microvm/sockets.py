"""Unix sockets by directory and name: a socket's own path may take 107 bytes, and ours are longer."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def connect(path: Path) -> socket.socket:
    """Connected, and blocking. Raises OSError."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def listen(path: Path) -> socket.socket:
    """It takes connections before anybody serves them: so nobody has to wait for it to appear."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        path.chmod(0o600)
        listener.listen(4)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener
