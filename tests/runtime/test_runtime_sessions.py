"""Exec, attach and port-forward into real containers, through CRI's URLs."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from runtime_kinds import either

from sampan.cri import api_pb2 as pb
from sampan.cri import errors

pytestmark = pytest.mark.root


class Session:
    """A WebSocket client of `v5.channel.k8s.io`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.received = {1: b"", 2: b"", 3: b""}

    async def __aenter__(self):
        self.http = aiohttp.ClientSession()
        self.ws = await self.http.ws_connect(self.url, protocols=["v5.channel.k8s.io"])
        return self

    async def __aexit__(self, *_):
        await self.http.close()

    async def send(self, data: bytes) -> None:
        await self.ws.send_bytes(b"\x00" + data)

    async def end_stdin(self) -> None:
        await self.ws.send_bytes(b"\xff\x00")

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(20):
            while text not in self.received[1] + self.received[2]:
                message = await self.ws.receive()
                assert message.type == aiohttp.WSMsgType.BINARY, self.received
                self.received[message.data[0]] += message.data[1:]

    async def status(self) -> dict:
        async with asyncio.timeout(20):
            async for message in self.ws:
                self.received[message.data[0]] += message.data[1:]
        return json.loads(self.received[3])


async def exec_url(runtime, container: str, *command: str, tty: bool = False, stdin: bool = True):
    answer = await runtime.client.exec(
        container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty
    )
    return answer.url


@either
async def test_exec_copies_stdin_and_both_outputs(runtime):
    container = await runtime.container(await runtime.pod(), "sleep", "1000")
    command = ("sh", "-c", "wc -c; echo err >&2; exit 4")
    async with Session(await exec_url(runtime, container, *command)) as session:
        for _ in range(20):
            await session.send(b"x" * 10_000)
        await session.end_stdin()
        status = await session.status()
    assert session.received[1] == b"200000\n"
    assert session.received[2] == b"err\n"
    assert status["details"]["causes"][0]["message"] == "4"


@either
async def test_exec_with_a_terminal_takes_its_size(runtime):
    container = await runtime.container(await runtime.pod(), "sleep", "1000")
    async with Session(await exec_url(runtime, container, "sh", tty=True)) as session:
        await session.ws.send_bytes(b'\x04{"Width": 101, "Height": 33}')
        await session.send(b"until [ \"$(stty size)\" = '33 101' ]; do :; done; tty; echo do''ne\n")
        await session.until(b"done")
        await session.send(b"exit 6\n")
        status = await session.status()
    assert b"/dev/pts/" in session.received[1]
    assert status["details"]["causes"][0]["message"] == "6"


@either
async def test_a_client_that_leaves_ends_its_exec(runtime):
    container = await runtime.container(await runtime.pod(), "sleep", "1000")
    url = await exec_url(runtime, container, "sh", "-c", "echo up; exec sleep 555")
    async with Session(url) as session:
        await session.until(b"up")
        assert b"sleep 555" in (await runtime.exec(container, "ps")).stdout
    async with asyncio.timeout(20):
        while b"sleep 555" in (await runtime.exec(container, "ps")).stdout:
            await asyncio.sleep(0)


@either
async def test_attach_to_a_container_with_stdin(runtime):
    container = await runtime.container(
        await runtime.pod(),
        *("sh", "-c", "while read line; do echo got $line; done; echo over; exit 2"),
        stdin=True,
        stdin_once=True,
    )
    answer = await runtime.client.attach(
        container_id=container, stdin=True, stdout=True, stderr=True
    )
    async with Session(answer.url) as session:
        await session.send(b"one\n")
        await session.until(b"got one")
        await session.send(b"two\n")
        await session.until(b"got two")
        await session.end_stdin()
        status = await session.status()
    assert status["status"] == "Success"
    assert (await runtime.ended(container)).exit_code == 2
    assert "got two" in await runtime.log(container)


@either
async def test_attach_to_a_terminal(runtime):
    container = await runtime.container(
        await runtime.pod(), "sh", tty=True, stdin=True, stdin_once=True
    )
    answer = await runtime.client.attach(container_id=container, stdin=True, stdout=True, tty=True)
    async with Session(answer.url) as session:
        await session.ws.send_bytes(b'\x04{"Width": 91, "Height": 23}')
        await session.send(b"until [ \"$(stty size)\" = '23 91' ]; do :; done; echo do''ne\n")
        await session.until(b"done")
        await session.send(b"exit\n")
        await session.status()
    assert (await runtime.ended(container)).exit_code == 0


@either
async def test_what_is_not_running_has_no_session(runtime):
    pod = await runtime.pod()
    container = await runtime.container(pod, "true")
    await runtime.ended(container)
    with pytest.raises(errors.FailedPrecondition, match="not running"):
        await exec_url(runtime, container, "true")
    with pytest.raises(errors.NotFound):
        await exec_url(runtime, "0" * 64, "true")
    with pytest.raises(errors.InvalidArgument):
        await runtime.client.exec(container_id=container, cmd=["true"])


@either
async def test_events_tell_a_containers_life(runtime):
    events = runtime.client.get_container_events()
    kinds: list[tuple[str, int]] = []

    async def listen() -> None:
        async for event in events:
            kinds.append((event.container_id, event.container_event_type))
            if event.container_event_type == pb.CONTAINER_DELETED_EVENT:
                assert event.pod_sandbox_status.id
                return

    listening = asyncio.create_task(listen())
    # The stream is heard once it has told something: a pod made over and over until then.
    async with asyncio.timeout(20):
        while not kinds:
            pod = await runtime.pod()
    container = await runtime.container(pod, "true")
    await runtime.ended(container)
    await runtime.client.remove_container(container_id=container)
    await asyncio.wait_for(listening, 20)
    assert [kind for name, kind in kinds if name == container] == [
        pb.CONTAINER_CREATED_EVENT,
        pb.CONTAINER_STARTED_EVENT,
        pb.CONTAINER_STOPPED_EVENT,
        pb.CONTAINER_DELETED_EVENT,
    ]
