"""A real API server, a real wasm runtime and the node agent under test, each a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

NODE = "boat-1"
DEADLINE = 20.0

# Guests as small as they come: WASI's fd_write, poll_oneoff and proc_exit, and nothing else.
GUEST = """
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "ahoy\\0a")
  (data (i32.const 128) "\\40\\00\\00\\00\\05\\00\\00\\00")
  (data (i32.const 208) "\\01\\00\\00\\00\\00\\00\\00\\00\\00\\00\\d0\\ed\\90\\2e\\00\\00")
  (data (i32.const 416) "\\01\\00\\00\\00\\00\\00\\00\\00\\80\\f0\\fa\\02")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 128) (i32.const 1) (i32.const 160)))
    BODY))
"""
GUESTS = {
    # A subscription at 192: type clock (200), id monotonic (208), timeout (216) of 592 days.
    "sleeper": "(loop (drop (call $poll (i32.const 192) (i32.const 304) (i32.const 1) "
    "(i32.const 160))) (br 0))",
    # The same at 400, with 50 ms: it says its word again and again.
    "ticker": "(loop (drop (call $write (i32.const 1) (i32.const 128) (i32.const 1) (i32.const 160)))"
    "(drop (call $poll (i32.const 400) (i32.const 304) (i32.const 1) (i32.const 160))) (br 0))",
    "worker": "(call $exit (i32.const 0))",
    "crasher": "(call $exit (i32.const 3))",
}


class Harbour:
    """API server and runtime, with a client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig.yaml"
        self.processes: list[subprocess.Popen[str]] = []
        self.runtime: subprocess.Popen[str]

    def spawn(self, *command: str) -> tuple[subprocess.Popen[str], str]:
        """A process and its first line, which says that it is ready."""
        log = open(self.directory / "processes.log", "a")  # noqa: SIM115 - the child's
        process = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        self.processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line, (self.directory / "processes.log").read_text()[-3000:]
        return process, line

    def start_server(self) -> subprocess.Popen[str]:
        process, _ = self.spawn(
            "-m", "sampan.apiserver", "--data-dir", str(self.directory), "--port", "0"
        )
        return process

    def start_runtime(self) -> subprocess.Popen[str]:
        return self.spawn(str(HERE / "node_runtime.py"), str(self.directory))[0]

    def start_node(self, *flags: str, api: bool = True) -> subprocess.Popen[str]:
        given = [str(self.kubeconfig) if api else "", *flags]
        process, _ = self.spawn(str(HERE / "node_process.py"), str(self.directory), NODE, *given)
        return process

    def end(self, process: subprocess.Popen[str], *, kill: bool = False) -> None:
        process.kill() if kill else process.terminate()
        process.wait(10)

    def load_guests(self) -> None:
        import wasmtime

        from sampan.image.build import build
        from sampan.image.store import ImageStore

        store = ImageStore(self.directory / "images")
        for name, body in GUESTS.items():
            place = self.directory / "build" / name
            place.mkdir(parents=True)
            (place / "guest.wasm").write_bytes(wasmtime.wat2wasm(GUEST.replace("BODY", body)))
            (place / "Dockerfile").write_text(
                'FROM scratch\nCOPY guest.wasm /guest.wasm\nENTRYPOINT ["/guest.wasm"]\n'
            )
            build(place, f"{name}:1", store, platform="wasip1/wasm")


@pytest.fixture(scope="module")
def harbour() -> Iterator[Harbour]:
    directory = Path(tempfile.mkdtemp(prefix="node-", dir="/tmp"))  # sockets want a short path
    for name in ("images", "runtime", "network", "run"):
        (directory / name).mkdir()
    held = Harbour(directory)
    try:
        from sampan.apiserver.pki import ensure_pki

        ensure_pki(directory / "pki", node_name=NODE)
        held.load_guests()
        held.start_server()
        held.runtime = held.start_runtime()
        yield held
    finally:
        sweep(directory / "run" / "cri.sock")
        for process in reversed(held.processes):
            if process.poll() is None:
                held.end(process)
        shutil.rmtree(directory, ignore_errors=True)


def sweep(socket: Path) -> None:
    """No sandbox outlives its test."""

    async def remove_all() -> None:
        from sampan.cri.client import CRIClient

        async with CRIClient(socket) as cri:
            for sandbox in (await cri.list_pod_sandbox(rpc_timeout=5)).items:
                await cri.stop_pod_sandbox(pod_sandbox_id=sandbox.id)
                await cri.remove_pod_sandbox(pod_sandbox_id=sandbox.id)

    if socket.exists():
        asyncio.run(remove_all())


class Pods:
    """What a test does with pods, and waiting for what becomes of them by a watch."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def create(self, name: str, image: str = "sleeper:1", **spec: Any) -> dict[str, Any]:
        from sampan.client.resources import PODS

        main = {"name": "main", "image": image, **spec.pop("container", {})}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "nodeName": NODE,
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "containers": [main],
                **spec,
            },
        }
        return await self.client.create(PODS, body)

    async def until(
        self, name: str, check: Callable[[dict[str, Any]], Any], what: str = ""
    ) -> dict[str, Any]:
        """The pod as soon as `check` holds (it is {} when the pod is gone). Fails with its last status."""
        from sampan.client.client import ApiError
        from sampan.client.resources import PODS

        last: dict[str, Any] = {}
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    try:
                        last = await self.client.get(PODS, name, "default")
                    except ApiError as error:
                        assert error.code == 404
                        last = {}
                    if check(last):
                        return last
                    if not last:
                        raise AssertionError(f"{name} is gone before {what or check}")
                    watch = self.client.watch(
                        PODS,
                        "default",
                        resource_version=last["metadata"]["resourceVersion"],
                        field_selector=f"metadata.name={name}",
                    )
                    async for event in watch:
                        last = {} if event.type == "DELETED" else event.object
                        if event.type != "BOOKMARK" and check(last):
                            return last
        except TimeoutError:
            raise AssertionError(
                f"{name} never came to {what or check}: {last.get('status')}"
            ) from None

    async def reported(self, name: str, reason: str) -> None:
        """Return when there is an event of the pod with this reason."""
        from sampan.client.resources import EVENTS

        fields = f"involvedObject.name={name},reason={reason}"
        async with asyncio.timeout(DEADLINE):
            page = await self.client.list(EVENTS, "default", field_selector=fields)
            if page.items:
                return
            version = page.resource_version
            async for event in self.client.watch(
                EVENTS, "default", resource_version=version, field_selector=fields
            ):
                if event.type == "ADDED":
                    return

    async def delete(self, name: str) -> None:
        from sampan.client.resources import PODS

        await self.client.delete(PODS, name, "default")
        await self.until(name, lambda pod: not pod, "its end")


@pytest.fixture
async def pods(harbour: Harbour) -> AsyncIterator[Pods]:
    from sampan.client.client import ApiError, Client
    from sampan.client.http import HTTPTransport
    from sampan.client.kubeconfig import load
    from sampan.client.resources import SERVICEACCOUNTS

    client = Client(HTTPTransport(load(harbour.kubeconfig)))
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": "default"},
    }
    try:
        await client.create(SERVICEACCOUNTS, account)
    except ApiError as error:
        assert error.code == 409  # of the test before
    yield Pods(client)
    await client.close()
