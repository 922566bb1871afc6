"""The scheduler against the real API server in process."""

from __future__ import annotations

import asyncio
from typing import Any

import first_start
import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.client import Client
from sampan.client.inprocess import InProcess
from sampan.client.resources import EVENTS, NODES, PODS, SERVICEACCOUNTS
from sampan.client.transport import User
from sampan.scheduler.scheduler import Scheduler
from sampan.store.sqlite import SQLiteStore

DEADLINE = 15.0
ADMIN = User("admin", ("system:masters", "system:authenticated"))
Object = dict[str, Any]


class Cluster:
    def __init__(self, server: APIServer) -> None:
        self.client = Client(InProcess(server, ADMIN))
        self.scheduler = Scheduler(self.client)

    async def node(self, name: str, cpu: str = "4", taints: Any = None, **labels: str) -> None:
        made = {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}},
        }
        created = await self.client.create(NODES, made)
        # Admission taints a new node `not-ready`.
        await self.client.update(NODES, {**created, "spec": {"taints": taints or []}})

    async def pod(self, name: str, cpu: str = "100m", labels: Any = None, **spec: Any) -> Object:
        container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
        made = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels or {}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
        }
        return await self.client.create(PODS, made, "default")

    async def where(self, name: str, holds: Any = lambda p: p["spec"].get("nodeName")) -> Object:
        """The pod once it is so (by default: bound)."""
        async with asyncio.timeout(DEADLINE):
            while True:
                page = await self.client.list(PODS, "default")
                for pod in page.items:
                    if pod["metadata"]["name"] == name and holds(pod):
                        return pod
                watch = self.client.watch(
                    PODS, "default", resource_version=page.resource_version, bookmarks=False
                )
                async for _ in watch:
                    break
                await watch.aclose()

    async def bound(self, name: str) -> str:
        return str((await self.where(name))["spec"]["nodeName"])

    async def waits(self, name: str, *parts: str) -> str:
        """The message of PodScheduled once it has all the parts."""

        def message(pod: Object) -> str:
            for entry in (pod.get("status") or {}).get("conditions") or ():
                if entry["type"] == "PodScheduled" and entry["status"] == "False":
                    return str(entry.get("message", ""))
            return ""

        pod = await self.where(
            name, lambda p: message(p) and all(part in message(p) for part in parts)
        )
        return message(pod)

    async def events(self, name: str) -> list[str]:
        await self.scheduler.events.flush()
        found = await self.client.list(
            EVENTS, "default", field_selector=f"involvedObject.name={name}"
        )
        return [f"{event['reason']}: {event['message']}" for event in found.items]


@pytest.fixture
async def cluster(tmp_path, started_before):
    first_start.lend(started_before, tmp_path / "pki", tmp_path / "state.db")
    store = await SQLiteStore.open(tmp_path / "state.db")
    server = APIServer(store, ServerConfig(tmp_path / "pki", tmp_path / "kubeconfig.yaml", port=0))
    await server.start(serve=False)
    cluster = Cluster(server)
    await cluster.client.create(SERVICEACCOUNTS, {"metadata": {"name": "default"}}, "default")
    ready = asyncio.Event()
    running = asyncio.ensure_future(cluster.scheduler.run(ready))
    async with asyncio.timeout(DEADLINE):
        await ready.wait()
    yield cluster
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await server.close()
    await store.close()
