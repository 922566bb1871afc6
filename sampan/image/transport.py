"""One repository at one endpoint over HTTP: logging in, redirects, retries, and the words of a failure.

Anonymous, basic and bearer-token authentication (distribution spec; OAuth2 where there is a refresh token). What may pass by itself
(connection errors, 408, 429, 5xx) is tried again with growing pauses, or when the registry says: Retry-After. Credentials go to
the registry's own host and to the token server that it names over TLS; never to where a redirect leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from sampan.image.errors import BadImage, ImageNotFound, RegistryError, Unauthorized
from sampan.image.hosts import Endpoint
from sampan.image.manifest import read_json

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
Read = Callable[["aiohttp.ClientResponse"], Awaitable[T]]

ATTEMPTS = 4
FIRST_PAUSE, LAST_PAUSE = 0.25, 8.0  # seconds
LONGEST_WISH = 60.0  # seconds of Retry-After that we follow
STALLED = 60.0  # seconds without a byte
CLIENT_ID = "sampan"
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,]+))')


class Interrupted(RegistryError):
    """The connection broke while a body came: what is here so far counts, and the rest can be asked for."""


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """WWW-Authenticate (RFC 9110 §11.6.1): the scheme in lower case, and its parameters."""
    scheme, _, rest = header.strip().partition(" ")
    return scheme.lower(), {
        name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)
    }


@cache
def system_authorities() -> ssl.SSLContext:
    """What this machine trusts: read by the first who asks a registry, which takes 45 ms."""
    return ssl.create_default_context()


@contextlib.asynccontextmanager
async def session(endpoint: Endpoint) -> AsyncIterator[aiohttp.ClientSession]:
    import aiohttp

    try:
        context = endpoint.tls.context()
        if context is None:
            context = await asyncio.to_thread(system_authorities)
    except OSError as error:
        raise RegistryError(f"TLS settings of {endpoint.host}: {error}") from None
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=STALLED)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        timeout=timeout,
        auto_decompress=False,
        headers={
            "User-Agent": CLIENT_ID,
            "Accept-Encoding": "identity",
        },  # digests are of bytes as sent
        trust_env=True,
    ) as found:
        yield found


class Repository:
    """`name` at `endpoint`, for `actions` ("pull" or "pull,push")."""

    def __init__(
        self, http: aiohttp.ClientSession, endpoint: Endpoint, name: str, actions: str = "pull"
    ) -> None:
        self.http, self.endpoint, self.actions = http, endpoint, actions
        self.name = endpoint.repository(name)
        self.auth = endpoint.auth
        self.schemes = list(endpoint.schemes)
        self.authorization = ""
        if self.auth is not None and self.auth.registry_token:
            self.authorization = f"Bearer {self.auth.registry_token}"
        self._logging_in = asyncio.Lock()

    def url(self, path: str) -> str:
        return f"{self.schemes[0]}://{self.endpoint.host}{self.endpoint.path}/{self.name}/{path}"

    async def get(self, path: str, headers: Mapping[str, str], read: Read[T]) -> T:
        return await self.send("GET", path, read, headers=headers, accepted=(200, 206))

    async def send(
        self,
        method: str,
        path: str,
        read: Read[T],
        *,
        accepted: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Callable[[], Any] | None = None,
        attempts: int | None = None,
    ) -> T:
        """One request below the repository, logged in where asked, tried again where that may help.

        `path` may be a whole URL. `body()` makes the body anew for each attempt. Raises RegistryError and its kind.
        """
        import aiohttp

        pause, tries = FIRST_PAUSE, attempts or ATTEMPTS
        attempt = 0
        while True:
            attempt += 1
            last = attempt >= tries
            wish = 0.0
            try:
                return await self._once(method, path, headers or {}, body, read, accepted)
            except Interrupted:
                raise
            except RegistryError as error:
                if last or error.status not in _RETRIED:
                    raise
                wish = error.retry_after
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if self._next_scheme(error):
                    attempt -= 1
                    continue
                untrusted = isinstance(error, aiohttp.ClientConnectorCertificateError)
                if last or untrusted:
                    text = str(error) or type(error).__name__
                    raise RegistryError(
                        f'failed to do request: {method.capitalize()} "{self._absolute(path)}": {text}'
                    ) from error
            await asyncio.sleep(min(max(pause, wish), LONGEST_WISH))
            pause = min(pause * 3, LAST_PAUSE)

    def _absolute(self, path: str) -> str:
        return path if "://" in path else self.url(path)

    def _next_scheme(self, error: Exception) -> bool:
        """A loopback registry may speak TLS, an insecure one plain HTTP: try the other once, before any answer.

        Without a port in its name the other scheme is another port: then nobody there is a reason, too.
        """
        if len(self.schemes) < 2:
            return False
        import aiohttp

        wrong = isinstance(
            error,
            aiohttp.ClientSSLError | aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError,
        )
        if urlsplit(f"//{self.endpoint.host}").port is None:
            silent = aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
            unknown = isinstance(error, aiohttp.ClientConnectorDNSError)
            wrong = wrong or (isinstance(error, silent) and not unknown)
        if wrong:
            self.schemes.pop(0)
        return wrong

    async def _once(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: Callable[[], Any] | None,
        read: Read[T],
        accepted: Collection[int],
    ) -> T:
        for first in (True, False):
            sent = dict(headers)
            used = self.authorization
            if used:
                sent["Authorization"] = used
            async with self._open(method, self._absolute(path), sent, body) as response:
                if response.status in accepted:
                    self.schemes = self.schemes[:1]
                    return await read(response)
                if response.status == 401 and first:
                    challenges = response.headers.getall("WWW-Authenticate", [])
                else:
                    await raise_for(response, method)
            await self._log_in(challenges, used)
        raise AssertionError("unreachable: the second answer returns or raises")

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, url: str, headers: dict[str, str], body: Callable[[], Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Follows redirects itself (blobs are commonly redirected to object storage)."""
        first, at = urlsplit(self.url("")), url
        for _ in range(6):
            parts = urlsplit(at)
            if parts.netloc != first.netloc:
                headers.pop("Authorization", None)
            data = body() if body is not None else None
            async with self.http.request(
                method, at, headers=headers, data=data, allow_redirects=False
            ) as response:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    yield response
                    return
            at = urljoin(at, location)
            scheme = urlsplit(at).scheme
            if scheme != "https" and not (scheme == "http" and first.scheme == "http"):
                raise RegistryError(f"redirected to {scheme}, which is not secure")
        raise RegistryError(f"too many redirects from {url}")

    # Logging in

    async def _log_in(self, challenges: Sequence[str], refused: str) -> None:
        async with self._logging_in:
            if self.authorization != refused:  # another blob's request has logged in meanwhile
                return
            offers = dict(parse_challenge(header) for header in challenges)
            if "bearer" in offers:
                self.authorization = f"Bearer {await self._token(offers['bearer'])}"
            elif "basic" in offers and self.auth is not None and self.auth.username:
                self.authorization = self.auth.basic
            elif "basic" in offers:
                raise Unauthorized("server message: authentication required", 401)
            else:
                raise Unauthorized("the registry asks for an unknown kind of authentication", 401)

    async def _token(self, offer: Mapping[str, str]) -> str:
        """The token server's answer (distribution spec: token authentication; OAuth2 for refresh tokens)."""
        realm = offer.get("realm", "")
        parts = urlsplit(realm)
        secure = parts.scheme == "https" or (
            parts.scheme == "http" and self.schemes[0] == "http" and bool(parts.hostname)
        )
        if not secure:  # credentials go there: never in the clear because a header said so
            raise RegistryError(f"the registry names an unusable token server {realm!r}")
        scope = offer.get("scope") or f"repository:{self.name}:{self.actions}"
        fields = {"scope": scope}
        if service := offer.get("service"):
            fields["service"] = service
        headers: dict[str, str] = {}
        if self.auth is not None and self.auth.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": self.auth.identity_token,
                "client_id": CLIENT_ID,
            }
            request = self.http.post(realm, data=fields, allow_redirects=False)
        else:
            if self.auth is not None and self.auth.username:
                headers["Authorization"] = self.auth.basic
            request = self.http.get(realm, params=fields, headers=headers, allow_redirects=False)
        async with request as response:
            if response.status != 200:
                await raise_for(response, "GET")
            answer = read_json(await response.content.read(1 << 20), "the token server's answer")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise RegistryError("the token server sent no token")
        return token


async def raise_for(response: aiohttp.ClientResponse, method: str) -> None:
    """The error that an answer stands for, in the words of the registry (distribution spec: error codes)."""
    status, text = response.status, ""
    body = await response.content.read(64 << 10)
    try:
        errors = read_json(body, "the answer").get("errors") or []
        text = "; ".join(
            f"{str(e.get('code', '')).lower()}: {e.get('message', '')}" for e in errors
        )
    except (BadImage, AttributeError, TypeError):
        pass
    if status == 404:
        raise ImageNotFound(text or "not found")
    if status in (401, 403):
        raise Unauthorized(f"server message: {text or response.reason}", status)
    wish = response.headers.get("Retry-After", "")
    raise RegistryError(
        f"unexpected status from {method} request to {response.url.with_query(None)}: "
        f"{status} {response.reason}{': ' + text if text else ''}",
        status,
        float(wish) if wish.isdecimal() else 0.0,
    )
