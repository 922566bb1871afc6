"""OpenID Connect: ID tokens of outside providers, checked here without asking the provider about each.

A provider is found by its token's issuer. Its keys are fetched from where its discovery document says, at the first token,
and again when a token names a key that is not known (at most every few seconds, so that made-up key names cost the provider
nothing) or when they are old. All fetching is done in threads, by one task at a time and provider, owned by the server;
a token that waits for it waits no longer than its request.
https://kubernetes.io/docs/reference/access-authn-authz/authentication/#openid-connect-tokens, OpenID Connect Discovery 1.0
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import orjson

from sampan.apiserver.oidc_claims import LEEWAY, Provider, check_claims, user_of_claims
from sampan.apiserver.tokens import InvalidToken
from sampan.client.transport import User

if TYPE_CHECKING:
    from jwt import PyJWK

log = logging.getLogger(__name__)

DISCOVERY = "/.well-known/openid-configuration"

FETCH_TIMEOUT = 10.0
FETCH_LIMIT = 1 << 20  # bytes of a discovery document or key set
FETCH_PAUSE = 5.0  # least seconds between two fetches that unknown keys ask for
KEYS_AGE = 3600.0  # seconds after which keys are fetched again while they are in use
REMEMBERED = 4096


class OIDC:
    """A `TokenSource` of one provider. `clock` gives seconds since the epoch."""

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.time) -> None:
        self.provider = provider
        self.clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched = -KEYS_AGE
        self._fetch: asyncio.Task[None] | None = None
        self._known: dict[bytes, tuple[User, float]] = {}  # by the token's digest, with its end

    async def user_of(self, token: str) -> User | None:
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is not None and self.clock() < known[1]:
            return known[0]
        header, claims = unverified(token)
        if claims.get("iss") != self.provider.issuer:
            return None
        verified = self._verify(token, await self._key(header))
        user = user_of_claims(self.provider, verified)
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[digest] = user, float(verified["exp"]) + LEEWAY
        return user

    def _verify(self, token: str, key: PyJWK) -> dict[str, Any]:
        import jwt

        provider = self.provider
        try:
            # The key's own algorithm is not taken for granted: only those that were configured (RFC 8725 §3.1).
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=list(provider.algorithms),
                options={
                    "verify_aud": False,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
                issuer=provider.issuer,
            )
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise InvalidToken(f"oidc: {error}") from error
        check_claims(provider, claims, self.clock())
        return claims

    async def _key(self, header: Mapping[str, Any]) -> PyJWK:
        name = header.get("kid")
        key = self._find(name)
        now = self.clock()
        if key is None:
            if now - self._fetched >= FETCH_PAUSE or self._fetch is not None:
                await asyncio.shield(self._begin_fetch())
                key = self._find(name)
        elif now - self._fetched >= KEYS_AGE:
            self._begin_fetch()  # what is known serves meanwhile
        if key is None:
            raise InvalidToken("oidc: the provider has no such key")
        return key

    def _find(self, name: Any) -> PyJWK | None:
        if isinstance(name, str) and name:
            return self._keys.get(name)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    def _begin_fetch(self) -> asyncio.Task[None]:
        if self._fetch is None:
            self._fetch = asyncio.get_running_loop().create_task(self._refresh())
        return self._fetch

    async def _refresh(self) -> None:
        provider = self.provider
        try:
            self._keys = await asyncio.to_thread(fetch_keys, provider)
        except (OSError, ValueError) as error:
            log.warning("oidc: keys of %s cannot be fetched: %s", provider.issuer, error)
        finally:
            self._fetched = self.clock()
            self._fetch = None

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)


def unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims as they stand; empty when the text is no JWT. For finding the issuer only."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}, {}
    found: list[dict[str, Any]] = []
    for part in parts[:2]:
        try:
            value = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except (binascii.Error, ValueError):
            return {}, {}
        if not isinstance(value, dict):
            return {}, {}
        found.append(value)
    return found[0], found[1]


# --- fetching, in a thread ------------------------------------------------------------------------------


def fetch_keys(provider: Provider) -> dict[str, PyJWK]:
    """Keys by id. Raises OSError or ValueError."""
    import jwt

    document = fetch(provider.discovery_url or provider.issuer.rstrip("/") + DISCOVERY, provider)
    if document.get("issuer") != provider.issuer:
        raise ValueError(
            f"the discovery document is of issuer {document.get('issuer')!r}, not {provider.issuer!r}"
        )
    keys: dict[str, PyJWK] = {}
    for index, entry in enumerate(fetch(document.get("jwks_uri"), provider).get("keys") or ()):
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        try:
            keys[str(entry.get("kid") or index)] = jwt.PyJWK(entry)
        except (jwt.PyJWTError, ValueError):
            continue  # of a kind that we do not know: others may do
    return keys


def fetch(url: Any, provider: Provider) -> dict[str, Any]:
    """A JSON object over HTTPS, no further than it was told to go."""
    if not isinstance(url, str) or urlsplit(url).scheme != "https":
        raise ValueError(f"{url!r} is not an https URL")
    context = ssl.create_default_context(cadata=provider.authority or None)
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    with opener.open(url, timeout=FETCH_TIMEOUT) as answer:
        if urlsplit(answer.geturl()).scheme != "https":
            raise ValueError(f"{url} leads to {answer.geturl()}")
        body = answer.read(FETCH_LIMIT + 1)
    if len(body) > FETCH_LIMIT:
        raise ValueError(f"{url}: more than {FETCH_LIMIT} bytes")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise ValueError(f"{url}: not a JSON object")
    return document
