"""Calls to an etcd cluster: several endpoints, one used at a time, the next when that one fails.

A call that fails on the way is *unclear*: it may have been carried out, even later (a member that dies may have handed the
proposal to its leader). `call` repeats reads by itself; for a write it raises Unclear, and the store finds out what became
of it. What etcd itself refuses is raised as it says it, and never repeated.

TLS by files, and user name and password out of the endpoint (`https://user:password@host:2379`), whose token is renewed
when etcd forgets it (https://etcd.io/docs/v3.5/op-guide/authentication/).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import grpc
import grpc.aio

from sampan.store import Closed, StoreError
from sampan.store import etcd_pb2 as pb

ATTEMPT: Final = 5.0  # seconds for one member to answer
PATIENCE: Final = 15.0  # seconds for any of them to answer; an election takes one or two
PAUSES: Final = (0.0, 0.05, 0.1, 0.2, 0.4)  # seconds between attempts; the last one stays
OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A machine that lost its power says nothing: etcd's own client pings as often.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_http_proxy", 0),
]
LED: Final = ("hasleader", "true")  # a stream ends when its member loses the others

END: Final[Any] = vars(grpc.aio)["EOF"]  # its stubs do not know it

METHODS: Final[dict[str, tuple[str, Any, Any]]] = {
    "range": ("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse),
    "txn": ("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse),
    "compact": ("/etcdserverpb.KV/Compact", pb.CompactionRequest, pb.CompactionResponse),
    "status": ("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse),
    "authenticate": (
        "/etcdserverpb.Auth/Authenticate",
        pb.AuthenticateRequest,
        pb.AuthenticateResponse,
    ),
}
WATCH: Final = "/etcdserverpb.Watch/Watch"

# Answers of the way there, not of etcd's judgement. "leader changed", "no leader" and "request timed out" are among them.
LOST: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)


class Unclear(StoreError):
    """The answer was lost: whether etcd did, or will do, what was asked is not known."""


class Refused(StoreError):
    """etcd's answer is no."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"etcd: {details}")
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class Access:
    """What the endpoints want to see. Paths of PEM files; "" is none."""

    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""


class Member:
    """One endpoint and its channel, opened when it is first used."""

    def __init__(self, endpoint: str, access: Access) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise StoreError(f"etcd endpoint {endpoint!r}: must look like https://host:2379")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.name = f"{host}:{parts.port or 2379}"
        self.user = unquote(parts.username or "")
        self.password = unquote(parts.password or "")
        self.token = ""
        if parts.scheme == "https":
            credentials = grpc.ssl_channel_credentials(*map(_pem, _files(access)))
            self.channel = grpc.aio.secure_channel(self.name, credentials, options=OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(self.name, options=OPTIONS)
        self.methods = {
            name: self.channel.unary_unary(
                path,
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (path, request, response) in METHODS.items()
        }
        self.watch: Any = self.channel.stream_stream(
            WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )

    async def metadata(self) -> list[tuple[str, str]]:
        """The token, asked for once. Raises grpc.aio.AioRpcError."""
        if self.user and not self.token:
            request = pb.AuthenticateRequest(name=self.user, password=self.password)
            answer = await self.methods["authenticate"](request, timeout=ATTEMPT)
            self.token = answer.token
        return [("token", self.token)] if self.token else []


def _files(access: Access) -> tuple[str, str, str]:
    """In the order in which gRPC wants them: roots, key, certificate."""
    return access.cafile, access.keyfile, access.certfile


def _pem(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


class WatchStream:
    """One open watch. `cancel` ends it; a `read` that waits then raises CancelledError."""

    def __init__(self, client: EtcdClient, member: Member, call: Any) -> None:
        self._client = client
        self._member = member
        self._call = call

    async def read(self) -> pb.WatchResponse:
        """The next response. Raises Unclear at the end of the stream, whatever ended it."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._client.lost(self._member, error) from None
        if response is END:
            raise self._client.lost(self._member, EOFError("the stream ended"))
        return response

    def cancel(self) -> None:
        self._call.cancel()


class EtcdClient:
    def __init__(self, endpoints: Sequence[str], access: Access | None = None) -> None:
        if not endpoints:
            raise StoreError("etcd: no endpoint was named")
        self._members = [Member(endpoint, access or Access()) for endpoint in endpoints]
        self._current = 0
        self.closed = False

    @property
    def names(self) -> str:
        return ", ".join(member.name for member in self._members)

    async def call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """The answer of whichever member gives one. Raises Refused; Unclear at once when not `repeat`, else at the end."""
        started = time.monotonic()
        attempt = 0
        while True:
            self._check_open()
            member = self._members[self._current]
            try:
                metadata = await member.metadata()
                return await member.methods[method](request, timeout=ATTEMPT, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                self._judge(member, error)
                if not repeat or time.monotonic() - started > PATIENCE:
                    raise Unclear(f"etcd at {self.names}: {error.details()}") from None
            except asyncio.CancelledError:
                self._check_open()  # closing the channel cancels what is under way
                raise
            await self.pause(attempt)
            attempt += 1

    async def pause(self, attempt: int) -> None:
        """Between the rounds over all members; within a round the next is asked at once."""
        rounds = attempt // len(self._members)
        await asyncio.sleep(PAUSES[min(rounds, len(PAUSES) - 1)])

    def _judge(self, member: Member, error: grpc.aio.AioRpcError) -> None:
        """Return when the call may be sent again, elsewhere; raise Refused for what etcd said."""
        details = error.details() or ""
        if error.code() == grpc.StatusCode.UNAUTHENTICATED and member.user and member.token:
            member.token = ""  # it expired, or etcd was started again
            return
        if error.code() not in LOST:
            raise Refused(error.code(), details) from None
        self.leave(member)

    def leave(self, member: Member) -> None:
        """Ask the next member from now on, unless somebody has left this one already."""
        if self._members[self._current] is member:
            self._current = (self._current + 1) % len(self._members)

    async def watch(self, create: pb.WatchCreateRequest) -> WatchStream:
        """A stream of one member. Raises Refused or Unclear, as its `read` does; the caller goes on with a new one."""
        self._check_open()
        member = self._members[self._current]
        call = None
        try:
            call = member.watch(metadata=[*await member.metadata(), LED])
            await call.write(pb.WatchRequest(create_request=create))
            return WatchStream(self, member, call)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self.lost(member, error) from None
        except BaseException:
            if call is not None:
                call.cancel()
            raise

    def lost(self, member: Member, error: Exception) -> Unclear:
        """A stream broke. Raises Refused or Closed for what is not the stream's fault."""
        self._check_open()
        if isinstance(error, grpc.aio.AioRpcError):
            self._judge(member, error)
            return Unclear(f"etcd at {member.name}: {error.details()}")
        self.leave(member)
        return Unclear(f"etcd at {member.name}: {error}")

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("the store is closed")

    async def close(self) -> None:
        self.closed = True
        await asyncio.gather(*(member.channel.close(None) for member in self._members))
