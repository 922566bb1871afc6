"""Sessions with running containers: ExecSync, and the URLs for Exec, Attach and PortForward.

The streaming server starts with the first URL that is asked for: a node that nobody execs into does not have one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sampan.cri import api_pb2 as pb
from sampan.cri.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from sampan.cri.streaming.server import Attach, Exec, PortForward, StreamingServer
from sampan.cri.streams import Streams
from sampan.runtime.inventory import Inventory
from sampan.runtime.records import ContainerEntry
from sampan.runtime.sandbox import ExecRequest, Sandbox, SandboxError
from sampan.runtime.service import translated

# kubelet takes 16 MiB a message; what a probe prints beyond that is of no use to anyone.
OUTPUT_LIMIT = 4 << 20


class Kept:
    """A writer that keeps what it is given, up to a limit."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data[: OUTPUT_LIMIT - len(self.data)]

    async def drain(self) -> None:
        return

    def write_eof(self) -> None:
        return


class SessionService:
    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self._server: StreamingServer | None = None
        self._starting = asyncio.Lock()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()

    async def _streaming(self) -> StreamingServer:
        async with self._starting:
            if self._server is None:
                server = StreamingServer()
                await server.start()
                self._server = server
            return self._server

    def _running(self, identifier: str) -> tuple[ContainerEntry, Sandbox]:
        entry = self.inventory.container(identifier)
        sandbox = self.inventory.sandboxes[entry.sandbox_id].sandbox
        if entry.state != pb.CONTAINER_RUNNING or sandbox is None:
            state = pb.ContainerState.Name(entry.state)
            raise FailedPrecondition(f"container {entry.id} is not running: it is in {state} state")
        return entry, sandbox

    async def exec_sync(self, request: Any) -> Any:
        if not request.cmd:
            raise InvalidArgument("cmd must not be empty")
        entry, sandbox = self._running(request.container_id)
        stdout, stderr = Kept(), Kept()
        wanted = ExecRequest(tuple(request.cmd), timeout=float(request.timeout))
        try:
            code = await sandbox.exec(entry.id, wanted, Streams(stdout=stdout, stderr=stderr))
        except TimeoutError:
            raise DeadlineExceeded(
                f"command timed out after {request.timeout} s: {' '.join(request.cmd)[:200]}"
            ) from None
        except SandboxError as error:
            raise translated(error) from error
        return pb.ExecSyncResponse(
            stdout=bytes(stdout.data), stderr=bytes(stderr.data), exit_code=code
        )

    async def exec(self, request: Any) -> Any:
        if not request.cmd:
            raise InvalidArgument("cmd must not be empty")
        check_streams(request)
        entry, sandbox = self._running(request.container_id)
        wanted = ExecRequest(tuple(request.cmd), tty=request.tty)

        async def run(streams: Streams) -> int:
            return await sandbox.exec(entry.id, wanted, streams)

        server = await self._streaming()
        session = Exec(run, request.stdin, request.stdout, request.stderr, request.tty)
        return pb.ExecResponse(url=server.url(session))

    async def attach(self, request: Any) -> Any:
        check_streams(request)
        entry, _ = self._running(request.container_id)
        if entry.process is None:
            raise FailedPrecondition(f"container {entry.id} cannot be attached to")
        server = await self._streaming()
        session = Attach(
            entry.process.attach, request.stdin, request.stdout, request.stderr, entry.config.tty
        )
        return pb.AttachResponse(url=server.url(session))

    async def port_forward(self, request: Any) -> Any:
        entry = self.inventory.sandbox(request.pod_sandbox_id)
        if not entry.ready or entry.sandbox is None:
            raise FailedPrecondition(f"sandbox {entry.id} is not running")
        server = await self._streaming()
        return pb.PortForwardResponse(url=server.url(PortForward(entry.sandbox.port)))


def check_streams(request: Any) -> None:
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("one of stdin, stdout, stderr must be set")
    if request.tty and request.stderr:
        raise InvalidArgument("tty and stderr cannot both be set: a terminal has one output")
