"""Subresources that are served elsewhere: pods/log, exec, attach, portforward on the pod's node; pods/proxy,
services/proxy and nodes/proxy.

The API server shows nodes its own client certificate and verifies theirs. `backends.py` decides where to, `tunnel.py`
carries what is upgraded, and this file does the rest: ordinary requests, whose answers stream as they come.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from sampan.apiserver import backends
from sampan.apiserver.backends import Target
from sampan.apiserver.proxylinks import in_place
from sampan.apiserver.remote import RemoteAnswer
from sampan.apiserver.tunnel import is_upgrade, unreachable, upgrade
from sampan.client.transport import Request, Response
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    import aiohttp

    from sampan.apiserver.admission.plugin import Lookup
    from sampan.apiserver.call import Call
    from sampan.apiserver.pki import Pair, PKIPaths
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


async def connect(server: APIServer, call: Call) -> Response:
    """The answer to a request of one of these subresources. Raises ApiError."""
    kind, request = call.info.subresource, call.request
    lookup = server.access.lookup
    if kind == "proxy":
        return await _proxy(server, call)
    pod = await _find(lookup, "pods", call.info.namespace, call.info.name)
    if kind == "log":
        return await _log(server, request, pod)
    if not is_upgrade(request):
        raise errors.bad_request("Upgrade request required")
    path, query = backends.stream_path(kind, pod, request)
    node = await _find(lookup, "nodes", "", backends.node_of(pod))
    target = backends.node_target(node, path, query)
    return await upgrade(request, target, tls_context(server.pki, target))


def options_of(call: Call) -> Object:
    """PodExecOptions and its like: what admission is told of a stream that is about to be opened."""
    request, info = call.request, call.info
    kind = call.subresource.kind if call.subresource is not None else ""
    options: Object = {"kind": kind, "apiVersion": "v1"}
    if info.subresource == "proxy":
        options["path"] = "/" + info.rest
        return options
    if info.subresource == "portforward":
        ports = [each for value in request.params("ports") for each in value.split(",")]
        options["ports"] = [int(each) for each in ports if each.isascii() and each.isdigit()]
        return options
    options |= {
        name: True for name in ("stdin", "stdout", "stderr", "tty") if backends.truth(request, name)
    }
    if request.param("container"):
        options["container"] = request.param("container")
    if info.subresource == "exec":
        options["command"] = request.params("command")
    return options


async def _find(lookup: Lookup, plural: str, namespace: str, name: str) -> Object:
    entry = await lookup.entry("", "v1", plural, namespace, name)
    if entry is None:
        raise errors.not_found(plural, name)
    return entry.object()


# --- log ----------------------------------------------------------------------------------------------


async def _log(server: APIServer, request: Request, pod: Object) -> Response:
    path, query = backends.log_path(pod, request)
    name = (pod.get("spec") or {}).get("nodeName")
    if not name:  # nothing has run, nothing was written
        return Response(200, dict(TEXT), b"")
    node = await _find(server.access.lookup, "nodes", "", name)
    answer = await send(server, "GET", backends.node_target(node, path, query), {}, b"")
    if answer.status >= 400:
        raise backends.refused(answer.status, await answer.text())
    if request.header("upgrade").lower() == "websocket" and is_upgrade(request):
        from sampan.apiserver.logsocket import LogSocket

        try:
            return LogSocket(request, answer)
        except ApiError:
            await answer.aclose()
            raise
    return Response(200, dict(TEXT), answer)


# --- proxy --------------------------------------------------------------------------------------------


async def _proxy(server: APIServer, call: Call) -> Response:
    request = call.request
    head, rest = raw_rest(request.path, call.resource.namespaced)
    query = urlencode(list(request.pairs()))
    if not rest and not request.path.endswith("/") and request.method in ("GET", "HEAD"):
        return Response(301, {"Location": f"{head}/" + (f"?{query}" if query else "")})
    target = await _proxy_target(server, call, "/" + rest, query)
    if is_upgrade(request):
        return await upgrade(request, target, tls_context(server.pki, target))
    headers = {
        name.title(): value
        for name, value in request.headers.items()
        if name not in NOT_FORWARDED and not name.startswith("impersonate-")
    }
    headers["X-Forwarded-Uri"] = request.path
    headers["X-Forwarded-Proto"] = "https"
    if request.remote:
        headers["X-Forwarded-For"] = request.remote
    answer = await send(server, request.method, target, headers, request.body)
    returned, body = in_place(
        answer, returned_headers(answer.headers), head, f"{target.host}:{target.port}"
    )
    return Response(answer.status, returned, body)


async def _proxy_target(server: APIServer, call: Call, path: str, query: str) -> Target:
    info, lookup = call.info, server.access.lookup
    scheme, name, port = backends.split_name(info.name)
    found = await _find(lookup, info.resource, info.namespace, name)
    if info.resource == "nodes":
        return backends.node_target(found, path, query)
    if info.resource == "pods":
        return backends.pod_target(found, scheme, port, path, query)
    slices = [
        each
        for each in await lookup.all("discovery.k8s.io", "v1", "endpointslices")
        if each["metadata"].get("namespace") == info.namespace
        and (each["metadata"].get("labels") or {}).get(SERVICE_LABEL) == name
    ]
    return random.choice(backends.service_targets(found, slices, scheme, port, path, query))


# --- HTTP ---------------------------------------------------------------------------------------------


def tls_context(pki: PKIPaths, target: Target) -> ssl.SSLContext | None:
    """For the target; None when it speaks plain HTTP."""
    if target.scheme != "https":
        return None
    if target.node:
        return _node_context(pki.ca.crt, pki.kubelet_client)
    return _open_context()


@lru_cache(maxsize=4)
def _node_context(authority: Path, client: Pair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.load_cert_chain(client.crt, client.key)
    return context


def forget_credentials() -> None:
    """The certificate that nodes are shown was renewed."""
    _node_context.cache_clear()


@lru_cache(maxsize=1)
def _open_context() -> ssl.SSLContext:
    """A pod's own certificate is of an authority that we cannot know; Kubernetes does not verify it either."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Answer(RemoteAnswer):
    """A backend's answer, with the client session that carries it: both end together."""

    def __init__(self, session: aiohttp.ClientSession, response: aiohttp.ClientResponse) -> None:
        super().__init__(response)
        self._session = session

    async def text(self) -> str:
        """The beginning of the body, for an error message."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return (await self._response.content.read(ERROR_LIMIT)).decode("utf-8", "replace")
        except TimeoutError:
            return ""
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End the connection. Idempotent."""
        self._response.close()
        await self._session.close()


async def send(
    server: APIServer, method: str, target: Target, headers: dict[str, str], body: bytes
) -> Answer:
    """The backend's answer, to be read or closed. Raises ApiError when it cannot be reached."""
    import aiohttp
    from yarl import URL

    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
    )
    try:
        response = await session.request(
            method,
            URL(target.url, encoded=True),
            headers=headers,
            data=body or None,
            allow_redirects=False,
            ssl=tls_context(server.pki, target) or True,
            server_hostname=target.server_name or None,
        )
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        await session.close()
        raise unreachable(target, error) from error
    except BaseException:
        await session.close()
        raise
    return Answer(session, response)


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
