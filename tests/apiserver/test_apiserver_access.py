"""The door as a whole, through a running API server: RBAC that follows writes, tokens, impersonation, and real kubectl."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.ensure_rbac import ensure_rbac
from sampan.apiserver.pki import PKIPaths, ensure_pki
from sampan.apiserver.server import APIServer
from sampan.client.transport import Request, Response, User
from sampan.store.sqlite import SQLiteStore

ADMIN = User("root", ("system:masters", "system:authenticated"))
ALICE = User("alice", ("system:authenticated",))
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PODS = "/api/v1/namespaces/default/pods"


def kubectl_path() -> str:
    fetched = Path(__file__).parents[2] / ".cache" / "clients" / "kubectl"
    return str(fetched) if fetched.exists() else shutil.which("kubectl") or ""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> PKIPaths:
    return ensure_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def server(tmp_path: Path, pki: PKIPaths) -> AsyncIterator[APIServer]:
    store = await SQLiteStore.open(tmp_path / "state.db")
    config = ServerConfig(pki.directory, tmp_path / "kubeconfig.yaml", port=0)
    found = APIServer(store, config)
    await found.start()
    try:
        async with asyncio.timeout(100):
            yield found
    finally:
        await found.close()
        await store.close()


async def ask(
    server: APIServer,
    method: str,
    path: str,
    body: Any = None,
    user: User | None = ADMIN,
    **headers: str,
) -> Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    named.setdefault("content-type", "application/json")
    data = orjson.dumps(body) if body is not None else b""
    return await server.handle(Request(method, path, headers=named, body=data, user=user))


async def grant(server: APIServer, role: str, name: str, namespace: str = "default") -> Response:
    binding = {
        "metadata": {"name": f"{role}-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    }
    return await ask(server, "POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding)


async def test_rights_follow_writes_at_once(server: APIServer) -> None:
    assert (await ask(server, "GET", PODS, user=ALICE)).status == 403
    assert (await grant(server, "view", "alice")).status == 201
    assert (await ask(server, "GET", PODS, user=ALICE)).status == 200
    assert (await ask(server, "GET", "/api/v1/pods", user=ALICE)).status == 403
    path = f"{RBAC}/namespaces/default/rolebindings/view-alice"
    assert (await ask(server, "DELETE", path)).status == 200
    assert (await ask(server, "GET", PODS, user=ALICE)).status == 403


async def test_escalation_is_refused(server: APIServer) -> None:
    await grant(server, "admin", "alice")
    base = f"{RBAC}/namespaces/default/roles"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
    role = {"metadata": {"name": "r"}, "rules": rules}
    assert (await ask(server, "POST", base, role, ALICE)).status == 201
    rules[0]["resources"] = ["nodes"]
    for method, path in (("POST", base), ("PUT", f"{base}/r")):
        response = await ask(server, method, path, role | {"metadata": {"name": "r"}}, ALICE)
        if method == "PUT":
            assert response.status == 403
            assert "not currently held" in response.json()["message"]
        else:
            assert response.status in (403, 409)


async def test_impersonation_is_judged_before_the_request(server: APIServer) -> None:
    response = await ask(server, "GET", PODS, user=ALICE, impersonate_user="bob")
    assert "cannot impersonate resource" in response.json()["message"]
    response = await ask(server, "GET", PODS, impersonate_user="bob")
    assert 'User "bob" cannot list' in response.json()["message"]


async def test_service_account_token(server: APIServer) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    assert (await ask(server, "POST", accounts, {"metadata": {"name": "robot"}})).status == 201
    answer = await ask(server, "POST", f"{accounts}/robot/token", {"spec": {}})
    assert answer.status == 201
    token = answer.json()["status"]["token"]
    bearer = {"authorization": f"Bearer {token}"}
    assert (await ask(server, "GET", "/api", user=None, **bearer)).status == 200
    assert (await ask(server, "GET", PODS, user=None, **bearer)).status == 403
    assert (await ask(server, "GET", "/openid/v1/jwks", user=None, **bearer)).status == 200
    assert (await ask(server, "DELETE", f"{accounts}/robot")).status == 200
    assert (await ask(server, "GET", "/api", user=None, **bearer)).status == 401


async def test_anonymous(server: APIServer) -> None:
    assert (await ask(server, "GET", "/readyz", user=None)).status == 200
    assert (await ask(server, "GET", "/version", user=None)).status == 200
    refused = await ask(server, "GET", "/api", user=None)
    assert refused.status == 403
    assert refused.json()["message"] == (
        'forbidden: User "system:anonymous" cannot get path "/api"'
    )


async def test_defaults_come_back_and_nothing_is_written_twice(server: APIServer) -> None:
    assert await ensure_rbac(server.handle) == 0
    assert (await ask(server, "DELETE", f"{RBAC}/clusterroles/view")).status == 200
    assert await ensure_rbac(server.handle) == 1


@pytest.mark.skipif(
    not kubectl_path(), reason="kubectl is not here: tools/fetch_clients.py fetches it"
)
async def test_kubectl(server: APIServer, tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "KUBECONFIG": str(server.config.kubeconfig)}

    async def kubectl(line: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            kubectl_path(),
            *line.split(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
        output, _ = await process.communicate()
        assert process.returncode == code, output.decode()
        return output.decode()

    assert "Server Version: v1.36." in await kubectl("version")
    resources = await kubectl("api-resources")
    assert len(resources.splitlines()) > 60
    assert "deployments                         deploy" in resources
    assert "apps/v1" in (await kubectl("api-versions")).split()
    explained = await kubectl("explain deployment.spec --recursive")
    assert "revisionHistoryLimit\t<integer>" in explained
    assert "selector\t<LabelSelector> -required-" in explained
    assert "containers\t<[]Container> -required-" in explained
    assert (await kubectl("auth can-i create pods")).strip() == "yes"
    assert (await kubectl("auth can-i get pods --as alice", code=1)).strip().startswith("no")
    assert "*.*" in await kubectl("auth can-i --list")
    assert "kubernetes-admin" in await kubectl("auth whoami")
    await kubectl("create serviceaccount robot")
    await kubectl("create rolebinding rv --clusterrole view --serviceaccount default:robot")
    assert (await kubectl("create token robot")).startswith("eyJ")
    robot = "--as system:serviceaccount:default:robot"
    assert (await kubectl(f"auth can-i list pods {robot}")).strip() == "yes"
    assert (await kubectl(f"get secrets {robot}", code=1)).strip() == (
        'Error from server (Forbidden): secrets is forbidden: User "system:serviceaccount:default:robot" '
        'cannot list resource "secrets" in API group "" in the namespace "default"'
    )
    header = (await kubectl("get services -o wide")).splitlines()[0].split()
    assert header == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]
