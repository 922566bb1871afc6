"""Client and server over a real socket: errors, streams, callers that leave, and garbage."""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from sampan.cri import api_pb2 as pb
from sampan.cri import errors
from sampan.cri.client import CRIClient
from sampan.cri.methods import snake_case, table
from sampan.cri.server import CRIServer


class Service:
    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def version(self, request):
        return pb.VersionResponse(version=request.version, runtime_name="test")

    async def container_status(self, request):
        raise errors.NotFound(f"container {request.container_id!r}: not found")

    async def list_containers(self, request):
        raise ZeroDivisionError("a bug")

    async def stream_containers(self, request):
        for number in range(3):
            yield pb.StreamContainersResponse(containers=[pb.Container(id=str(number))])
        raise errors.ResourceExhausted("enough")

    async def _slow(self):
        self.entered.set()
        try:
            await self.leave.wait()
            self.outcome.set_result("finished")
        except asyncio.CancelledError:
            self.outcome.set_result("cancelled")
            raise

    async def stop_container(self, request):
        await self._slow()
        return pb.StopContainerResponse()

    async def exec_sync(self, request):
        await self._slow()
        return pb.ExecSyncResponse()

    async def list_images(self, request):
        return pb.ListImagesResponse(images=[pb.Image(id="x" * 100)] * 60_000)


@pytest.fixture
async def served(tmp_path):
    service = Service()
    server = CRIServer(tmp_path / "cri.sock", service)
    await server.start()
    async with CRIClient(f"unix://{server.socket}") as client:
        yield service, client, server
    await server.close()


async def test_the_socket_is_the_owners_alone(served):
    _, _, server = served
    assert stat.S_IMODE(os.stat(server.socket).st_mode) == 0o600


async def test_answers_errors_and_bugs(served):
    _, client, _ = served
    assert (await client.version(version="v1")).runtime_name == "test"
    with pytest.raises(errors.NotFound, match="'abc': not found"):
        await client.container_status(container_id="abc")
    with pytest.raises(errors.Internal, match="ZeroDivisionError: a bug"):
        await client.list_containers()
    with pytest.raises(errors.Unimplemented):
        await client.attach()
    with pytest.raises(ValueError, match="no_such_field"):
        await client.version(no_such_field=1)


async def test_streams_deliver_and_then_fail(served):
    _, client, _ = served
    seen = []
    with pytest.raises(errors.ResourceExhausted, match="enough"):
        async for item in client.stream_containers():
            seen += [item.containers[0].id]
    assert seen == ["0", "1", "2"]


async def test_messages_larger_than_grpcs_default(served):
    _, client, _ = served
    assert len((await client.list_images()).images) == 60_000


@pytest.mark.parametrize(
    ("method", "outcome"), [("stop_container", "finished"), ("exec_sync", "cancelled")]
)
async def test_what_was_begun_is_finished_unless_it_may_last_for_ever(served, method, outcome):
    service, client, _ = served
    call = asyncio.create_task(getattr(client, method)(container_id="x"))
    await service.entered.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    if outcome == "finished":
        service.leave.set()
    assert await asyncio.wait_for(service.outcome, 10) == outcome


async def test_a_deadline_is_an_error_of_its_own(served):
    service, client, _ = served
    with pytest.raises(errors.DeadlineExceeded):
        await client.stop_container(container_id="x", rpc_timeout=0.05)
    service.leave.set()


async def test_garbage_on_the_socket_does_not_stop_it(served):
    _, client, server = served
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(5000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 99,
    ):
        _, writer = await asyncio.open_unix_connection(str(server.socket))
        writer.write(garbage)
        writer.close()
    assert (await client.version(version="v1")).version == "v1"


async def test_a_client_waits_for_a_runtime_that_is_away(tmp_path):
    async with CRIClient(tmp_path / "cri.sock") as client:
        with pytest.raises(errors.Unavailable):
            await client.version()
        waiting = asyncio.create_task(client.version(version="v1", wait=True))
        server = CRIServer(tmp_path / "cri.sock", Service())
        await server.start()
        assert (await asyncio.wait_for(waiting, 20)).version == "v1"
        await server.close()


def test_the_table_has_all_of_cri_v1():
    methods = table()
    assert (
        len([method for method in methods if method.service == "runtime.v1.RuntimeService"]) == 35
    )
    assert len([method for method in methods if method.service == "runtime.v1.ImageService"]) == 6
    assert snake_case("UpdatePodSandboxResources") == "update_pod_sandbox_resources"
    # Numbers that other runtimes and kubelet rely on.
    fields = pb.ContainerStatus.DESCRIPTOR.fields_by_name
    assert [fields[name].number for name in ("exit_code", "reason", "image_id", "stop_signal")] == [
        7,
        10,
        17,
        19,
    ]
