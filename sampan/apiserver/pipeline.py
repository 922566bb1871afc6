"""The path of one request, top to bottom: route → authenticate → take turns → authorize → look up → decode → write → answer.

Follow `handle`, `_answer`, `_run`, `_admitted`, `_resource` and then the verb, `_create` for one; the write itself (own fields,
admission, validation, commit) is `Registry.create`. What HTTP adds in front is `exchange.py`, what the disk adds behind is
`store/sqlite.py`.

`handle` is the whole door: HTTP and in-process callers use it alike. A plain read that needs no waiting goes the short way
(`shortcut.py`) and gets the same bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver import conversion, lists, routes
from sampan.apiserver.apply import apply
from sampan.apiserver.body import (
    applies,
    decode_object,
    delete_options,
    patched,
)
from sampan.apiserver.call import Call
from sampan.apiserver.deletecollection import delete_all
from sampan.apiserver.entries import Entry
from sampan.apiserver.negotiate import JSON, YAML, accepted, speaks_only
from sampan.apiserver.present import (
    JSON_HEADERS,
    WatchFramer,
    is_plain,
    object_bytes,
    respond_bytes,
    respond_entry,
    respond_error,
    respond_list,
    respond_object,
    success,
    with_warnings,
)
from sampan.apiserver.registry import Object
from sampan.apiserver.routes import RequestInfo
from sampan.apiserver.selection import select
from sampan.apiserver.subresources import SUBRESOURCES
from sampan.apiserver.watches import Stream, error_frame
from sampan.client.transport import Request, Response, User
from sampan.kube import errors
from sampan.kube.errors import ApiError
from sampan.store import Closed, StoreError

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

log = logging.getLogger(__name__)

READS = frozenset({"GET", "HEAD", "OPTIONS"})

_METHOD_NOT_ALLOWED = "the server does not allow this method on the requested resource"


class Pipeline:
    def __init__(self, server: APIServer) -> None:
        self.server = server
        self.caches = server.caches
        self.registry = server.registry
        self.verbs: dict[str, Callable[[Call], Awaitable[Response]]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }

    # The whole way

    async def handle(self, request: Request) -> Response:
        """The answer to any request. Never raises but for cancellation."""
        if self.server.audit is not None:
            return await self.server.audit.handle(request, self._answer)
        return await self._answer(request)

    async def _answer(self, request: Request) -> Response:
        started = time.perf_counter()
        info: RequestInfo | None = None
        in_flight = self.server.metrics.in_flight
        kind = "readOnly" if request.method in READS else "mutating"
        in_flight[kind] += 1
        try:
            info = routes.parse(request.method, request.path, list(request.pairs()))
            work = self._run(request, info)
            if request.query and info.verb != "watch" and request.param("timeout"):
                from sampan.apiserver.deadlines import within

                gave_up = partial(self.server.metrics.terminate, info, 504)
                response = await within(request, work, gave_up)
            else:
                response = await work
        except ApiError as error:
            response = respond_error(error)
        except Closed:
            response = respond_error(errors.service_unavailable("the server is shutting down"))
        except StoreError as error:
            log.error("%s %s: %s", request.method, request.path, error)
            response = respond_error(errors.internal(str(error)))
        except Exception as error:
            log.exception("%s %s", request.method, request.path)
            response = respond_error(errors.internal(f"{type(error).__name__}: {error}"))
            if self.server.audit is not None:
                self.server.audit.panicked(request)
        finally:
            in_flight[kind] -= 1
        info = info or RequestInfo("", request.path)
        self.server.metrics.count(request, info, response, time.perf_counter() - started)
        return response

    async def _run(self, request: Request, info: RequestInfo) -> Response:
        user = await self.server.access.user(request)
        return await self.server.fairness.run(request, user, info, self._admitted)

    async def _admitted(self, request: Request, user: User, info: RequestInfo) -> Response:
        """Behind authentication, and in its turn."""
        await self.server.access.check(user, info)
        if (answer := await self.server.aggregator.respond(request, info, user)) is not None:
            return answer
        if not info.is_resource:
            return await self.server.pages.respond(request, info, user)
        row = self.server.table.lookup(info.group, info.version, info.resource)
        if row is None:
            # Its definition may have just come, through another server.
            await self.server.definitions.sync()
            row = self.server.table.lookup(info.group, info.version, info.resource)
        if row is None:
            raise errors.path_not_found()
        call = Call(request, info, row, user)
        if row.deprecated:
            call.warnings.append(row.deprecated)
        try:
            return await self._resource(call)
        except ApiError as error:
            error.warnings = call.warnings
            raise

    async def _resource(self, call: Call) -> Response:
        request, info, row = call.request, call.info, call.resource
        if info.subresource:
            return await self._subresource(call)
        if info.verb not in row.verbs or row.strategy == "componentstatus":
            return await self._unusual(call)
        if (
            row.namespaced
            and not info.namespace
            and (info.name or info.verb in ("create", "deletecollection"))
        ):
            if info.verb not in ("list", "watch"):
                raise ApiError(405, "MethodNotAllowed", _METHOD_NOT_ALLOWED)
        if not info.name and info.verb in ("update", "patch"):
            raise ApiError(405, "MethodNotAllowed", _METHOD_NOT_ALLOWED)
        if not row.namespaced and info.namespace and row.storage != "core/namespaces":
            raise errors.path_not_found()
        if row.strategy == "review":
            return await self._review(call)
        if row.strategy == "binding":
            return await SUBRESOURCES["pods", "binding"](self.server, call)
        call.form = accepted(request.headers.get("accept", ""))
        return await self.verbs[info.verb](call)

    async def _subresource(self, call: Call) -> Response:
        request, info, row = call.request, call.info, call.resource
        call.subresource = row.subresource(info.subresource)
        if call.subresource is None:
            raise errors.path_not_found()
        passed_on = (
            info.subresource == "proxy" and request.method == "OPTIONS"
        )  # has no verb of its own
        if info.verb not in call.subresource.verbs and not passed_on:
            raise ApiError(405, "MethodNotAllowed", _METHOD_NOT_ALLOWED)
        if info.verb == "get":
            await self.caches.confirm()
        handler = (
            SUBRESOURCES.get((row.name, info.subresource)) or SUBRESOURCES["*", info.subresource]
        )
        return await handler(self.server, call)

    async def _unusual(self, call: Call) -> Response:
        if call.request.method == "OPTIONS":
            return Response(200, {"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"})
        if call.resource.strategy == "componentstatus" and call.info.verb in ("get", "list"):
            call.form = accepted(call.request.headers.get("accept", ""))
            return self.server.pages.component_statuses(call)
        raise ApiError(405, "MethodNotAllowed", _METHOD_NOT_ALLOWED)

    async def _review(self, call: Call) -> Response:
        await self.server.access.load()
        call.form = accepted(call.request.headers.get("accept", ""))
        if call.form.kind == "Table":  # an answer has no columns
            raise speaks_only(JSON, YAML)
        obj = decode_object(call, call.gvk)
        answer = await self.server.access.reviews.create(
            call.resource.kind, obj, call.user, call.info.namespace
        )
        return respond_object(call, answer, 201)

    # Verbs

    async def _get(self, call: Call) -> Response:
        version = call.request.param("resourceVersion")
        if version:
            await lists.fresh(self.caches, version)
        else:
            await self.caches.confirm()
        return await self.respond(call, await self.registry.get(call))

    async def respond(self, call: Call, entry: Entry, status: int = 200) -> Response:
        """The object in the version and form of the request."""
        if call.resource.custom is not None:
            await call.resource.custom.prepare((entry,))
        return respond_entry(call, entry, status)

    async def _list(self, call: Call) -> Response:
        listed = await lists.list_entries(self.caches, call, select(call))
        if call.resource.custom is not None:
            await call.resource.custom.prepare(listed.entries)
        return respond_list(call, listed)

    async def _watch(self, call: Call) -> Response:
        selection = select(call, watch=True)
        framer = None if is_plain(call) else WatchFramer(call)
        config = self.server.config
        stream = Stream(
            self.caches,
            call,
            selection,
            self.server.metrics.watch(call.info),
            framer=framer,
            framer_key=framer.key if framer else None,
            bookmark_interval=config.bookmark_interval,
            timeout_range=config.watch_timeout,
        )
        try:
            await stream.open()
        except ApiError as error:
            if error.code != 410:
                raise
            return Response(200, JSON_HEADERS, error_frame(error))
        headers = with_warnings(JSON_HEADERS, call.warnings) if call.warnings else JSON_HEADERS
        return Response(200, headers, stream.body())

    async def _create(self, call: Call) -> Response:
        if call.info.name:
            raise ApiError(405, "MethodNotAllowed", _METHOD_NOT_ALLOWED)
        call.read_write_options("CreateOptions")
        obj = decode_object(call, call.gvk)
        name_namespace(call, obj)
        entry = await self.registry.create(call, conversion.to_storage(call.resource, obj))
        return await self.respond(call, entry, 201)

    async def _update(self, call: Call) -> Response:
        return await self.update(call)

    async def update(
        self,
        call: Call,
        *,
        status: bool = False,
        prepare: Callable[[Call, Object, Object], None] | None = None,
    ) -> Response:
        """PUT of the object or of a subresource that shares its kind."""
        call.read_write_options("UpdateOptions")
        sent = decode_object(call, call.gvk)
        name_namespace(call, sent)
        check_name(call, sent)
        row = call.resource

        def change(old: Object) -> Object:
            return copied(conversion.to_storage(row, sent))

        def made() -> Object:
            return copied(conversion.to_storage(row, sent))

        allowed = row.create_on_update and not status and prepare is None
        pinned = bool(sent["metadata"].get("resourceVersion"))
        entry, created = await self.registry.update(
            call,
            change,
            status=status,
            retry=not pinned,
            create=made if allowed and not pinned else None,
            prepare=prepare,
        )
        return await self.respond(call, entry, 201 if created else 200)

    async def _patch(self, call: Call) -> Response:
        return await self.patch(call)

    async def patch(
        self,
        call: Call,
        *,
        status: bool = False,
        prepare: Callable[[Call, Object, Object], None] | None = None,
    ) -> Response:
        """PATCH of the object or of a subresource that shares its kind."""
        applying = applies(call)
        call.read_write_options("PatchOptions", apply=applying)
        if applying:
            entry, created = await apply(self.server, call, check_place, status, prepare)
            return await self.respond(call, entry, 201 if created else 200)
        row = call.resource
        patch = patched(call, call.gvk)

        def change(stored: Object) -> Object:
            old = conversion.from_storage(row, stored)
            new = patch(old)
            check_place(call, new)
            return conversion.to_storage(row, new)

        entry, _ = await self.registry.update(call, change, status=status, prepare=prepare)
        return await self.respond(call, entry)

    async def _delete(self, call: Call) -> Response:
        options = delete_options(call)
        deleted = await self.registry.delete(call, options)
        if call.resource.custom is not None and not deleted.gone:
            await call.resource.custom.prepare((deleted.entry,))
        return self.respond_deleted(call, deleted.entry, deleted.gone)

    def respond_deleted(self, call: Call, entry: Any, gone: bool) -> Response:
        strategy = self.server.strategies.of(call.resource)
        if not gone or strategy.returns_deleted:
            return respond_entry(call, entry)
        details = {"name": call.info.name}
        if call.resource.group:
            details["group"] = call.resource.group
        details["kind"] = call.resource.name
        details["uid"] = entry.object()["metadata"]["uid"]
        return respond_object(call, success(details))

    async def _delete_collection(self, call: Call) -> Response:
        options = delete_options(call)
        selection = select(call)
        listed = await lists.list_entries(self.caches, call, selection)
        deleted = await delete_all(self.registry, call, listed.entries, options)
        if call.resource.custom is not None:
            await call.resource.custom.prepare(deleted)
        items = [object_bytes(call, entry) for entry in deleted]
        row = call.resource
        shown = lists.Listed(deleted, listed.revision)
        return respond_bytes(call, lists.encode_list(row.list_kind, row.api_version, shown, items))


def name_namespace(call: Call, obj: Object) -> None:
    """The object lives in the request's namespace; another one in the body is an error, or nothing where there are none."""
    metadata = obj["metadata"]
    wanted = call.info.namespace if call.resource.namespaced else ""
    if not wanted:
        metadata.pop("namespace", None)
    elif (metadata.get("namespace") or wanted) != wanted:
        raise errors.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    else:
        metadata["namespace"] = wanted


def check_place(call: Call, obj: Object) -> None:
    """Namespace and name are those of the path."""
    name_namespace(call, obj)
    check_name(call, obj)


def check_name(call: Call, obj: Object) -> None:
    name = obj["metadata"].get("name")
    if not name:
        raise errors.bad_request(
            f"the name of the object ({call.info.name} based on URL) was undeterminable: name must be provided"
        )
    if name != call.info.name:
        raise errors.bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({call.info.name})"
        )


def copied(obj: Object) -> Object:
    """A copy for the write path, which changes it in place. Through JSON: a tenth of deepcopy's time."""
    return orjson.loads(orjson.dumps(obj))  # type: ignore[no-any-return]
