"""Registry client: the pulling half of the OCI distribution specification 1.1, over aiohttp (imported when used).

Anonymous, basic and bearer-token authentication; manifests by tag and digest; choice from a multi-platform index. Every byte
is counted and hashed on its way to the content store; manifests are checked against the digest that named them. What may
pass by itself (connection errors, 429, 5xx) is tried again with growing pauses.

Plain HTTP is spoken only to loopback registries and to those that the user calls insecure.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from sampan.image.content import CHUNK, Content
from sampan.image.errors import BadImage, ImageNotFound, RegistryError, Unauthorized
from sampan.image.manifest import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    choose,
    media_type_of,
    read_json,
    read_layers,
)
from sampan.image.reference import DEFAULT_REGISTRY, Reference, is_digest

if TYPE_CHECKING:
    import aiohttp

DOCKER_HOST = "registry-1.docker.io"
ACCEPT = ", ".join(sorted(INDEXES | MANIFESTS))
ATTEMPTS = 4
FIRST_PAUSE, LAST_PAUSE = 0.25, 8.0  # seconds
MANIFEST_LIMIT = 4 << 20
PARALLEL = 3
STALLED = 60.0  # seconds without a byte
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials, as CRI's AuthConfig carries them; empty fields are not set."""

    username: str = ""
    password: str = ""
    identity_token: str = ""  # OAuth2 refresh token, exchanged at the token server
    registry_token: str = ""  # bearer token, sent as it is

    @classmethod
    def from_basic(cls, encoded: str) -> Auth:
        """From `auth` of a docker config: base64 of user:password."""
        user, _, password = base64.b64decode(encoded).decode().partition(":")
        return cls(user, password)

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class Pulled:
    manifest: str  # digest of the platform's manifest
    resolved: str  # digest that the reference stands for: the index's, when there is one


def is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def parse_challenge(header: str) -> tuple[str, dict[str, str]]:
    """WWW-Authenticate (RFC 9110 §11.6.1): the scheme in lower case, and its parameters."""
    scheme, _, rest = header.strip().partition(" ")
    return scheme.lower(), {
        name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)
    }


async def fetch(
    reference: Reference,
    content: Content,
    platforms: Sequence[str],
    auth: Auth | None = None,
    insecure: Sequence[str] = (),
) -> Pulled:
    """Bring an image's manifest, configuration and layers into the content store."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=STALLED)
    async with aiohttp.ClientSession(
        timeout=timeout, auto_decompress=False, headers={"User-Agent": "sampan"}, trust_env=True
    ) as session:
        return await _Pull(session, reference, content, auth, insecure).run(platforms)


class _Pull:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        reference: Reference,
        content: Content,
        auth: Auth | None,
        insecure: Sequence[str],
    ) -> None:
        self.session, self.reference, self.content, self.auth = session, reference, content, auth
        host = DOCKER_HOST if reference.registry == DEFAULT_REGISTRY else reference.registry
        plain = is_loopback(host) or reference.registry in insecure
        self.schemes = ["https", "http"] if plain else ["https"]
        if is_loopback(host):
            self.schemes.reverse()
        self.host = host
        self.authorization = ""
        if auth is not None and auth.registry_token:
            self.authorization = f"Bearer {auth.registry_token}"
        self._logging_in = asyncio.Lock()

    async def run(self, platforms: Sequence[str]) -> Pulled:
        what = f'"{self.reference}"'
        try:
            media_type, digest, document = await self._manifest(self.reference.target)
        except ImageNotFound:
            raise ImageNotFound(
                f"failed to resolve reference {what}: {self.reference}: not found"
            ) from None
        except Unauthorized as error:
            raise Unauthorized(
                f"failed to resolve reference {what}: pull access denied, repository does not exist "
                f"or may require authorization: {error}",
                error.status,
            ) from None
        except RegistryError as error:
            raise RegistryError(
                f"failed to resolve reference {what}: {error}", error.status
            ) from None
        resolved = digest
        for _ in range(4):
            if media_type in MANIFESTS:
                break
            children = [Descriptor.read(child) for child in document.get("manifests") or []]
            media_type, digest, document = await self._manifest(choose(children, platforms).digest)
        else:
            raise BadImage("image indexes nest too deep")
        config, layers = read_layers(document)
        gate = asyncio.Semaphore(PARALLEL)
        blobs = {blob.digest: blob for blob in (config, *layers)}
        try:
            async with asyncio.TaskGroup() as group:
                for blob in blobs.values():
                    group.create_task(self._blob(blob, gate))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return Pulled(digest, resolved)

    # Documents and blobs

    async def _manifest(self, target: str) -> tuple[str, str, dict[str, Any]]:
        """Media type, digest and document; the bytes are in the content store."""

        async def read(response: aiohttp.ClientResponse) -> tuple[str, str, dict[str, Any]]:
            data = b""
            async for chunk in response.content.iter_chunked(CHUNK):
                data += chunk
                if len(data) > MANIFEST_LIMIT:
                    raise BadImage(f"manifest {target} is larger than {MANIFEST_LIMIT} bytes")
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            declared = response.headers.get("Docker-Content-Digest", "")
            expected = target if is_digest(target) else declared
            if is_digest(expected) and expected.startswith("sha256:") and expected != digest:
                raise BadImage(
                    f"manifest does not match its digest: expected {expected}, got {digest}"
                )
            document = read_json(data, "the manifest")
            media_type = media_type_of(document, response.headers.get("Content-Type", ""))
            return media_type, await asyncio.to_thread(self.content.put, data), document

        if is_digest(target) and self.content.has(target):
            document = read_json(self.content.read(target), "the manifest")
            return media_type_of(document), target, document
        return await self._get(f"manifests/{target}", {"Accept": ACCEPT}, read)

    async def _blob(self, blob: Descriptor, gate: asyncio.Semaphore) -> None:
        async with gate:
            if await asyncio.to_thread(self.content.has, blob.digest):
                return

            async def read(response: aiohttp.ClientResponse) -> None:
                with self.content.writer(blob.digest, blob.size) as writer:
                    async for chunk in response.content.iter_chunked(CHUNK):
                        await asyncio.to_thread(writer.write, chunk)
                    await asyncio.to_thread(writer.commit)

            await self._get(f"blobs/{blob.digest}", {}, read)

    # HTTP

    async def _get(self, path: str, headers: Mapping[str, str], read: Any) -> Any:
        """GET below /v2/<repository>/, logged in where asked, tried again where that may help."""
        import aiohttp

        pause = FIRST_PAUSE
        for attempt in range(ATTEMPTS):
            last = attempt == ATTEMPTS - 1
            try:
                return await self._once(path, headers, read)
            except RegistryError as error:
                if last or error.status not in _RETRIED:
                    raise
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if self._next_scheme(error):
                    continue
                if last:
                    text = str(error) or type(error).__name__
                    raise RegistryError(
                        f'failed to do request: Get "{self._url(path)}": {text}'
                    ) from error
            await asyncio.sleep(pause)
            pause = min(pause * 3, LAST_PAUSE)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _next_scheme(self, error: Exception) -> bool:
        """A loopback registry may speak TLS, an insecure one plain HTTP: try the other once, before any answer."""
        if len(self.schemes) < 2:
            return False
        import aiohttp

        wrong = isinstance(
            error,
            aiohttp.ClientSSLError | aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError,
        )
        if wrong:
            self.schemes.pop(0)
        return wrong

    def _url(self, path: str) -> str:
        return f"{self.schemes[0]}://{self.host}/v2/{self.reference.repository}/{path}"

    async def _once(self, path: str, headers: Mapping[str, str], read: Any) -> Any:
        for first in (True, False):
            sent = dict(headers)
            used = self.authorization
            if used:
                sent["Authorization"] = used
            async with self._open(self._url(path), sent) as response:
                if response.status == 200:
                    result = await read(response)
                    self.schemes = self.schemes[:1]
                    return result
                if response.status == 401 and first:
                    challenges = response.headers.getall("WWW-Authenticate", [])
                else:
                    await self._raise(response)
            await self._log_in(challenges, used)
        raise AssertionError("unreachable: the second answer returns or raises")

    def _open(self, url: str, headers: dict[str, str]) -> _Redirected:
        return _Redirected(self.session, url, headers)

    @staticmethod
    async def _raise(response: aiohttp.ClientResponse) -> None:
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
        raise RegistryError(
            f"unexpected status from GET request to {response.url.with_query(None)}: "
            f"{status} {response.reason}{': ' + text if text else ''}",
            status,
        )

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
        scope = offer.get("scope") or f"repository:{self.reference.repository}:pull"
        fields = {"scope": scope}
        if service := offer.get("service"):
            fields["service"] = service
        headers: dict[str, str] = {}
        if self.auth is not None and self.auth.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": self.auth.identity_token,
                "client_id": "sampan",
            }
            request = self.session.post(realm, data=fields, allow_redirects=False)
        else:
            if self.auth is not None and self.auth.username:
                headers["Authorization"] = self.auth.basic
            request = self.session.get(realm, params=fields, headers=headers, allow_redirects=False)
        async with request as response:
            if response.status != 200:
                await self._raise(response)
            answer = read_json(await response.content.read(1 << 20), "the token server's answer")
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise RegistryError("the token server sent no token")
        return token


class _Redirected:
    """A GET that follows redirects itself: credentials go to the registry's own host only, and never to plain HTTP
    when the registry spoke TLS (blobs are commonly redirected to object storage)."""

    def __init__(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        self.session, self.url, self.headers = session, url, headers
        self._response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        url, headers = self.url, dict(self.headers)
        first = urlsplit(url)
        for _ in range(6):
            response = await self.session.get(url, headers=headers, allow_redirects=False)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                self._response = response
                return response
            response.release()
            url = urljoin(url, location)
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and first.scheme == "http"):
                raise RegistryError(f"redirected to {parts.scheme}, which is not secure")
            if parts.netloc != first.netloc:
                headers.pop("Authorization", None)
        raise RegistryError(f"too many redirects from {self.url}")

    async def __aexit__(self, *_: object) -> None:
        if self._response is not None:
            self._response.release()
