"""The short way: a plain GET that the watch cache can answer now, without a task and without parsing an object.

GET and LIST are most of what an API server does. Whoever is known already, may read, and asks for the objects as they are
stored gets their bytes at once; everything else (None) goes the whole way, `pipeline.py`, which would give the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sampan.apiserver import lists, routes
from sampan.apiserver.authz import MASTERS
from sampan.apiserver.call import Call
from sampan.apiserver.fairness import OBJECTS_PER_SEAT
from sampan.apiserver.negotiate import PLAIN, accepted
from sampan.apiserver.present import wants_pretty
from sampan.apiserver.routes import RequestInfo
from sampan.apiserver.selection import select
from sampan.client.transport import Request, Response, User
from sampan.kube.errors import ApiError

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

T = TypeVar("T")
REMEMBERED = 4096  # readers and paths
NOBODY = User("")  # where the user no longer matters
PLAIN_QUERY = ("limit", "timeout", "pretty")


class Shortcut:
    def __init__(self, server: APIServer) -> None:
        self.server = server
        self.caches = server.caches
        self._readers: dict[tuple[User | None, str | None, str], tuple[tuple[int, int], User]] = {}

    def answer(self, request: Request) -> Response | None:
        """The answer, if it can be given now. Never raises, never waits."""
        if request.method != "GET" or self.server.audit is not None or self.caches.store.shared:
            return None
        if self.server.fairness.waiting:  # everyone takes their turn
            return None
        query = request.query
        if query and any(key not in PLAIN_QUERY for key, _ in request.pairs()):
            return None
        headers = request.headers
        if "upgrade" in headers or any(name.startswith("impersonate-") for name in headers):
            return None
        started = time.perf_counter()
        try:
            if accepted(headers.get("accept", "")) is not PLAIN or wants_pretty(request):
                return None
            info = routes.parse("GET", request.path, [])
            user = self._reader(request, info)
            if user is None:
                return None
        except (ApiError, ValueError):
            return None
        if not info.is_resource or info.subresource:
            return None
        row = self.server.table.rows.get((info.group, info.version, info.resource))
        if row is None or not row.plain or info.verb not in row.verbs:
            return None
        if row.deprecated:  # the answer carries a warning
            return None
        cache = self.caches.ready(row)
        if cache is None or (row.namespaced and not info.namespace and info.name):
            return None
        if info.verb == "get":
            entry = cache.entries.get(row.key(info.namespace, info.name))
            if entry is None:
                return None
            response = Response(200, self.server.fairness.at_once(user, info), entry.data)
        else:
            if query:
                try:
                    call = Call(request, info, row, NOBODY)
                    listed = lists.from_cache(self.caches, cache, select(call), "")
                except ApiError:
                    return None
            else:
                prefix = f"{row.prefix}{info.namespace}/" if info.namespace else row.prefix
                entries = cache.entries
                found = [entries[key] for key in cache.keys(prefix)]
                if len(found) > OBJECTS_PER_SEAT and not trusted(request):
                    return None  # long work waits for its turn
                listed = lists.Listed(found, self.caches.current(cache))
            items = [entry.data for entry in listed.entries]
            body = lists.encode_list(row.list_kind, row.api_version, listed, items)
            response = Response(200, self.server.fairness.at_once(user, info), body)
        self.server.metrics.count(request, info, response, time.perf_counter() - started)
        return response

    def _reader(self, request: Request, info: RequestInfo) -> User | None:
        """The user, when it is known and the request allowed without waiting for anything."""
        user = request.user
        if user is not None and MASTERS in user.groups and "authorization" not in request.headers:
            return user
        # The answer depends on nothing but the store and the clock: while both stand still, it stands.
        key = (user, request.headers.get("authorization"), request.path)
        moment = (self.caches.revision, int(time.time()))
        known = self._readers.get(key)
        if known is not None and known[0] == moment:
            return known[1]
        if user is None:
            user = without_waiting(self.server.access.user(request))
        if user is None or not (
            MASTERS in user.groups or without_waiting(self._allowed(user, info))
        ):
            return None
        if len(self._readers) >= REMEMBERED:
            self._readers.clear()
        self._readers[key] = moment, user
        return user

    async def _allowed(self, user: User, info: RequestInfo) -> bool:
        await self.server.access.check(user, info)
        return True


def trusted(request: Request) -> bool:
    """Exempt from taking turns, as far as that can be told at once."""
    return request.user is not None and MASTERS in request.user.groups


def without_waiting(work: Coroutine[Any, Any, T]) -> T | None:
    """The result of a coroutine that finishes without suspending, which is its usual case; None when it would wait."""
    try:
        work.send(None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    work.close()
    return None
