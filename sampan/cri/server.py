"""CRI server: RuntimeService and ImageService on a unix socket, for the user alone (0600).

The services are plain objects with a coroutine per method, in snake case (`run_pod_sandbox(request) -> response`; an
asynchronous generator where CRI streams). Their `cri.errors` become gRPC codes; any other exception is logged with its
traceback and answered as INTERNAL. A method that no service has answers UNIMPLEMENTED.

A verb that was begun is finished, even if its caller has gone: a half-made pod helps nobody. Only what may last for ever
is cancelled with its caller.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from sampan.cri.errors import CRIError
from sampan.cri.methods import MESSAGE_LIMIT, Method, table

LOG = logging.getLogger(__name__)

CANCELLED_WITH_CALLER = {"ExecSync", "PullImage"}

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.so_reuseport", 0),
]


class CRIServer:
    def __init__(self, socket: Path, *services: object) -> None:
        self.socket = socket
        self._services = services
        self._server: grpc.aio.Server | None = None
        self._running: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """The socket takes connections on return. Raises OSError when it cannot be made."""
        self.socket.parent.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        server = grpc.aio.server(options=OPTIONS)
        handlers: dict[str, dict[str, Any]] = {}
        for method in table():
            implementation = self._find(method.function)
            if implementation is not None:
                handlers.setdefault(method.service, {})[method.name] = self._handler(
                    method, implementation
                )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(service, methods)
                for service, methods in handlers.items()
            ]
        )
        mask = os.umask(0o177)
        try:
            server.add_insecure_port(f"unix://{self.socket}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self.socket}: {error}") from error
        finally:
            os.umask(mask)
        await server.start()
        self._server = server

    async def close(self, grace: float = 2.0) -> None:
        """Take no more calls, let those that run end. Idempotent."""
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None
            if self._running:
                await asyncio.wait(self._running, timeout=grace)
            self.socket.unlink(missing_ok=True)

    def _find(self, function: str) -> Callable[..., Any] | None:
        for service in self._services:
            if (implementation := getattr(service, function, None)) is not None:
                return implementation  # type: ignore[no-any-return]
        return None

    def _handler(self, method: Method, implementation: Callable[..., Any]) -> Any:
        coders = {
            "request_deserializer": method.request.FromString,
            "response_serializer": method.response.SerializeToString,
        }
        if method.streams:
            return grpc.unary_stream_rpc_method_handler(streaming(method, implementation), **coders)
        return grpc.unary_unary_rpc_method_handler(self._unary(method, implementation), **coders)

    def _unary(self, method: Method, implementation: Callable[[Any], Awaitable[Any]]) -> Any:
        finished = method.name not in CANCELLED_WITH_CALLER

        async def answer(request: Any, context: Any) -> Any:
            try:
                if not finished:
                    return await implementation(request)
                task = asyncio.ensure_future(implementation(request))
                self._running.add(task)
                task.add_done_callback(self._forget)
                return await asyncio.shield(task)
            except Exception as error:
                await refuse(method, error, context)

        return answer

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the answer's business, or, when nobody waits for that, nobody's


def streaming(method: Method, implementation: Callable[[Any], Any]) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        try:
            async for item in implementation(request):
                yield item
        except Exception as error:
            await refuse(method, error, context)

    return answer


async def refuse(method: Method, error: Exception, context: Any) -> None:
    if isinstance(error, CRIError):
        code, message = getattr(grpc.StatusCode, error.code), str(error)
    else:
        LOG.error("%s failed", method.name, exc_info=error)
        code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    await context.abort(code, message)
