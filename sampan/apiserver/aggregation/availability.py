"""Whether the remote servers can answer, and what they serve: the condition Available of their APIServices.

Each remote has a task that looks at its Service and asks the server for its discovery document: at once, after every change
of the APIService, then every half minute, sooner while it fails. Reasons and words are kube-aggregator's.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.aggregation import local, services
from sampan.apiserver.aggregation.aggregator import OPENAPI_V2, OPENAPI_V3, Aggregator, Known
from sampan.apiserver.aggregation.services import APISERVICES, Remote
from sampan.client.transport import User
from sampan.kube import errors, objects
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.client.client import Client
    from sampan.client.informer import Informer

log = logging.getLogger(__name__)

AGGREGATOR = User("system:kube-aggregator", ("system:masters",))
CHECK_EVERY = 30.0  # seconds between checks of a server that answers
# Seconds until a failed one is tried again; the last stays.
CHECK_AGAIN = (0.25, 0.5, 1.0, 2.0, 5.0)
CHECK_TIMEOUT = 5.0

Object = dict[str, Any]


class Availability:
    def __init__(self, aggregator: Aggregator) -> None:
        self.aggregator = aggregator

    async def run(self) -> None:
        """Follow APIServices until cancelled. One task of the server's group."""
        from sampan.client.client import Client
        from sampan.client.informer import Informer
        from sampan.client.inprocess import InProcess

        server = self.aggregator.server
        client = Client(InProcess(server, User("system:apiserver", ("system:masters",))))
        found = Informer(client, APISERVICES)
        changed = asyncio.Event()
        listeners = server.definitions.listeners
        listeners.append(changed.set)
        watching: dict[str, tuple[Remote, asyncio.Task[None]]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                found.start(group)
                await found.synced()
                found.add_handler(lambda *_: changed.set())
                while True:
                    changed.clear()
                    await local.keep(self.aggregator, client, found)
                    self._sync(group, client, found, watching)
                    await changed.wait()
        finally:
            listeners.remove(changed.set)

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
                if self.aggregator.remotes.pop((remote.group, remote.version), None):
                    self.aggregator.changed()
        for name, remote in wanted.items():
            if name not in watching:
                known = self.aggregator.remotes[remote.group, remote.version] = Known(remote)
                self.aggregator.changed()
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
                self.aggregator.changed()
            await self._tell(client, known.remote.name, available, reason, message)
            if available:
                failures = 0
                await asyncio.sleep(CHECK_EVERY)
            else:
                await asyncio.sleep(CHECK_AGAIN[min(failures, len(CHECK_AGAIN) - 1)])
                failures += 1

    async def _check(self, known: Known) -> tuple[str, str]:
        """Reason and message of the condition; what the server serves is read on the way."""
        remote, backend = known.remote, self.aggregator.backend
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
            self.aggregator.changed()
        await self._read_openapi(known)
        return "Passed", "all checks passed"

    async def _read_openapi(self, known: Known) -> None:
        """What the server tells of its schemas; it need not tell anything."""
        remote = known.remote
        index, swagger = "", known.swagger
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                status, _, body = await self.aggregator.backend.read(remote, OPENAPI_V3, AGGREGATOR)
                if status == 200:
                    entry = orjson.loads(body)["paths"].get(remote.path.lstrip("/")) or {}
                    index = entry.get("serverRelativeURL", "")
                if index != known.openapi or not known.available:
                    status, _, body = await self.aggregator.backend.read(
                        remote, OPENAPI_V2, AGGREGATOR
                    )
                    swagger = body if status == 200 and orjson.loads(body).get("paths") else b""
        except (ApiError, TimeoutError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.info("%s: its OpenAPI cannot be read: %s", remote.name, error)
            return
        if (index, swagger) != (known.openapi, known.swagger):
            known.openapi, known.swagger = index, swagger
            self.aggregator.changed()

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
