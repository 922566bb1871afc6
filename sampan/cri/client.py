"""CRI client: every method of RuntimeService and ImageService as a coroutine, over a unix socket.

A method takes the fields of its request (`await client.stop_container(container_id=id, timeout=30)`) or a ready request
message, and answers the response message. The `Stream…` methods and `get_container_events` are asynchronous iterators.
All raise `cri.errors.CRIError`. The channel connects when first used, and again after the runtime was away; a stream
that breaks raises, and reconnecting is its reader's decision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from sampan.cri import errors
from sampan.cri.methods import MESSAGE_LIMIT, Method, table

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    # A restarted runtime is back in a fraction of a second; the default first pause is a whole one.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
]


class CRIClient:
    """`socket` is a path or `unix:///path`. Methods: see `cri/api.proto`, in snake case.

    Every method takes `rpc_timeout=` (seconds) and `wait=True` (wait for a runtime that is away).
    """

    def __init__(self, socket: str | Path) -> None:
        path = str(socket).removeprefix("unix://")
        self._channel = grpc.aio.insecure_channel(f"unix://{path}", options=OPTIONS)
        for method in table():
            setattr(
                self,
                method.function,
                (_stream if method.streams else _unary)(self._channel, method),
            )

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    async def close(self) -> None:
        await self._channel.close(None)

    async def __aenter__(self) -> CRIClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _unary(channel: grpc.aio.Channel, method: Method) -> Callable[..., Awaitable[Any]]:
    rpc = channel.unary_unary(
        method.path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )

    async def call(
        request: Any = None, *, rpc_timeout: float | None = None, wait: bool = False, **fields: Any
    ) -> Any:
        message = request if request is not None else method.request(**fields)
        try:
            return await rpc(message, timeout=rpc_timeout, wait_for_ready=wait)
        except grpc.aio.AioRpcError as error:
            raise errors.from_code(error.code().name, error.details() or "") from None

    call.__name__ = method.function
    return call


def _stream(channel: grpc.aio.Channel, method: Method) -> Callable[..., AsyncIterator[Any]]:
    rpc = channel.unary_stream(
        method.path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )

    async def call(
        request: Any = None, *, rpc_timeout: float | None = None, wait: bool = False, **fields: Any
    ) -> AsyncIterator[Any]:
        message = request if request is not None else method.request(**fields)
        stream = rpc(message, timeout=rpc_timeout, wait_for_ready=wait)
        try:
            async for item in stream:
                yield item
        except grpc.aio.AioRpcError as error:
            raise errors.from_code(error.code().name, error.details() or "") from None
        finally:
            stream.cancel()

    call.__name__ = method.function
    return call
