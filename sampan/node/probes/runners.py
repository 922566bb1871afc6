"""One question to a container: HTTP GET, TCP connect, a command, or gRPC health; used by probes and by lifecycle hooks.

Answers are worded as kubelet's, because people search for them. HTTP is spoken here on plain streams: a probe is one
request on one connection, and a client library would cost more than the question. Certificates are not verified, as
the API documents. Nothing here raises for an unwell container; when the runtime cannot run a command, that is no verdict
on the container, and Unanswered is raised.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from sampan.cri.client import CRIClient
from sampan.cri.errors import CRIError, DeadlineExceeded
from sampan.node.podspec import Object

BODY_LIMIT = 10 * 1024
HEAD_LIMIT = 64 * 1024
REDIRECTS = 10
FOLLOWED = (301, 302, 303, 307, 308)
AGENT = "kube-probe/1.36"


class Unanswered(Exception):
    """The question could not be put."""


class Answer(NamedTuple):
    ok: bool
    text: str = ""
    warning: bool = False  # good, and still to be told


def port_number(value: Any, container: Object) -> int:
    """A number, or the name of one of the container's ports. Raises ValueError."""
    if isinstance(value, int):
        return value
    if str(value).isdigit():
        return int(value)
    for port in container.get("ports") or ():
        if port.get("name") == value:
            return int(port["containerPort"])
    raise ValueError(f"couldn't find port: {value} in container {container['name']}")


async def ask(
    handler: Object,
    container: Object,
    container_id: str,
    address: str,
    timeout: float,
    cri: CRIClient,
) -> Answer:
    """Run whichever of exec, httpGet, tcpSocket, grpc the handler has."""
    try:
        if spec := handler.get("exec"):
            return await execute(cri, container_id, spec.get("command") or [], timeout)
        if spec := handler.get("httpGet"):
            port = port_number(spec["port"], container)
            headers = {h["name"]: h.get("value", "") for h in spec.get("httpHeaders") or ()}
            scheme = (spec.get("scheme") or "HTTP").lower()
            host = spec.get("host") or address
            shown = f"[{host}]" if ":" in host else host
            path = spec.get("path") or "/"
            url = f"{scheme}://{shown}:{port}{path if path.startswith('/') else '/' + path}"
            return await http_get(url, headers, timeout)
        if spec := handler.get("tcpSocket"):
            port = port_number(spec["port"], container)
            return await tcp_connect(spec.get("host") or address, port, timeout)
        if (spec := handler.get("grpc")) is not None:
            return await grpc_health(address, spec["port"], spec.get("service") or "", timeout)
    except ValueError as error:
        return Answer(False, str(error))
    return Answer(False, "missing probe handler")


async def execute(cri: CRIClient, container_id: str, command: list[str], timeout: float) -> Answer:
    try:
        answer = await cri.exec_sync(
            container_id=container_id,
            cmd=command,
            timeout=max(1, int(timeout)) if timeout else 0,
            rpc_timeout=timeout + 5 if timeout else None,
        )
    except DeadlineExceeded:
        return Answer(
            False, f"command timed out: {json.dumps(command)} timed out after {timeout:g}s"
        )
    except CRIError as error:
        raise Unanswered(str(error)) from error
    output = (answer.stdout + answer.stderr)[:BODY_LIMIT].decode("utf-8", "replace")
    return Answer(answer.exit_code == 0, output)


async def tcp_connect(host: str, port: int, timeout: float) -> Answer:
    try:
        async with asyncio.timeout(timeout or None):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Answer(False, f"dial tcp {host}:{port}: i/o timeout")
    except OSError as error:
        return Answer(False, f"dial tcp {host}:{port}: connect: {_words(error)}")
    writer.close()
    return Answer(True)


async def http_get(url: str, headers: Mapping[str, str], timeout: float) -> Answer:
    """2xx and 3xx are good. A redirect on the same host is followed; one to another host is good, and told with its body."""
    first = url
    try:
        async with asyncio.timeout(timeout or None):
            for _ in range(REDIRECTS):
                status, target, body = await _fetch(url, headers)
                if not target:
                    break
                url = target
            else:
                return Answer(False, f'Get "{first}": stopped after {REDIRECTS} redirects')
    except TimeoutError:
        text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return Answer(False, f'Get "{first}": {text}')
    except asyncio.IncompleteReadError:
        return Answer(False, f'Get "{first}": EOF')
    except (OSError, ValueError, asyncio.LimitOverrunError) as error:
        parts = urlsplit(url)
        if isinstance(error, ConnectionRefusedError):
            text = f"dial tcp {parts.hostname}:{parts.port}: connect: connection refused"
        else:
            text = _words(error)
        return Answer(False, f'Get "{first}": {text}')
    if 200 <= status < 300:
        return Answer(True)
    if 300 <= status < 400:
        return Answer(True, f"Probe terminated redirects, Response body: {body}", warning=True)
    return Answer(False, f"HTTP probe failed with statuscode: {status}")


async def _fetch(url: str, headers: Mapping[str, str]) -> tuple[int, str, str]:
    """(status, where a redirect leads that is to be followed, body of another redirect) of one GET.

    Any other body is for nobody, and a server may hold it open.
    """
    parts = urlsplit(url)
    context = None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    port = parts.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(
        parts.hostname, port, ssl=context, limit=HEAD_LIMIT
    )
    try:
        sent = {"Host": parts.netloc, "User-Agent": AGENT, "Accept": "*/*", "Connection": "close"}
        for name, value in headers.items():
            known = next((key for key in sent if key.lower() == name.lower()), name)
            sent[known] = value
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        lines = [f"GET {target} HTTP/1.1", *(f"{k}: {v}" for k, v in sent.items() if v), "", ""]
        writer.write("\r\n".join(lines).encode("latin-1", "replace"))
        status_line, *rest = await _head(reader)
        version, _, tail = status_line.partition(" ")
        if not version.startswith("HTTP/"):
            raise ValueError(f"malformed HTTP response {status_line[:64]!r}")
        status = int(tail[:3])
        fields = {
            k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)
        }
        if status in FOLLOWED and (location := fields.get("location")):
            target = urljoin(url, location)
            if urlsplit(target).hostname == parts.hostname:
                return status, target, ""
        if not 300 <= status < 400 or status == 304:
            return status, "", ""
        body = await _body(reader, fields)
        return status, "", body[:BODY_LIMIT].decode("utf-8", "replace")
    finally:
        writer.transport.abort()


async def _body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
    """The first of it, as far as it is counted or else until the server ends (RFC 9112 §6.3)."""
    if "chunked" not in fields.get("transfer-encoding", "").lower():
        counted = fields.get("content-length", "")
        return await _some(reader, int(counted) if counted.isdigit() else BODY_LIMIT)
    body = b""
    while len(body) < BODY_LIMIT:
        line = await reader.readline()
        size = int(line.partition(b";")[0].strip() or b"0", 16)
        if not size:
            break
        body += await _some(reader, size)
        await reader.readline()
    return body


async def _some(reader: asyncio.StreamReader, most: int) -> bytes:
    try:
        return await reader.readexactly(min(most, BODY_LIMIT))
    except asyncio.IncompleteReadError as short:
        return short.partial


async def _head(reader: asyncio.StreamReader) -> list[str]:
    """Lines up to the empty one. They may end in a bare LF (RFC 9112 §2.2): scripts' headers do, behind small servers."""
    lines: list[str] = []
    size = 0
    while True:
        line = await reader.readuntil(b"\n")
        size += len(line)
        if size > HEAD_LIMIT:
            raise ValueError("response head exceeds the limit")
        text = line.decode("latin-1").rstrip("\r\n")
        if not text:
            return lines or [""]
        lines.append(text)


def _words(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return (strerror or str(error) or type(error).__name__).lower()


async def grpc_health(host: str, port: int, service: str, timeout: float) -> Answer:
    """grpc.health.v1.Health/Check. Its two messages are one field each, and are written by hand."""
    import grpc
    import grpc.aio

    address = f"{host}:{port}"
    name = service.encode()
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        try:
            answer = await check(
                request, timeout=timeout or None, metadata=(("user-agent", AGENT),)
            )
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            if code == "UNIMPLEMENTED":
                return Answer(
                    False,
                    f"error: this server does not implement the grpc health protocol: {error.details()}",
                )
            if code in ("DEADLINE_EXCEEDED", "UNAVAILABLE"):
                return Answer(
                    False,
                    f'timeout: failed to connect service "{address}" within {timeout:g}s: '
                    f"{error.details()}",
                )
            return Answer(False, f"error: health rpc failed: {error.details()}")
    status = answer[1] if len(answer) >= 2 and answer[0] == 0x08 else 0
    if status == 1:
        return Answer(True, "service is healthy")
    names = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
    return Answer(False, f'service unhealthy (responded with "{names.get(status, status)}")')
