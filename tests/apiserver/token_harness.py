"""A server that takes tokens from elsewhere, and who it says the bearer is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apiserver_harness import Harness, open_server

from sampan.apiserver.security import SecurityConfig
from sampan.client.transport import Request, Response

REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
TOKEN_REVIEW = "/apis/authentication.k8s.io/v1/tokenreviews"


async def serving(directory: Path, **security: Any) -> Harness:
    api = await open_server(directory, security=SecurityConfig(**security), authorization=True)
    await api.server.start(serve=False)
    return api


async def closed(api: Harness) -> None:
    await api.server.close()
    await api.store.close()


async def bearer(api: Harness, token: str, path: str = "/api", method: str = "GET") -> Response:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    body = b"{}" if method == "POST" else b""
    return await api.server.handle(Request(method, path, headers=headers, body=body))


async def who(api: Harness, token: str) -> dict[str, Any]:
    answer = await bearer(api, token, REVIEW, "POST")
    assert answer.status == 201, answer.body
    found: dict[str, Any] = answer.json()["status"]["userInfo"]
    return found
