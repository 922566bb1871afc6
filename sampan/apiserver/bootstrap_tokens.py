"""Bootstrap tokens: short-lived credentials with which new nodes join, kept as Secrets in kube-system.

`abcdef.0123456789abcdef` is the id and the secret of Secret `bootstrap-token-abcdef`. Who shows one is
`system:bootstrap:abcdef` in `system:bootstrappers` and in the groups that the Secret adds. An expired one is refused here at
once; the controller that deletes it may be late.
https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any

from sampan.apiserver.auth import AUTHENTICATED, Lookup
from sampan.apiserver.tokens import InvalidToken
from sampan.client.transport import User
from sampan.kube import objects

NAMESPACE = "kube-system"
SECRET_TYPE = "bootstrap.kubernetes.io/token"
NAME_PREFIX = "bootstrap-token-"
USER_PREFIX = "system:bootstrap:"
GROUP = "system:bootstrappers"

TOKEN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
EXTRA_GROUP = re.compile(r"system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]")


class BootstrapTokens:
    """A `TokenSource`. `clock` gives seconds since the epoch."""

    def __init__(self, lookup: Lookup, clock: Callable[[], float]) -> None:
        self.lookup = lookup
        self.clock = clock

    async def user_of(self, token: str) -> User | None:
        shape = TOKEN.fullmatch(token)
        if shape is None:
            return None
        identifier, secret = shape.groups()
        entry = await self.lookup.entry("", "v1", "secrets", NAMESPACE, NAME_PREFIX + identifier)
        if entry is None:
            raise InvalidToken("no such bootstrap token")
        found = entry.object()
        data = decoded(found)
        if not compare_digest(data.get("token-secret", "").encode(), secret.encode()):
            raise InvalidToken("the bootstrap token's secret is another")
        if found.get("type") != SECRET_TYPE or data.get("token-id") != identifier:
            raise InvalidToken("the secret is no bootstrap token")
        if objects.is_deleting(found) or has_expired(data, self.clock()):
            raise InvalidToken("the bootstrap token has expired")
        if data.get("usage-bootstrap-authentication") != "true":
            raise InvalidToken("the bootstrap token is not for authentication")
        extra = [each for each in data.get("auth-extra-groups", "").split(",") if each]
        if not all(EXTRA_GROUP.fullmatch(each) for each in extra):
            raise InvalidToken("the bootstrap token adds groups outside of system:bootstrappers")
        groups = dict.fromkeys((GROUP, *extra, AUTHENTICATED))
        return User(USER_PREFIX + identifier, tuple(groups))


def decoded(secret: dict[str, Any]) -> dict[str, str]:
    """A Secret's data as text; what is none is left out."""
    found = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    return found


def has_expired(data: dict[str, str], now: float) -> bool:
    """An expiration that cannot be read counts as passed."""
    text = data.get("expiration", "")
    if not text:
        return False
    try:
        return objects.parse_time(text) <= datetime.fromtimestamp(now, UTC)
    except (ValueError, TypeError):
        return True
