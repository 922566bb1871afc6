"""HTTP/1.1 answers as bytes: status lines, header blocks and gzip. What is the same in every answer is made once."""

from __future__ import annotations

import asyncio
import time
import zlib
from email.utils import formatdate
from http import HTTPStatus

from sampan.client.transport import Request, Response

ONE_PIECE = 64 * 1024  # bodies up to this size are written together with their head
COMPRESS_FROM = 128 * 1024  # as Kubernetes: smaller answers are not worth the time
COMPRESS_IN_THREAD = 1 << 20
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS = {
    each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus
}
_COMMON = b"Cache-Control: no-cache, private\r\n"
_JSON_OK = (
    _STATUS[200]
    + _COMMON
    + b"Content-Type: application/json\r\nDate: %b\r\nContent-Length: %d\r\n\r\n"
)
_JSON_CREATED = _JSON_OK.replace(_STATUS[200], _STATUS[201])
_JSON = {"Content-Type": "application/json"}


class _Date:
    """The Date header's value, made once per second."""

    second = 0
    value = b""

    @classmethod
    def now(cls) -> bytes:
        second = int(time.time())
        if second != cls.second:
            cls.second, cls.value = second, formatdate(second, usegmt=True).encode()
        return cls.value


def head_of(response: Response, close: bool) -> bytes:
    """Status line and headers, without the blank line."""
    parts = [
        _STATUS.get(response.status) or b"HTTP/1.1 %d \r\n" % response.status,
        b"Date: ",
        _Date.now(),
        b"\r\n",
    ]
    if "Cache-Control" not in response.headers:
        parts.append(_COMMON)
    for name, value in response.headers.items():
        parts += [f"{name}: {line}\r\n".encode("utf-8", "replace") for line in value.split("\n")]
    if close:
        parts.append(b"Connection: close\r\n")
    return b"".join(parts)


def wants_gzip(request: Request, response: Response, body: bytes) -> bool:
    return (
        len(body) >= COMPRESS_FROM
        and request.method == "GET"
        and "gzip" in request.headers.get("accept-encoding", "")
        and "Content-Encoding" not in response.headers
    )


async def compressed(body: bytes) -> bytes:
    """gzip at its fastest, in a thread when it takes long."""

    def work() -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(body) + packer.flush()

    return await asyncio.to_thread(work) if len(body) > COMPRESS_IN_THREAD else work()


def short_answer(request: Request, response: Response) -> tuple[bytes, bytes] | None:
    """Head and body of an ordinary JSON answer that goes out as it is; None when it is not one."""
    body = response.body
    if response.headers != _JSON or not isinstance(body, bytes) or request.method == "HEAD":
        return None
    if response.status == 200:
        head = _JSON_OK
    elif response.status == 201:
        head = _JSON_CREATED
    else:
        return None
    size = len(body)
    if size >= COMPRESS_FROM and wants_gzip(request, response, body):
        return None
    return head % (_Date.now(), size), body
