"""One client connection: aiohttp's protocol object, which knows who is behind it and words errors as Kubernetes does.

Requests of one connection are answered in order, by tasks that aiohttp owns. When the client goes, a read is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import TYPE_CHECKING, Any

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from sampan.apiserver.answers import Answer, whole
from sampan.apiserver.auth import user_of_certificate
from sampan.apiserver.present import respond_error
from sampan.client.transport import User
from sampan.kube import errors
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader
    from aiohttp.web_request import BaseRequest

log = logging.getLogger(__name__)

WATCHED = 7 * 86400.0  # seconds; a certificate that is good for longer outlives its connection
LIMITS: dict[str, Any] = {
    "max_line_size": 256 * 1024,  # `kubectl exec` sends its command in the query
    "max_field_size": 16 * 1024,
    "max_headers": 100,
    "keepalive_timeout": 90.0,  # seconds for the next whole head
    "lingering_time": 2.0,  # seconds in which the rest of a refused body is read: the client shall see the answer
    "auto_decompress": False,  # a small body must not become a large one; see `exchange.body_of`
    "access_log": None,
    "logger": log,
}


class Connection(RequestHandler):
    """Made by `http.Door`."""

    user: User | None = None
    remote = ""
    reading: StreamReader | None = None  # a body that is not here in full yet
    ends_with_client: asyncio.Task[None] | None = None  # cancelled when the client goes
    end: asyncio.TimerHandle | None = (
        None  # of the client's certificate, and so of what it was let in for
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if certificate:
            der = transport.get_extra_info("ssl_object").getpeercert(True)
            self.user = user_of_certificate(certificate, der)
            left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
            if left < WATCHED:
                self.end = self._loop.call_later(left, transport.abort)  # type: ignore[attr-defined]
        peer = transport.get_extra_info("peername")
        self.remote = peer[0] if isinstance(peer, tuple) else ""

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.end is not None:
            self.end.cancel()
        super().connection_lost(exc)
        if self.ends_with_client is not None:
            self.ends_with_client.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # What is queued behind a body that has not ended can only be that the body cannot be read. aiohttp would tell
        # so after the request that waits for it.
        if self.reading is not None and self._messages and not self.reading.is_eof():
            self.reading.set_exception(malformed("the body is malformed"))

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> Answer:
        """The last answer of this connection. Raises ConnectionError when none can be given."""
        if isinstance(exc, HttpProcessingError):
            why = (message or exc.message).partition("\n")[0].rstrip(":. ")
            return refusal(malformed(why, 431 if isinstance(exc, LineTooLong) else 400))
        if isinstance(exc, ConnectionError):
            raise exc
        log.error("%s %s from %s", request.method, request.path, self.remote, exc_info=exc)
        if request.writer.output_size:
            raise ConnectionError("an answer broke off") from exc
        return refusal(errors.internal(type(exc).__name__))


def malformed(why: str, code: int = 400) -> ApiError:
    """For what cannot be answered in its own terms."""
    return ApiError(code, "BadRequest", f"malformed HTTP request: {why}")


def refusal(error: ApiError) -> Answer:
    """The last answer of a connection."""
    return whole(respond_error(error), close=True)
