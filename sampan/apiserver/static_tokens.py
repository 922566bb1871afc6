"""Static tokens: a CSV file of `token,user,uid,"group1,group2"`, read once at start, as `--token-auth-file` has it.

Tokens are kept as digests, so that a look-up takes the same time whatever part of a guess is right.
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#static-token-file
"""

from __future__ import annotations

import csv
import hashlib
import logging
from pathlib import Path

from sampan.apiserver.auth import AUTHENTICATED
from sampan.client.transport import User

log = logging.getLogger(__name__)


class BadTokenFile(Exception):
    """The file cannot be used; names the line, never the token."""


class StaticTokens:
    """A `TokenSource`."""

    def __init__(self, users: dict[bytes, User]) -> None:
        self._users = users

    @classmethod
    def read(cls, path: Path) -> StaticTokens:
        """Raises BadTokenFile."""
        users: dict[bytes, User] = {}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
                    if not row or not any(row) or row[0].startswith("#"):
                        continue
                    if len(row) < 3:
                        raise BadTokenFile(
                            f"{path}, line {number}: expected at least 3 columns (token, user, uid), "
                            f"found {len(row)}"
                        )
                    token, name, uid, *groups = row
                    if not token:
                        log.warning("%s, line %d: an empty token is left out", path, number)
                        continue
                    listed = [each.strip() for each in (groups[0] if groups else "").split(",")]
                    members = tuple(dict.fromkeys((*filter(None, listed), AUTHENTICATED)))
                    key = digest(token)
                    if key in users:
                        log.warning("%s, line %d: this token was given before", path, number)
                    users[key] = User(name, members, uid)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BadTokenFile(f"{path}: {error}") from error
        return cls(users)

    async def user_of(self, token: str) -> User | None:
        return self._users.get(digest(token))


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
