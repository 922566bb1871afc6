"""Who may use the embedded registry: a file of `name:password` lines (0600), read again whenever it changes.

The first start writes one user with a random password of 256 bits, and beside it `auth.json`, the same in the format that skopeo,
podman and docker read (`--authfile`, DOCKER_CONFIG). Whoever can read these files can read the whole data directory anyway. Lines may
be added by hand; removing one takes effect with the next request.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from sampan.image.auth import Auth

USER = "sampan"


class Credentials:
    def __init__(self, directory: Path) -> None:
        self.file, self.auth_file = directory / "users", directory / "auth.json"
        self._seen: tuple[int, int, int] | None = None
        self._users: dict[str, str] = {}

    def ensure(self, hosts: Sequence[str]) -> Auth:
        """Both files exist on return; the first user."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.file.exists():
            _write(self.file, f"{USER}:{secrets.token_urlsafe(32)}\n")
        auth = self.first()
        encoded = base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()
        text = json.dumps({"auths": {host: {"auth": encoded} for host in hosts}}, indent=2) + "\n"
        if not self.auth_file.exists() or self.auth_file.read_text() != text:
            _write(self.auth_file, text)
        return auth

    def first(self) -> Auth:
        """Raises OSError, or ValueError when the file names nobody."""
        self._read()
        if not self._users:
            raise ValueError(f"{self.file}: no line name:password")
        name, password = next(iter(self._users.items()))
        return Auth(name, password)

    def admit(self, header: str) -> bool:
        """Whether the Authorization header (RFC 7617) is that of a user. Takes the same time for any wrong password."""
        scheme, _, encoded = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            self._read()
        except (ValueError, OSError):
            return False
        expected = self._users.get(name)
        same = hmac.compare_digest(password.encode(), (expected or "").encode())
        return same and bool(expected)

    def _read(self) -> None:
        status = self.file.stat()
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self._seen:
            return
        found = {}
        for line in self.file.read_text().splitlines():
            name, colon, password = line.strip().partition(":")
            if colon and name and password and not name.startswith("#"):
                found[name] = password
        self._users, self._seen = found, seen


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(beside, path)
