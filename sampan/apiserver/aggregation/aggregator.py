"""Other servers as part of this API: which requests are theirs, and what they serve.

A request for a group version of a remote APIService is passed on while that is available (`availability` finds out), and is
503 else. What the remote serves stands in discovery and OpenAPI beside our own.

Add-ons of our own (`metrics_api`) stand in the same place without a network: they answer until somebody registers a remote
server for their group version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from sampan.apiserver.aggregation import documents, local
from sampan.apiserver.aggregation.services import CUSTOM_PRIORITY, PRIORITIES, Remote
from sampan.apiserver.discovery import AGGREGATED_TYPE, in_form, wanted_form
from sampan.apiserver.documents import Document
from sampan.apiserver.negotiate import JSON
from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, Response, User

if TYPE_CHECKING:
    from sampan.apiserver.aggregation.backend import Backend
    from sampan.apiserver.server import APIServer

OPENAPI_V2, OPENAPI_V3 = "/openapi/v2", "/openapi/v3"
TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}

Object = dict[str, Any]
Key = tuple[str, str]  # group, version


class Extension(Protocol):
    """An add-on of this process that answers for a group version."""

    group: str
    version: str

    def resources(self) -> Object:
        """Its APIResourceList."""

    def openapi(self) -> Object:
        """Its OpenAPI v3 document."""

    async def respond(self, request: Request, info: RequestInfo, user: User) -> Response:
        """Raises ApiError."""


@dataclass(slots=True)
class Known:
    """What is known of a remote server."""

    remote: Remote
    available: bool = False
    resources: Object = field(default_factory=dict)  # its APIResourceList, as last read
    openapi: str = ""  # its entry in the index of OpenAPI v3
    swagger: bytes = b""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Aggregator:
    def __init__(self, server: APIServer, extensions: tuple[Extension, ...] = ()) -> None:
        self.server = server
        self.extensions: dict[Key, Extension] = {(e.group, e.version): e for e in extensions}
        self.remotes: dict[Key, Known] = {}
        self._generation = 0
        self._documents: dict[str, tuple[tuple[int, str], Document]] = {}

    @cached_property
    def backend(self) -> Backend:
        """The way to the others, which most clusters do not have."""
        from sampan.apiserver.aggregation.backend import Backend

        return Backend(self.server.access.lookup, self.server.pki.front_proxy_client)

    # Requests

    async def respond(self, request: Request, info: RequestInfo, user: User) -> Response | None:
        """The answer; None when the request is this server's own. Raises ApiError."""
        if info.is_resource:
            key = info.group, info.version
            if key in self.remotes:
                return await self._forward(self.remotes[key], request, user)
            if key in self.extensions:
                return await self.extensions[key].respond(request, info, user)
            return None
        return await self._page(request, user)

    async def _forward(self, known: Known, request: Request, user: User) -> Response:
        if not known.available:
            return Response(503, dict(TEXT), b"service unavailable\n")
        return await self.backend.forward(known.remote, request, user)

    async def _page(self, request: Request, user: User) -> Response | None:
        parts = request.path.strip("/").split("/")
        if parts[0] not in ("apis", "openapi") or request.method not in ("GET", "HEAD"):
            return None
        match parts:
            case ["apis"]:
                return self._discovery(request)
            case ["apis", group] if group in {each for each, _ in self._keys()}:
                return self._group(request, group)
            case ["apis", group, version] | ["openapi", "v3", "apis", group, version]:
                known = self.remotes.get((group, version))
                if known is not None:
                    return await self._forward(known, request, user)
                extension = self.extensions.get((group, version))
                if extension is not None:
                    openapi = parts[0] == "openapi"
                    form = JSON if openapi else wanted_form(request.header("accept"), root=False)
                    content = extension.openapi() if openapi else extension.resources()
                    return in_form(content, form).respond(request)
            case ["openapi", "v3"]:
                return self._openapi(request)
            case ["openapi", "v2"] if any(each.swagger for each in self.remotes.values()):
                return await self._swagger(request)
        return None

    # Discovery

    def _keys(self) -> list[Key]:
        return [*self.remotes, *(key for key in self.extensions if key not in self.remotes)]

    def _priorities(self) -> dict[Key, tuple[int, int]]:
        found = {}
        for group, version in self.extensions:
            minimum, versions = PRIORITIES.get(group, (CUSTOM_PRIORITY[0], {}))
            found[group, version] = minimum, versions.get(version, CUSTOM_PRIORITY[1])
        for key, known in self.remotes.items():
            found[key] = known.remote.group_priority, known.remote.version_priority
        return found

    def _base(self, path: str, accept: str) -> tuple[Object, str]:
        """This server's own document, and its tag."""
        asked = Request("GET", path, headers={"accept": accept})
        own = self.server.discovery if path.startswith("/apis") else self.server.openapi
        response = own.respond(asked)
        assert response is not None and isinstance(response.body, bytes)
        return orjson.loads(response.body), response.headers.get("ETag", "")

    def _kept(self, key: str, tag: str, make: Callable[[], Object], form: str = JSON) -> Document:
        stamp = self._generation, tag
        found = self._documents.get(key + form)
        if found is None or found[0] != stamp:
            found = self._documents[key + form] = stamp, in_form(make(), form)
        return found[1]

    def _discovery(self, request: Request) -> Response:
        form = wanted_form(request.header("accept"), root=True)
        new = form == AGGREGATED_TYPE
        base, tag = self._base("/apis", AGGREGATED_TYPE if new else JSON)
        order = self._priorities()

        def make() -> Object:
            if new:
                return documents.aggregated(base, self._versions(), order)
            return documents.group_list(base, order)

        return self._kept("/apis", tag, make, form).respond(request)

    def _versions(self) -> dict[Key, Object]:
        found = {}
        for (group, version), extension in self.extensions.items():
            found[group, version] = documents.version_of(version, extension.resources(), fresh=True)
        for key, known in self.remotes.items():
            found[key] = documents.version_of(key[1], known.resources, fresh=known.available)
        return found

    def _group(self, request: Request, group: str) -> Response:
        form = wanted_form(request.header("accept"), root=False)
        base, tag = self._base("/apis", JSON)

        def make() -> Object:
            groups = documents.group_list(base, self._priorities())["groups"]
            found = next(each for each in groups if each["name"] == group)
            return {"kind": "APIGroup", "apiVersion": "v1", **found}

        return self._kept(f"/apis/{group}", tag, make, form).respond(request)

    # OpenAPI

    def _openapi(self, request: Request) -> Response:
        base, tag = self._base(OPENAPI_V3, "application/json")

        def make() -> Object:
            paths = dict(base["paths"])
            for group, version in self.extensions:
                place = f"apis/{group}/{version}"
                paths[place] = {"serverRelativeURL": f"{OPENAPI_V3}/{place}"}
            for known in self.remotes.values():
                if known.openapi:
                    place = known.remote.path.lstrip("/")
                    paths[place] = {"serverRelativeURL": known.openapi}
            return {"paths": paths}

        return self._kept(OPENAPI_V3, tag, make).respond(request, "no-cache, private")

    async def _swagger(self, request: Request) -> Response:
        """A large document: parsed, joined and written anew only after something has changed."""
        protobuf = "protobuf" in request.header("accept").partition(",")[0]
        key = f"{OPENAPI_V2} {protobuf}"
        asked = Request("HEAD", OPENAPI_V2, headers={"accept": "application/json"})
        own = self.server.openapi.respond(asked)
        stamp = self._generation, own.headers.get("ETag", "") if own else ""
        found = self._documents.get(key)
        if found is None or found[0] != stamp:
            found = self._documents[key] = (
                stamp,
                await asyncio.to_thread(self._join_swagger, protobuf),
            )
        return found[1].respond(request, "no-cache, private")

    def _join_swagger(self, protobuf: bool) -> Document:
        base, _ = self._base(OPENAPI_V2, "application/json")
        others = [
            (known.remote.path, orjson.loads(known.swagger))
            for known in self.remotes.values()
            if known.swagger
        ]
        joined = documents.swagger(base, others)
        if protobuf:
            from sampan.apiserver.openapi import gnostic

            return Document(gnostic.encode(joined), gnostic.CONTENT_TYPE, packed=True)
        return Document(orjson.dumps(joined), packed=True)

    # Following the objects

    def changed(self) -> None:
        """Documents that were made before are no longer true."""
        self._generation += 1

    async def lay_down(self) -> None:
        """The local APIServices exist on return, and others can trust us."""
        await local.lay_down(self)

    async def run(self) -> None:
        """Follow APIServices until cancelled. One task of the server's group."""
        from sampan.apiserver.aggregation.availability import Availability

        try:
            await Availability(self).run()
        finally:
            if "backend" in vars(self):
                await self.backend.close()
