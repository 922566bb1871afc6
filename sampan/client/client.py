"""Client: the verbs of the Kubernetes API on plain dict objects, over any `Transport`.

Whatever the server refuses is raised as `kube.errors.ApiError`; no answer at all is `client.errors.Unreachable`. A server that
says "later" (429 or 503 with Retry-After) is asked again a few times when asking twice does no harm. Watches are one
request: to go on after its end is the informer's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from sampan import __version__
from sampan.client.lines import LineSplitter
from sampan.client.transport import Request, Response, Transport
from sampan.kube.errors import ApiError
from sampan.kube.types import GVR

Object = dict[str, Any]
Query = list[tuple[str, str]] | dict[str, str]  # as in Request

PATCH_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",  # every JSON document is YAML
}
RETRIED_VERBS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
RETRIES = 5
LONGEST_RETRY_AFTER = 10.0  # seconds


class WatchEvent(NamedTuple):
    type: str  # ADDED | MODIFIED | DELETED | BOOKMARK
    object: Object


@dataclass(slots=True)
class ObjectList:
    items: list[Object]
    resource_version: str
    continue_: str = ""
    remaining: int = 0  # items after this page, when the server tells


class Client:
    """`sleep` is what waits before asking again (tests give their own)."""

    def __init__(
        self,
        transport: Transport,
        *,
        user_agent: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.transport = transport
        self._sleep = sleep
        self._headers = {
            "accept": "application/json",
            "user-agent": f"sampan/{__version__}" + (f" ({user_agent})" if user_agent else ""),
        }

    async def close(self) -> None:
        await self.transport.close()

    # Reading

    async def get(
        self,
        gvr: GVR,
        name: str,
        namespace: str = "",
        *,
        subresource: str = "",
        resource_version: str = "",
    ) -> Object:
        query = {"resourceVersion": resource_version} if resource_version else {}
        return await self._call("GET", path_of(gvr, namespace, name, subresource), query=query)

    async def list(
        self,
        gvr: GVR,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_: str = "",
        resource_version: str = "",
    ) -> ObjectList:
        """One page (all, without `limit`). Items have apiVersion and kind, even if the server leaves them out."""
        query = _query(
            labelSelector=label_selector,
            fieldSelector=field_selector,
            limit=str(limit) if limit else "",
            resourceVersion=resource_version,
        )
        if continue_:
            query["continue"] = continue_
        body = await self._call("GET", path_of(gvr, namespace), query=query)
        metadata = body.get("metadata") or {}
        items: list[Object] = body.get("items") or []
        kind = str(body.get("kind", "")).removesuffix("List")
        version = body.get("apiVersion", gvr.api_version)
        for item in items:
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", version)
        return ObjectList(
            items,
            metadata.get("resourceVersion", ""),
            metadata.get("continue", ""),
            metadata.get("remainingItemCount", 0),
        )

    async def watch(
        self,
        gvr: GVR,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        bookmarks: bool = True,
        send_initial_events: bool = False,
        timeout: int = 0,
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `resource_version`, until the server ends the watch (after `timeout` seconds, if given).

        An ERROR event is raised as ApiError; 410 with reason Expired means: list again. Close the iterator
        (`contextlib.aclosing`) when leaving early.
        """
        query = _query(
            watch="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            allowWatchBookmarks="true" if bookmarks else "",
            timeoutSeconds=str(timeout) if timeout else "",
        )
        if send_initial_events:  # KEP-3157
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        response = await self.raw("GET", path_of(gvr, namespace), query=query, stream=True)
        lines = LineSplitter()
        try:
            if isinstance(response.body, bytes):
                raise ApiError(
                    500, "InternalError", "the server answered a watch with one document"
                )
            async for piece in response.body:
                for line in lines.feed(piece):
                    yield _event(line)
        except ValueError as error:
            raise ApiError(500, "InternalError", f"unreadable watch event: {error}") from error
        finally:
            await response.aclose()

    # Writing

    async def create(
        self,
        gvr: GVR,
        obj: Object,
        namespace: str = "",
        *,
        name: str = "",
        subresource: str = "",
        field_manager: str = "",
    ) -> Object:
        """Create `obj`; with `name` and `subresource`, post it there (`binding`, `eviction`, `token`)."""
        namespace = namespace or (obj.get("metadata") or {}).get("namespace", "")
        path = path_of(gvr, namespace, name, subresource)
        return await self._call("POST", path, obj, query=_query(fieldManager=field_manager))

    async def update(
        self, gvr: GVR, obj: Object, subresource: str = "", *, field_manager: str = ""
    ) -> Object:
        """Replace the object; its resourceVersion, when present, must still be the current one."""
        metadata = obj["metadata"]
        path = path_of(gvr, metadata.get("namespace", ""), metadata["name"], subresource)
        return await self._call("PUT", path, obj, query=_query(fieldManager=field_manager))

    async def patch(
        self,
        gvr: GVR,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        kind: str = "merge",
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Object:
        """`kind`: merge | json | strategic | apply (which needs `field_manager`)."""
        return await self._call(
            "PATCH",
            path_of(gvr, namespace, name, subresource),
            patch,
            query=_query(fieldManager=field_manager, force="true" if force else ""),
            content_type=PATCH_TYPES[kind],
        )

    async def delete(
        self,
        gvr: GVR,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "",
        grace: int | None = None,
    ) -> Object:
        """The deleted object, or a Status. `uid` and `resource_version` are preconditions (409 otherwise)."""
        options = _delete_options(uid, resource_version, propagation, grace)
        return await self._call("DELETE", path_of(gvr, namespace, name), options)

    async def delete_collection(
        self,
        gvr: GVR,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        propagation: str = "",
        grace: int | None = None,
    ) -> Object:
        query = _query(labelSelector=label_selector, fieldSelector=field_selector)
        options = _delete_options("", "", propagation, grace)
        return await self._call("DELETE", path_of(gvr, namespace), options, query=query)

    # Anything else

    async def raw(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
    ) -> Response:
        """Send one request as it is. Raises ApiError when the status is 400 or above."""
        sent = {**self._headers, **(headers or {})}
        if body:
            sent["content-type"] = content_type
        for attempt in range(RETRIES + 1):
            request = Request(method, path, query or {}, dict(sent), body, stream=stream)
            response = await self.transport.send(request)
            if response.status < 400:
                return response
            wait = _retry_after(method, response)
            if wait is None or attempt == RETRIES:
                raise await error_of(response)
            await response.aclose()
            await self._sleep(wait)
        raise AssertionError("unreachable")

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        encoded = b"" if body is None else orjson.dumps(body)
        response = await self.raw(
            method, path, query=query, body=encoded, content_type=content_type
        )
        answer = await response.read()
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            message = f"{method} {path}: the answer is not JSON: {error}"
            raise ApiError(500, "InternalError", message) from error


def path_of(gvr: GVR, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The URL path of a collection, an object or a subresource."""
    base = f"/apis/{gvr.group}/{gvr.version}" if gvr.group else f"/api/{gvr.version}"
    if namespace:
        base += f"/namespaces/{namespace}"
    base += f"/{gvr.resource}"
    if name:
        base += f"/{name}"
    return f"{base}/{subresource}" if subresource else base


async def error_of(response: Response) -> ApiError:
    """What the answer says went wrong; the body need not be a Status (a proxy's page, plain text)."""
    body = await response.read()
    try:
        status = orjson.loads(body)
    except orjson.JSONDecodeError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        status["code"] = status.get("code") or response.status
        error = ApiError.from_status(status)
    else:
        text = body[:1000].decode("utf-8", "replace").strip()
        reason = REASONS.get(response.status, "Unknown")
        error = ApiError(response.status, reason, text or f"the server answered {response.status}")
    after = response.headers.get("retry-after")
    if after is not None and after.isdigit():
        error.details.setdefault("retryAfterSeconds", int(after))
    return error


# For answers without a Status body; from apimachinery's NewGenericServerResponse.
REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def _retry_after(method: str, response: Response) -> float | None:
    """Seconds to wait before asking again; None: do not."""
    if response.status not in (429, 503) or method not in RETRIED_VERBS:
        return None
    try:
        return min(max(float(response.headers["retry-after"]), 0.0), LONGEST_RETRY_AFTER)
    except (KeyError, ValueError):
        return None


def _event(line: bytes) -> WatchEvent:
    """Raises ApiError for an ERROR event, ValueError for what is no event."""
    event = orjson.loads(line)
    if (
        not isinstance(event, dict)
        or "type" not in event
        or not isinstance(event.get("object"), dict)
    ):
        raise ValueError(f"not a watch event: {line[:200]!r}")
    if event["type"] == "ERROR":
        raise ApiError.from_status(event["object"])
    return WatchEvent(event["type"], event["object"])


def _query(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def _delete_options(
    uid: str, resource_version: str, propagation: str, grace: int | None
) -> Object | None:
    options: Object = {}
    preconditions = _query(uid=uid, resourceVersion=resource_version)
    if preconditions:
        options["preconditions"] = preconditions
    if propagation:
        options["propagationPolicy"] = propagation
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    return {"kind": "DeleteOptions", "apiVersion": "v1", **options} if options else None
