"""A server of its own for each test, called in process: no port, no TLS, the same pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import first_start
import orjson
import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.client.transport import Request, Response, User
from sampan.store.sqlite import SQLiteStore

ADMIN = User("admin", ("system:masters",))
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
CONTENT = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Harness:
    def __init__(self, server: APIServer, store: SQLiteStore) -> None:
        self.server = server
        self.store = store

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = "application/json",
        user: User = ADMIN,
        **headers: str,
    ) -> Response:
        path, _, text = path.partition("?")
        query = [tuple(part.partition("=")[::2]) for part in text.split("&") if part]
        data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        sent = {
            "content-type": content,
            **{key.replace("_", "-"): each for key, each in headers.items()},
        }
        return await self.server.handle(Request(method, path, query, sent, data, user))  # type: ignore[arg-type]

    async def call(
        self, method: str, path: str, body: Any = None, status: int = 0, **more: Any
    ) -> Any:
        """The decoded answer; its status must be `status`, or any success."""
        response = await self.send(method, path, body, **more)
        found = orjson.loads(await response.read())
        wanted = response.status == status if status else response.status < 300
        assert wanted, (response.status, found)
        return found

    async def patch(
        self, kind: str, path: str, patch: Any, status: int = 0, user: User = ADMIN
    ) -> Any:
        return await self.call("PATCH", path, patch, status, content=CONTENT[kind], user=user)

    async def apply(
        self,
        path: str,
        config: Any,
        manager: str = "me",
        status: int = 0,
        *,
        force: bool = False,
        user: User = ADMIN,
    ) -> Any:
        """Server-side apply; `path` may have a query."""
        more = f"fieldManager={manager}" + ("&force=true" if force else "")
        path += ("&" if "?" in path else "?") + more
        return await self.call("PATCH", path, config, status, content=CONTENT["apply"], user=user)

    async def watch(self, path: str) -> AsyncIterator[dict[str, Any]]:
        response = await self.send("GET", path)
        assert response.status == 200
        if isinstance(response.body, bytes):
            for line in response.body.splitlines():
                yield orjson.loads(line)
            return
        try:
            async for chunk in response.body:
                for line in chunk.splitlines():
                    yield orjson.loads(line)
        finally:
            await response.aclose()


async def open_server(directory: Path, **config: Any) -> Harness:
    store = await SQLiteStore.open(directory / "store" / "state.db")
    values = {"port": 0, "authorization": False, **config}
    server = APIServer(
        store, ServerConfig(directory / "pki", directory / "kubeconfig.yaml", **values)
    )
    return Harness(server, store)


@pytest.fixture
async def api(tmp_path: Path, started_before: Path) -> AsyncIterator[Harness]:
    first_start.lend(started_before, tmp_path / "pki", tmp_path / "store" / "state.db")
    harness = await open_server(tmp_path)
    await harness.server.start(serve=False)
    yield harness
    await harness.server.close()
    await harness.store.close()


async def service_account(api: Harness) -> None:
    """What its controller makes in each namespace, and pods need."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    await api.call("POST", "/api/v1/namespaces/default/serviceaccounts", account)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": data or {"a": "b"},
    }


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "busybox"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": containers, **spec},
    }


def deployment(name: str, replicas: int = 1) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod("x")["spec"]},
        },
    }
