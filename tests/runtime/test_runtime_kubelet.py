"""The habits of a stock kubelet, one by one, over CRI: it relists all the time, restarts, makes sandboxes anew, reads history.

What each test imitates is kubelet's `pleg`, `kuberuntime` and `logs` packages, v1.36.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from runtime_fixture import Runtime
from test_runtime_sessions import Session

from sampan.cri import api_pb2 as pb
from sampan.cri.client import CRIClient
from sampan.cri.errors import NotFound

pytestmark = pytest.mark.root

LABELS = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.uid": "uid-of-web"}


async def relist(client: CRIClient) -> dict[str, int]:
    """The generic PLEG's look, once a second: sandboxes, then containers, then the status of each pod that changed."""
    sandboxes = (await client.list_pod_sandbox()).items
    containers = (await client.list_containers()).containers
    for item in sandboxes:
        try:
            await client.pod_sandbox_status(pod_sandbox_id=item.id)
        except NotFound:
            continue
    found = {}
    for item in containers:
        found[item.id] = item.state
        try:
            status = (await client.container_status(container_id=item.id)).status
        except NotFound:
            del found[item.id]
        else:
            assert status.state >= item.state, "a container never becomes younger"
            found[item.id] = status.state
    return found


async def test_it_relists_while_pods_come_and_go(runtime: Runtime) -> None:
    seen: dict[str, list[int]] = {}
    over, looked = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        while not over.is_set():
            for container, state in (await relist(runtime.client)).items():
                seen.setdefault(container, []).append(state)
            looked.set()
            looked.clear()

    async def live(code: int) -> str:
        pod = await runtime.pod()
        short = await runtime.container(pod, "sh", "-c", f"exit {code}")
        assert (await runtime.ended(short)).exit_code == code
        while short not in seen:  # a look under way may have begun before it was made
            await looked.wait()
        await runtime.client.stop_pod_sandbox(pod_sandbox_id=pod)
        await runtime.client.remove_pod_sandbox(pod_sandbox_id=pod)
        return short

    looking = asyncio.create_task(look())
    made = await asyncio.gather(*(live(code) for code in range(1, 5)))
    over.set()
    await looking
    assert set(made) <= set(seen)
    for states in seen.values():
        assert states == sorted(states)
    assert await relist(runtime.client) == {}


async def test_it_restarts(runtime: Runtime) -> None:
    """A new client, while the runtime and its pods go on: what ended in between is in the lists, what follows in the events."""
    first = CRIClient(runtime.config.socket)
    pod = await runtime.pod()
    stays = await runtime.container(pod, "sleep", "1000")
    ends = await runtime.container(pod, "sh", "-c", "exit 9")
    async with aclosing(first.get_container_events()) as events:
        listening = asyncio.ensure_future(anext(events))
        await asyncio.wait({listening}, timeout=0)
        await first.close()  # the kubelet is killed: its stream breaks
        await asyncio.gather(listening, return_exceptions=True)
    await runtime.ended(ends)
    async with CRIClient(runtime.config.socket) as again:
        assert (await again.version(version="v1")).runtime_api_version == "v1"
        conditions = (await again.status()).status.conditions
        assert {item.type: item.status for item in conditions} == {
            "RuntimeReady": True, "NetworkReady": True,
        }  # fmt: skip
        assert await relist(again) == {stays: pb.CONTAINER_RUNNING, ends: pb.CONTAINER_EXITED}
        assert (await again.container_status(container_id=ends)).status.exit_code == 9
        heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def listen() -> None:
            async with aclosing(again.get_container_events()) as news:
                async for event in news:
                    stopped = event.container_event_type == pb.CONTAINER_STOPPED_EVENT
                    if stopped and event.container_id == stays:
                        heard.set_result(event)
                        return

        task = asyncio.create_task(listen())
        # The stream is open once it has told of another pod.
        await again.stop_container(container_id=stays, timeout=0)
        await asyncio.wait({task}, timeout=5)
        if not heard.done():  # it stopped before the stream was open: then the next relist says so
            task.cancel()
            assert (await relist(again))[stays] == pb.CONTAINER_EXITED
        else:
            codes = {item.id: item.exit_code for item in heard.result().containers_statuses}
            assert codes == {stays: 137, ends: 9}


async def test_it_makes_the_sandbox_anew_when_the_network_changes(runtime: Runtime) -> None:
    """`podSandboxChanged`: the old one is stopped and kept, another with the next attempt takes its place."""
    metadata = {"name": "web", "namespace": "default", "uid": "uid-of-web"}
    old = await runtime.pod(metadata={**metadata, "attempt": 0}, labels=LABELS)
    before = await runtime.container(old, "sleep", "1000", labels=LABELS)
    await runtime.client.update_runtime_config(
        runtime_config={"network_config": {"pod_cidr": "10.99.0.0/24"}}
    )
    assert (await runtime.exec(before, "echo", "unmoved")).stdout == b"unmoved\n"
    await runtime.client.stop_pod_sandbox(pod_sandbox_id=old)
    new = await runtime.pod(metadata={**metadata, "attempt": 1}, labels=LABELS)
    listed = (
        await runtime.client.list_pod_sandbox(
            filter={"label_selector": {"io.kubernetes.pod.uid": "uid-of-web"}}
        )
    ).items
    # The newest first is how a kubelet sorts; both have to be there, with their attempts.
    assert {(item.id, item.metadata.attempt, item.state) for item in listed} == {
        (old, 0, pb.SANDBOX_NOTREADY), (new, 1, pb.SANDBOX_READY),
    }  # fmt: skip
    ready = (await runtime.client.list_pod_sandbox(filter={"state": {"state": 0}})).items
    assert [item.id for item in ready] == [new]
    assert (await runtime.status(before)).exit_code == 137
    after = await runtime.container(new, "sleep", "1000", labels=LABELS)
    assert (await runtime.exec(after, "echo", "there")).stdout == b"there\n"
    await runtime.client.remove_pod_sandbox(pod_sandbox_id=old)
    (left,) = (await runtime.client.list_containers()).containers
    assert (left.id, left.pod_sandbox_id) == (after, new)


async def test_it_reads_a_containers_history(runtime: Runtime) -> None:
    """Every attempt stays until it is removed, with its own end and log; the oldest go first."""
    pod = await runtime.pod(labels=LABELS)
    attempts = []
    for attempt in range(4):
        name = {"name": "web", "attempt": attempt}
        script = f"echo attempt {attempt}; exit {attempt + 10}"
        container = await runtime.container(
            pod, "sh", "-c", script, metadata=name, labels=LABELS, log_path=f"web/{attempt}.log"
        )
        await runtime.ended(container)
        attempts.append(container)
    await runtime.client.remove_container(container_id=attempts[0])
    await runtime.client.remove_container(container_id=attempts[1])
    # A runtime that restarts knows no less.
    await runtime.stop()
    await runtime.start()
    chosen = {"label_selector": {"io.kubernetes.pod.uid": "uid-of-web"}}
    listed = (await runtime.client.list_containers(filter=chosen)).containers
    assert {item.id: item.metadata.attempt for item in listed} == {attempts[2]: 2, attempts[3]: 3}
    created = [item.created_at for item in sorted(listed, key=lambda item: item.metadata.attempt)]
    assert created == sorted(created)
    for number in (2, 3):
        status = await runtime.status(attempts[number])
        assert (status.exit_code, status.reason) == (number + 10, "Error")
        assert status.log_path.endswith(f"/web/{number}.log")
        assert await runtime.log(attempts[number]) == f"attempt {number}"
        assert created[number - 2] == status.created_at <= status.started_at <= status.finished_at


async def test_its_log_directories_are_links(runtime: Runtime, tmp_path: Path) -> None:
    """`/var/log/pods` may be a link to a larger disk, and `/var/log/containers` holds links to the logs."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "pods").symlink_to("disk")
    directory = tmp_path / "pods" / "default_web_uid-of-web"
    directory.mkdir()
    pod = await runtime.pod(log_directory=str(directory))
    (directory / "web").mkdir()
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
    container = await runtime.container(pod, "sh", "-c", script, log_path="web/0.log")
    path = Path((await runtime.status(container)).log_path)
    assert (
        path == directory / "web" / "0.log"
    )  # as it was asked for: kubelet's own link leads there
    link = tmp_path / "containers" / f"web_default_web-{container}.log"
    link.parent.mkdir()
    link.symlink_to(path)
    while not link.stat().st_size:
        await asyncio.sleep(0)
    # Rotation: rename, ask for a new file, go on reading by the same link.
    old = path.rename(path.with_name("0.log.20261122"))
    await runtime.client.reopen_container_log(container_id=container)
    while not link.stat().st_size:
        await asyncio.sleep(0)
    last, first = old.read_text().split()[-1], link.read_text().split()[3]
    assert int(first) == int(last) + 1
    # A log that was deleted meanwhile is made anew.
    path.unlink()
    await runtime.client.reopen_container_log(container_id=container)
    while not (link.exists() and link.stat().st_size):
        await asyncio.sleep(0)


async def test_its_user_attaches_again(runtime: Runtime) -> None:
    """Leaving does not end the container, and another session is heard as the first was."""
    script = "while read line; do echo got $line; done; echo over"
    pod = await runtime.pod()
    container = await runtime.container(pod, "sh", "-c", script, stdin=True)

    async def session() -> Session:
        answer = await runtime.client.attach(
            container_id=container, stdin=True, stdout=True, stderr=True
        )
        return Session(answer.url)

    for word in (b"one", b"two", b"three"):
        async with await session() as attached:
            await attached.send(word + b"\n")
            await attached.until(b"got " + word)
    async with await session() as reader, await session() as writer:
        await writer.send(b"both\n")
        await reader.until(b"got both")
        await writer.until(b"got both")
    assert (await runtime.status(container)).state == pb.CONTAINER_RUNNING
    assert "over" not in await runtime.log(container)
