"""Subresources that are served elsewhere: pods/log, exec, attach, portforward on the pod's node; pods/proxy,
services/proxy and nodes/proxy.

The API server shows nodes its own client certificate and verifies theirs. `backends.py` decides where to, `tunnel.py`
carries what is upgraded, and this file does the rest: ordinary requests, streamed both as they come. The HTTP client is
made at the first of them.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from sampan.apiserver import backends
from sampan.apiserver.backends import Target
from sampan.apiserver.tunnel import is_upgrade, unreachable, upgrade
from sampan.client.transport import Request, Response
from sampan.kube import errors

if TYPE_CHECKING:
    import aiohttp

    from sampan.apiserver.call import Call
    from sampan.apiserver.server import APIServer

Object = dict[str, Any]

CONNECT_TIMEOUT = 10.0
ERROR_LIMIT = 16 * 1024
TEXT = {"Content-Type": "text/plain"}
SERVICE_LABEL = "kubernetes.io/service-name"

# Of one connection only (RFC 9110 §7.6.1), or meant for this server.
NOT_FORWARDED = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "cookie2",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NOT_RETURNED = NOT_FORWARDED - {"authorization", "expect"} | {"date", "server"}


class Proxy:
    def __init__(self, server: APIServer) -> None:
        self.server = server
        self._session: aiohttp.ClientSession | None = None
        self._node_context: ssl.SSLContext | None = None
        self._open_context: ssl.SSLContext | None = None

    async def connect(self, call: Call) -> Response:
        """The answer to a request of one of these subresources. Raises ApiError."""
        kind = call.info.subresource
        if kind == "proxy":
            return await self._proxy(call)
        pod = await self._find("pods", call.info.namespace, call.info.name)
        if kind == "log":
            return await self._log(call.request, pod)
        if not is_upgrade(call.request):
            raise errors.bad_request("Upgrade request required")
        path, query = backends.stream_path(kind, pod, call.request)
        node = await self._find("nodes", "", backends.node_of(pod))
        target = backends.node_target(node, path, query)
        return await upgrade(call.request, target, self._context(target))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    # --- log -----------------------------------------------------------------------------------------

    async def _log(self, request: Request, pod: Object) -> Response:
        path, query = backends.log_path(pod, request)
        name = (pod.get("spec") or {}).get("nodeName")
        if not name:  # nothing has run, nothing was written
            return Response(200, dict(TEXT), b"")
        target = backends.node_target(await self._find("nodes", "", name), path, query)
        answer = await self._send("GET", target, {}, b"")
        if answer.status >= 400:
            raise backends.refused(answer.status, await _text(answer))
        return Response(200, dict(TEXT), _body(answer))

    # --- proxy ---------------------------------------------------------------------------------------

    async def _proxy(self, call: Call) -> Response:
        request = call.request
        head, rest = raw_rest(request.path, call.resource.namespaced)
        if not rest and not request.path.endswith("/") and request.method in ("GET", "HEAD"):
            query = urlencode(list(request.pairs()))
            return Response(301, {"Location": f"{head}/" + (f"?{query}" if query else "")})
        target = await self._proxy_target(call, "/" + rest, urlencode(list(request.pairs())))
        if is_upgrade(request):
            return await upgrade(request, target, self._context(target))
        headers = {
            name.title(): value
            for name, value in request.headers.items()
            if name not in NOT_FORWARDED and not name.startswith("impersonate-")
        }
        headers["X-Forwarded-Uri"] = request.path
        headers["X-Forwarded-Proto"] = "https"
        if request.remote:
            headers["X-Forwarded-For"] = request.remote
        answer = await self._send(request.method, target, headers, request.body)
        return Response(answer.status, returned_headers(answer.headers.items()), _body(answer))

    async def _proxy_target(self, call: Call, path: str, query: str) -> Target:
        info = call.info
        scheme, name, port = backends.split_name(info.name)
        if info.resource == "nodes":
            return backends.node_target(await self._find("nodes", "", name), path, query)
        if info.resource == "pods":
            pod = await self._find("pods", info.namespace, name)
            return backends.pod_target(pod, scheme, port, path, query)
        service = await self._find("services", info.namespace, name)
        slices = [
            each
            for each in await self.server.access.lookup.all(
                "discovery.k8s.io", "v1", "endpointslices"
            )
            if each["metadata"].get("namespace") == info.namespace
            and (each["metadata"].get("labels") or {}).get(SERVICE_LABEL) == name
        ]
        targets = backends.service_targets(service, slices, scheme, port, path, query)
        return random.choice(targets)

    # --- common --------------------------------------------------------------------------------------

    async def _find(self, plural: str, namespace: str, name: str) -> Object:
        entry = await self.server.access.lookup.entry("", "v1", plural, namespace, name)
        if entry is None:
            raise errors.not_found(plural, name)
        found: Object = entry.object()
        return found

    def _context(self, target: Target) -> ssl.SSLContext | None:
        if target.scheme != "https":
            return None
        if not target.node:
            # A pod's own certificate is of an authority that we cannot know; Kubernetes does not verify it either.
            if self._open_context is None:
                self._open_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                self._open_context.check_hostname = False
                self._open_context.verify_mode = ssl.CERT_NONE
            return self._open_context
        if self._node_context is None:
            pki = self.server.pki
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(pki.ca.crt)
            context.load_cert_chain(pki.kubelet_client.crt, pki.kubelet_client.key)
            self._node_context = context
        return self._node_context

    async def _send(
        self, method: str, target: Target, headers: dict[str, str], body: bytes
    ) -> aiohttp.ClientResponse:
        import aiohttp
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            )
        try:
            return await self._session.request(
                method,
                URL(target.url, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                ssl=self._context(target) or True,
                server_hostname=target.server_name or None,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(target, error) from error


def raw_rest(path: str, namespaced: bool) -> tuple[str, str]:
    """(path up to and with `/proxy`, what follows), percent-encoding untouched."""
    parts = path.split("/")
    index = 8 if namespaced else 6
    return "/".join(parts[:index]), "/".join(parts[index:])


def returned_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A backend's headers for our answer; repeats are joined by newlines, which the HTTP server sends as lines."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name.lower() not in NOT_RETURNED:
            found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


async def _body(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The body as it comes. A backend that breaks off breaks our answer off too."""
    import aiohttp

    try:
        async for part in answer.content.iter_any():
            yield part
    except aiohttp.ClientError as error:
        raise ConnectionError(str(error)) from error
    finally:
        answer.close()


async def _text(answer: aiohttp.ClientResponse) -> str:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return (await answer.content.read(ERROR_LIMIT)).decode("utf-8", "replace")
    except TimeoutError:
        return ""
    finally:
        answer.close()
