"""The way to a remote API server: where it is, who we say asks, and its answer as it comes.

The remote trusts our front-proxy certificate (`requestheader-client-ca-file` in the ConfigMap
`kube-system/extension-apiserver-authentication`) and reads the user from `X-Remote-*` headers; what a client sent under these
names is dropped. Upgraded connections and watches pass through.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from sampan.apiserver import backends
from sampan.apiserver.aggregation.services import Remote
from sampan.apiserver.backends import Target
from sampan.apiserver.proxy import NOT_FORWARDED, SERVICE_LABEL, returned_headers
from sampan.apiserver.remote import RemoteAnswer
from sampan.apiserver.tunnel import is_upgrade, unreachable, upgrade
from sampan.client.transport import Request, Response, User
from sampan.kube import errors, objects

if TYPE_CHECKING:
    import aiohttp

    from sampan.apiserver.admission.plugin import Lookup
    from sampan.apiserver.pki import Pair

Object = dict[str, Any]
CONNECT_TIMEOUT = 10.0
LIMIT = 32 << 20  # bytes of a document that is read whole
REMOTE_HEADERS = "x-remote-"


class Backend:
    """Calls to remote servers, over connections that are kept. `close` ends them."""

    def __init__(self, lookup: Lookup, client: Pair) -> None:
        self.lookup = lookup
        self.client = client
        self._session: aiohttp.ClientSession | None = None

    async def slices(self, remote: Remote) -> list[Object]:
        found = await self.lookup.all("discovery.k8s.io", "v1", "endpointslices")
        return [
            each
            for each in found
            if objects.namespace(each) == remote.namespace
            and objects.labels(each).get(SERVICE_LABEL) == remote.service
        ]

    async def service(self, remote: Remote) -> Object | None:
        entry = await self.lookup.entry("", "v1", "services", remote.namespace, remote.service)
        return entry.object() if entry else None

    async def target(self, remote: Remote, path: str, query: str) -> Target:
        """Raises ApiError 503 when the Service leads nowhere."""
        service = await self.service(remote)
        if service is None:
            raise errors.service_unavailable("service unavailable")
        spec = service.get("spec") or {}
        if spec.get("type") == "ExternalName":
            host = spec.get("externalName", "")
            return Target("https", host, remote.port, path, query, remote.server_name)
        targets = backends.service_targets(
            service, await self.slices(remote), "https", str(remote.port), path, query
        )
        return replace(random.choice(targets), server_name=remote.server_name)

    def context(self, remote: Remote) -> ssl.SSLContext:
        stamp = self.client.crt.stat().st_mtime_ns  # it is renewed in place
        return _context(self.client, stamp, remote.bundle, remote.insecure)

    async def forward(self, remote: Remote, request: Request, user: User) -> Response:
        """The remote's answer to a client's request. Raises ApiError."""
        query = urlencode(list(request.pairs()))
        target = await self.target(remote, request.path, query)
        if is_upgrade(request):
            identity = list(identity_headers(user))
            return await upgrade(request, target, self.context(remote), identity)
        headers = [
            (name.title(), line)
            for name, value in request.headers.items()
            if name not in NOT_FORWARDED
            and not name.startswith(("impersonate-", REMOTE_HEADERS, "x-forwarded-"))
            for line in value.split("\n")
        ]
        headers += [("X-Forwarded-Uri", request.path), ("X-Forwarded-Proto", "https")]
        if request.remote:
            headers.append(("X-Forwarded-For", request.remote))
        headers += identity_headers(user)
        answer = await self._send(remote, request.method, target, headers, request.body)
        return Response(answer.status, returned_headers(answer.headers), answer)

    async def read(
        self, remote: Remote, path: str, user: User, accept: str = "application/json"
    ) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) of a document of the remote's. Raises ApiError when it cannot be reached."""
        target = await self.target(remote, path, "")
        headers = [("Accept", accept), *identity_headers(user)]
        answer = await self._send(remote, "GET", target, headers, b"")
        body = b""
        try:
            async for part in answer:
                body += part
                if len(body) > LIMIT:
                    raise errors.internal(f"{remote.name}: {path} is too long")
        except ConnectionError as error:
            raise unreachable(target, error) from error
        finally:
            await answer.aclose()
        return answer.status, {name.lower(): value for name, value in answer.headers}, body

    async def _send(
        self,
        remote: Remote,
        method: str,
        target: Target,
        headers: list[tuple[str, str]],
        body: bytes,
    ) -> Answer:
        import aiohttp
        from multidict import CIMultiDict
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            )
        try:
            response = await self._session.request(
                method,
                URL(target.url, encoded=True),
                headers=CIMultiDict(headers),
                data=body or None,
                allow_redirects=False,
                ssl=self.context(remote),
                server_hostname=target.server_name,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(target, error) from error
        return Answer(response)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class Answer(RemoteAnswer):
    """A remote's answer. Read to its end, the connection is kept for the next."""

    async def aclose(self) -> None:
        """Idempotent. A body that was not read to its end ends the connection."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


def identity_headers(user: User) -> Iterator[tuple[str, str]]:
    """Who asks, as the request-header authenticator reads it. Keys of extra are percent-encoded there."""
    yield "X-Remote-User", user.name
    if user.uid:
        yield "X-Remote-Uid", user.uid
    for group in user.groups:
        yield "X-Remote-Group", group
    for key, values in user.extra:
        for value in values:
            yield f"X-Remote-Extra-{quote(key, safe='')}", value


@lru_cache(maxsize=16)
def _context(client: Pair, stamp: int, bundle: bytes, insecure: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif bundle:
        context.load_verify_locations(cadata=bundle.decode("ascii", "replace"))
    else:
        context.load_default_certs()
    context.load_cert_chain(client.crt, client.key)
    return context
