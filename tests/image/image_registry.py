"""A small registry for tests: /v2/ pull endpoints over real HTTP, with anonymous, basic or token authentication, and faults."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from image_make import digest

USER, PASSWORD = "captain", "s3cret"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Registry:
    def __init__(self, auth: str = "") -> None:
        self.auth = auth  # "", "basic" or "token"
        self.manifests: dict[str, tuple[str, bytes]] = {}  # "repo:tag" or "repo@digest"
        self.blobs: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.fail: list[int] = []  # statuses to answer with, first, for blobs
        self.break_after: list[
            int
        ] = []  # bytes of a blob after which the connection is cut, in turn
        self.arrived: Callable[[int], Awaitable[None]] | None = None  # awaited before a cut
        self.meeting: tuple[set[str], asyncio.Barrier] | None = (
            None  # blobs that wait for each other
        )
        self.ranges: list[str] = []  # as asked for
        self.retry_after = ""
        self.redirect_to = ""
        self.seen_authorization: list[str] = []
        self.host = ""
        self._runner: web.AppRunner | None = None

    async def start(self, address: str = "127.0.0.1", port: int = 0) -> Registry:
        app = web.Application()
        app.router.add_get("/token", self._token)
        app.router.add_post("/token", self._refresh)
        app.router.add_get("/storage/{digest}", self._storage)
        app.router.add_get("/v2/{repo:.+}/manifests/{target}", self._manifest)
        app.router.add_get("/v2/{repo:.+}/blobs/{digest}", self._blob)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address, port)
        await site.start()
        self.host = f"{address}:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def put_manifest(self, repo: str, tag: str, document: dict[str, Any]) -> str:
        data = json.dumps(document).encode()
        self.manifests[f"{repo}@{digest(data)}"] = (document["mediaType"], data)
        if tag:
            self.manifests[f"{repo}:{tag}"] = (document["mediaType"], data)
        return digest(data)

    def put_blob(self, data: bytes) -> str:
        self.blobs[digest(data)] = data
        return digest(data)

    def _check(self, request: web.Request, repo: str) -> None:
        given = request.headers.get("Authorization", "")
        if self.auth == "basic" and given != BASIC:
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="test"'})
        if self.auth == "token" and given != f"Bearer token-for-{repo}":
            challenge = (
                f'Bearer realm="http://{self.host}/token",service="test",'
                f'scope="repository:{repo}:pull"'
            )
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": challenge})

    async def _token(self, request: web.Request) -> web.Response:
        self.requests["token"] += 1
        if request.headers.get("Authorization") != BASIC:
            raise web.HTTPUnauthorized
        repo = request.query["scope"].split(":")[1]
        return web.json_response({"token": f"token-for-{repo}", "expires_in": 60})

    async def _refresh(self, request: web.Request) -> web.Response:
        """OAuth2: a refresh token in a form becomes an access token."""
        form = await request.post()
        self.requests["refresh"] += 1
        if (form.get("grant_type"), form.get("refresh_token")) != ("refresh_token", PASSWORD):
            raise web.HTTPUnauthorized
        repo = str(form["scope"]).split(":")[1]
        return web.json_response({"access_token": f"token-for-{repo}"})

    async def _manifest(self, request: web.Request) -> web.Response:
        repo, target = request.match_info["repo"], request.match_info["target"]
        self._check(request, repo)
        self.requests["manifest"] += 1
        key = f"{repo}@{target}" if ":" in target else f"{repo}:{target}"
        if key not in self.manifests:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(error, status=404)
        media_type, data = self.manifests[key]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest(data)}
        return web.Response(body=data, headers=headers)

    async def _blob(self, request: web.Request) -> web.Response:
        self._check(request, request.match_info["repo"])
        self.requests["blob"] += 1
        if self.fail:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=self.fail.pop(0), headers=headers)
        name = request.match_info["digest"]
        if self.meeting is not None and name in self.meeting[0]:
            await self.meeting[1].wait()
        if self.redirect_to:
            raise web.HTTPTemporaryRedirect(f"{self.redirect_to}/storage/{name}")
        self.ranges.append(request.headers.get("Range", ""))
        if self.break_after:
            return await self._cut(request, self.blobs[name], self.break_after.pop(0))
        return web.Response(body=self.blobs[name])

    async def _cut(self, request: web.Request, data: bytes, count: int) -> web.StreamResponse:
        """From the range's start on, and only `count` bytes of it: less than was promised when that is too few."""
        start = int(request.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(data) - start
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        await response.prepare(request)
        await response.write(data[start : start + count])
        if start + count < len(data) and request.transport is not None:
            if self.arrived is not None:
                await self.arrived(start + count)
            request.transport.close()
        return response

    async def _storage(self, request: web.Request) -> web.Response:
        self.seen_authorization.append(request.headers.get("Authorization", ""))
        return web.Response(body=self.blobs[request.match_info["digest"]])
