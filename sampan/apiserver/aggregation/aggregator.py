"""Other servers as part of this API: which requests are theirs, whether they can answer, and what they serve.

Each remote APIService has a task that looks at its Service and asks the server for its discovery document: at once, after
every change of the APIService, then every half minute, sooner while it fails. The outcome is the condition Available, and
what was read is told in discovery and OpenAPI. Local APIServices are kept for what this server serves itself.

Add-ons of our own (`metrics_api`) stand in the same place without a network: they answer until somebody registers a remote
server for their group version.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from sampan.apiserver.aggregation import documents, services, trust
from sampan.apiserver.aggregation.services import CUSTOM_PRIORITY, GROUP, PRIORITIES, Remote
from sampan.apiserver.discovery import AGGREGATED_TYPE, wants_aggregated
from sampan.apiserver.documents import Document
from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, Response, User
from sampan.kube import errors, objects
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR

if TYPE_CHECKING:
    from sampan.apiserver.aggregation.backend import Backend
    from sampan.apiserver.server import APIServer
    from sampan.client.client import Client
    from sampan.client.informer import Informer

log = logging.getLogger(__name__)

APISERVICES = GVR(GROUP, "v1", "apiservices")
AGGREGATOR = User("system:kube-aggregator", ("system:masters",))
CHECK_EVERY = 30.0  # seconds between checks of a server that answers
CHECK_AGAIN = (
    0.25,
    0.5,
    1.0,
    2.0,
    5.0,
)  # seconds until a failed one is tried again; the last stays
CHECK_TIMEOUT = 5.0
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
                    content = extension.openapi() if openapi else extension.resources()
                    return Document(orjson.dumps(content)).respond(request)
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

    def _kept(self, key: str, tag: str, make: Any, content_type: str = "") -> Document:
        stamp = self._generation, tag
        found = self._documents.get(key)
        if found is None or found[0] != stamp:
            body = orjson.dumps(make())
            document = Document(body, content_type) if content_type else Document(body)
            found = self._documents[key] = stamp, document
        return found[1]

    def _discovery(self, request: Request) -> Response:
        new = wants_aggregated(request.header("accept"))
        base, tag = self._base("/apis", AGGREGATED_TYPE if new else "application/json")
        order = self._priorities()

        def make() -> Object:
            if new:
                return documents.aggregated(base, self._versions(), order)
            return documents.group_list(base, order)

        content_type = AGGREGATED_TYPE if new else "application/json"
        return self._kept(f"/apis {new}", tag, make, content_type).respond(request)

    def _versions(self) -> dict[Key, Object]:
        found = {}
        for (group, version), extension in self.extensions.items():
            found[group, version] = documents.version_of(version, extension.resources(), fresh=True)
        for key, known in self.remotes.items():
            found[key] = documents.version_of(key[1], known.resources, fresh=known.available)
        return found

    def _group(self, request: Request, group: str) -> Response:
        base, tag = self._base("/apis", "application/json")

        def make() -> Object:
            groups = documents.group_list(base, self._priorities())["groups"]
            found = next(each for each in groups if each["name"] == group)
            return {"kind": "APIGroup", "apiVersion": "v1", **found}

        return self._kept(f"/apis/{group}", tag, make).respond(request)

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

    async def run(self) -> None:
        """Follow APIServices until cancelled. One task of the server's group."""
        from sampan.client.client import Client
        from sampan.client.informer import Informer
        from sampan.client.inprocess import InProcess

        client = Client(InProcess(self.server, User("system:apiserver", ("system:masters",))))
        found = Informer(client, APISERVICES)
        changed = asyncio.Event()
        listeners = self.server.definitions.listeners
        listeners.append(changed.set)
        watching: dict[str, tuple[Remote, asyncio.Task[None]]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                found.start(group)
                await found.synced()
                found.add_handler(lambda *_: changed.set())
                while True:
                    changed.clear()
                    await self._keep_locals(client, found)
                    self._sync(group, client, found, watching)
                    await changed.wait()
        finally:
            listeners.remove(changed.set)
            if "backend" in vars(self):
                await self.backend.close()

    def _sync(
        self,
        group: asyncio.TaskGroup,
        client: Client,
        found: Informer,
        watching: dict[str, tuple[Remote, asyncio.Task[None]]],
    ) -> None:
        """One task for each remote as it is now."""
        wanted = {each.name: each for each in map(services.remote_of, found.list()) if each}
        for name, (remote, task) in list(watching.items()):
            if wanted.get(name) != remote:
                task.cancel()
                del watching[name]
                if self.remotes.pop((remote.group, remote.version), None):
                    self._generation += 1
        for name, remote in wanted.items():
            if name not in watching:
                known = self.remotes[remote.group, remote.version] = Known(remote)
                self._generation += 1
                task = group.create_task(self._watch(client, known), name=f"apiservice {name}")
                watching[name] = remote, task

    async def _watch(self, client: Client, known: Known) -> None:
        """Keep the condition of one remote true, until cancelled."""
        failures = 0
        while True:
            reason, message = await self._check(known)
            available = reason == "Passed"
            if available != known.available:
                known.available = available
                self._generation += 1
            await self._tell(client, known.remote.name, available, reason, message)
            if available:
                failures = 0
                await asyncio.sleep(CHECK_EVERY)
            else:
                await asyncio.sleep(CHECK_AGAIN[min(failures, len(CHECK_AGAIN) - 1)])
                failures += 1

    async def _check(self, known: Known) -> tuple[str, str]:
        """Reason and message of the condition; what the server serves is read on the way."""
        remote, backend = known.remote, self.backend
        service = await backend.service(remote)
        wrong = services.reachable(remote, service, await backend.slices(remote))
        if wrong is not None:
            return wrong
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                status, _, body = await backend.read(remote, remote.path, AGGREGATOR)
            if status != 200:
                raise errors.internal(f"bad status from {remote.path}: {status}")
            resources = orjson.loads(body)
            if not isinstance(resources.get("resources"), list):
                raise errors.internal(f"no resource list at {remote.path}")
        except (ApiError, TimeoutError, ValueError, AttributeError) as error:
            why = str(error) or type(error).__name__
            where = f"https://{remote.server_name}:{remote.port}{remote.path}"
            return "FailedDiscoveryCheck", f"failing or missing response from {where}: {why}"
        if resources != known.resources:
            known.resources = resources
            self._generation += 1
        await self._read_openapi(known)
        return "Passed", "all checks passed"

    async def _read_openapi(self, known: Known) -> None:
        """What the server tells of its schemas; it need not tell anything."""
        remote = known.remote
        index, swagger = "", known.swagger
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                status, _, body = await self.backend.read(remote, OPENAPI_V3, AGGREGATOR)
                if status == 200:
                    entry = orjson.loads(body)["paths"].get(remote.path.lstrip("/")) or {}
                    index = entry.get("serverRelativeURL", "")
                if index != known.openapi or not known.available:
                    status, _, body = await self.backend.read(remote, OPENAPI_V2, AGGREGATOR)
                    swagger = body if status == 200 and orjson.loads(body).get("paths") else b""
        except (ApiError, TimeoutError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.info("%s: its OpenAPI cannot be read: %s", remote.name, error)
            return
        if (index, swagger) != (known.openapi, known.swagger):
            known.openapi, known.swagger = index, swagger
            self._generation += 1

    async def _tell(
        self, client: Client, name: str, available: bool, reason: str, message: str
    ) -> None:
        try:
            obj = await client.get(APISERVICES, name)
            status = obj.get("status") or {}
            present = objects.condition(obj, services.AVAILABLE)
            told = services.condition(available, reason, message)
            if present is not None:
                if all(present.get(key) == told[key] for key in ("status", "reason", "message")):
                    return
                if present.get("status") == told["status"]:
                    told["lastTransitionTime"] = present["lastTransitionTime"]
            others = [
                each
                for each in status.get("conditions") or ()
                if each.get("type") != services.AVAILABLE
            ]
            wanted = {**obj, "status": {**status, "conditions": [*others, told]}}
            await client.update(APISERVICES, wanted, "status")
        except ApiError as error:
            if error.code not in (404, 409):  # gone, or told again after the change
                log.warning("apiservices %s: %s", name, error)

    # Local ones

    def _locals(self) -> dict[str, Object]:
        table = self.server.table
        custom = {row.group for row in table.rows.values() if row.custom is not None}
        served = table.groups()
        for group, version in self.extensions:
            served.append((group, [version]))
        return services.local_services(served, custom)

    async def lay_down(self) -> None:
        """The local APIServices exist on return, and others can trust us. Written as they are: a new cluster should not
        start slower for them."""
        row = self.server.table.lookup(*APISERVICES)
        assert row is not None
        cache = await self.server.caches.get(row)
        await asyncio.gather(
            *(
                self.server.registry.place(row, obj)
                for name, obj in self._locals().items()
                if row.key("", name) not in cache.entries
            ),
            trust.publish(self.server),
        )

    async def _keep_locals(self, client: Client, found: Informer) -> None:
        """One for every group version that is served here; none of ours for what no longer is."""
        wanted = self._locals()
        row = self.server.table.lookup(*APISERVICES)
        assert row is not None
        for name, obj in wanted.items():
            if found.get("", name) is None:
                await self.server.registry.place(row, obj)
        for obj in found.list():
            name = objects.name(obj)
            if services.is_local(obj) and services.is_automanaged(obj) and name not in wanted:
                try:
                    await client.delete(APISERVICES, name, uid=objects.uid(obj))
                except ApiError as error:
                    if error.code not in (404, 409):
                        log.warning("apiservices %s: %s", name, error)
