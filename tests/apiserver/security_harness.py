"""A server with authorization and something worth stealing."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apiserver_harness import Harness, config_map, open_server, service_account

from sampan.client.transport import User

RBAC = "/apis/rbac.authorization.k8s.io/v1"
CORE = "/api/v1/namespaces/default"
TREASURE = "buried at the third palm"
ENCODED = base64.b64encode(TREASURE.encode()).decode()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    await service_account(harness)
    for namespace in ("default", "kube-system"):
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "treasure"},
            "stringData": {"map": TREASURE},
        }
        await harness.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    await harness.call("POST", f"{CORE}/configmaps", config_map("public"))
    yield harness
    await harness.server.close()
    await harness.store.close()


# --- roles -----------------------------------------------------------------------------------------------


def user(name: str, *groups: str) -> User:
    return User(name, (*groups, "system:authenticated"))


async def bind(api: Harness, role: str, name: str) -> User:
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{role}-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    await api.call("POST", f"{RBAC}/namespaces/default/rolebindings", binding)
    return user(name)


async def token(api: Harness, **spec: Any) -> str:
    path = f"{CORE}/serviceaccounts/default/token"
    answer = await api.call("POST", path, {"spec": spec})
    return str(answer["status"]["token"])
