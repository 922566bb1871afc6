"""A cluster for tests of controllers: the real API server in process, and a test that plays the node."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import first_start
import pytest

from sampan import controllers
from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.client import Client
from sampan.client.inprocess import InProcess
from sampan.client.resources import NODES, PODS
from sampan.client.transport import User
from sampan.kube.errors import ApiError
from sampan.kube.objects import is_deleting, set_condition
from sampan.store.sqlite import SQLiteStore

DEADLINE = 15.0
ADMIN = User("admin", ("system:masters", "system:authenticated"))
Object = dict[str, Any]


class Clock:
    """Time that a test moves. `shift` applies to both clocks of the controllers."""

    def __init__(self) -> None:
        self.shift = 0.0

    def wall(self) -> float:
        return time.time() + self.shift

    def steady(self) -> float:
        return time.monotonic() + self.shift


class World:
    def __init__(self, server: APIServer) -> None:
        self.server = server
        self.client = Client(InProcess(server, ADMIN))
        self.clock = Clock()
        self.running: asyncio.Task[None] | None = None

    async def start(self, **options: Any) -> None:
        ready = asyncio.Event()
        self.running = asyncio.ensure_future(
            controllers.run(
                self.client, root_ca="PEM", clock=self.clock.wall, monotonic=self.clock.steady,
                legacy_token=lambda account, name: f"token of {account['metadata']['name']}",
                ready=ready, **options,
            )
        )  # fmt: skip
        async with asyncio.timeout(DEADLINE):
            await ready.wait()

    async def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
            self.running = None

    async def until(
        self, gvr: Any, holds: Callable[[list[Object]], Any], namespace: str = "default"
    ) -> Any:
        """Wait until `holds(all objects)` is true, looking again at every change; what it returned."""
        namespace = "" if namespace == "*" else namespace
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    page = await self.client.list(gvr, namespace)
                    if found := holds(page.items):
                        return found
                    watch = self.client.watch(
                        gvr, namespace, resource_version=page.resource_version, bookmarks=False
                    )
                    async for _ in watch:
                        break
                    await watch.aclose()
        except TimeoutError:
            page = await self.client.list(gvr, namespace)
            raise AssertionError(f"never held: {page.items}") from None

    async def get_until(self, gvr: Any, name: str, holds: Callable[[Object], Any]) -> Object:
        def one(items: list[Object]) -> Object | None:
            return next((o for o in items if o["metadata"]["name"] == name and holds(o)), None)

        return await self.until(gvr, one)

    async def gone(self, gvr: Any, name: str, namespace: str = "default") -> None:
        await self.until(
            gvr, lambda items: all(o["metadata"]["name"] != name for o in items), namespace
        )

    async def pods(self, **labels: str) -> list[Object]:
        selector = ",".join(f"{k}={v}" for k, v in labels.items())
        return (await self.client.list(PODS, "default", label_selector=selector)).items

    async def set_pod(
        self, name: str, *, ready: bool = True, ip: str = "", **status: Any
    ) -> Object:
        """What a node would say of a pod."""
        pod = await self.client.get(PODS, name, "default")
        state: Object = {"status": {"phase": "Running", **(pod.get("status") or {})}}
        state["status"]["phase"] = "Running"
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock.wall()))
        set_condition(state, "Ready", "True" if ready else "False", now=moment)
        if ip:
            state["status"] |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        state["status"] |= status
        pod["status"] = state["status"]
        return await self.client.update(PODS, pod, "status")

    async def play_node(self, *, unready: Callable[[Object], bool] = lambda pod: False) -> None:
        """Make every pod run, be ready, and go when it is deleted; until cancelled."""
        page = await self.client.list(PODS, "default")
        for pod in page.items:
            await self.play(pod, unready)
        watch = self.client.watch(PODS, "default", resource_version=page.resource_version)
        async for event in watch:
            if event.type in ("ADDED", "MODIFIED"):
                await self.play(event.object, unready)

    async def play(self, pod: Object, unready: Callable[[Object], bool]) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        try:
            if is_deleting(pod):
                await self.client.delete(PODS, name, "default", uid=uid, grace=0)
            elif (pod.get("status") or {}).get("phase") != "Running" and not unready(pod):
                await self.set_pod(name)
        except ApiError as error:
            if error.code not in (404, 409):
                raise

    async def node(self, name: str, **labels: str) -> Object:
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        await self.client.create(NODES, made)
        return await self.client.patch(
            NODES, name, {"status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            subresource="status",
        )  # fmt: skip


@pytest.fixture
async def server(tmp_path, started_before):
    first_start.lend(started_before, tmp_path / "pki", tmp_path / "state.db")
    store = await SQLiteStore.open(tmp_path / "state.db")
    server = APIServer(store, ServerConfig(tmp_path / "pki", tmp_path / "kubeconfig.yaml", port=0))
    await server.start(serve=False)
    yield server
    await server.close()
    await store.close()


@pytest.fixture
async def world(server):
    """Controllers run; nobody plays the node."""
    world = World(server)
    await world.start()
    yield world
    await world.stop()


@pytest.fixture
async def idle(server):
    """Controllers do not run until the test starts them."""
    world = World(server)
    yield world
    await world.stop()


@pytest.fixture
async def alive(world):
    """Controllers run, and pods become ready by themselves."""
    playing = asyncio.ensure_future(world.play_node())
    yield world
    playing.cancel()
    await asyncio.gather(playing, return_exceptions=True)


def template(image: str = "a", **labels: str) -> Object:
    return {
        "metadata": {"labels": {"app": "web", **labels}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    }


def workload(kind: str, name: str = "web", replicas: int = 2, **spec: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(),
            **spec,
        },
    }
