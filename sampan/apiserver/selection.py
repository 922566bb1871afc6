"""What a list or a watch asks for: selectors, resourceVersion and its match rule, limit, continue. Parsing and checks.

The combinations that are allowed, and the words of refusal, are those of ValidateListOptions in apimachinery; the
meaning of resourceVersion is KEP-2523's table.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

import orjson

from sampan.apiserver.call import Call, boolean, integer, revision_of
from sampan.apiserver.entries import Entry
from sampan.apiserver.resources import Resource
from sampan.apiserver.resources.core import RESOURCES as CORE
from sampan.apiserver.watchcache import Matcher
from sampan.kube import errors
from sampan.kube.errors import ApiError, Cause
from sampan.kube.selectors import FieldRequirement, FieldSelector, parse_fields, parse_labels

EXACT, NOT_OLDER = "Exact", "NotOlderThan"
_MATCH: Final = "resourceVersionMatch"
_EVERY_KINDS_FIELDS: Final = ("metadata.name", "metadata.namespace")
# events.k8s.io names the fields of the one stored Event differently.
_EVENT_FIELDS = {"regarding": "involvedObject", "reportingController": "reportingComponent"}
_STORED_EVENT: Final = next(row for row in CORE if row.name == "events")


@dataclass(slots=True)
class Continue:
    """Where the next page starts: all keys after `after`, as they were at `revision` (-1: as they are now)."""

    revision: int
    after: str

    def encode(self, prefix: str) -> str:
        token = {
            "v": "meta.k8s.io/v1",
            "rv": self.revision,
            "start": self.after.removeprefix(prefix),
        }
        return base64.urlsafe_b64encode(orjson.dumps(token)).rstrip(b"=").decode()


@dataclass(slots=True)
class Selection:
    prefix: str  # keys
    match: Matcher | None
    resource_version: str = ""
    resource_version_match: str = ""
    limit: int = 0
    token: Continue | None = None
    timeout: int | None = None
    bookmarks: bool = False
    initial_events: bool | None = None


def select(call: Call, *, watch: bool = False) -> Selection:
    """Read the request's options. Raises ApiError 400 or 422."""
    request, resource, info = call.request, call.resource, call.info
    prefix = resource.prefix
    if resource.namespaced and info.namespace:
        prefix = f"{prefix}{info.namespace}/"
    if not request.query:
        return Selection(prefix, None)
    fields = _fields(call)
    labels = parse_labels(request.param("labelSelector"))
    selection = Selection(
        prefix,
        None,
        request.param("resourceVersion"),
        request.param("resourceVersionMatch"),
        integer(request, "limit") or 0,
        timeout=integer(request, "timeoutSeconds"),
        bookmarks=bool(boolean(request, "allowWatchBookmarks")),
        initial_events=boolean(request, "sendInitialEvents"),
    )
    name = fields.required_value("metadata.name") if fields else None
    if name is not None and info.namespace and resource.namespaced and not watch:
        selection.prefix = (
            prefix + name
        )  # one look-up in place of a scan; the matcher checks the rest
    token = request.param("continue")
    if token:
        selection.token = decode_continue(token, prefix)
    _check(selection, token, watch)
    if labels.empty and not fields:
        return selection
    # An entry keeps its fields in the order of one row: that of the form in which it is stored.
    reader = _STORED_EVENT if resource.storage == _STORED_EVENT.storage else resource
    if not fields:
        selection.match = lambda entry: labels.matches(entry.labels)
    elif labels.empty:
        selection.match = lambda entry: fields.matches(lambda path: entry.field(reader, path))
    else:

        def both(entry: Entry) -> bool:
            return labels.matches(entry.labels) and fields.matches(
                lambda path: entry.field(reader, path)
            )

        selection.match = both
    return selection


def _fields(call: Call) -> FieldSelector | None:
    text = call.request.param("fieldSelector")
    found = parse_fields(text) if text else FieldSelector()
    row = call.resource
    requirements = []
    for item in found.requirements:
        path = item.path
        if path not in _EVERY_KINDS_FIELDS and path not in row.selectable:
            raise _no_such_field(row, path)
        head, dot, rest = path.partition(".")
        requirements.append(
            FieldRequirement(_EVENT_FIELDS.get(head, head) + dot + rest, item.operator, item.value)
            if row.storage == "core/events"
            else item
        )
    # A GET of one name as a list, as `kubectl get -w pods/x` sends it, arrives with the name in the path.
    if call.info.name and not requirements:
        requirements.append(FieldRequirement("metadata.name", "=", call.info.name))
    return FieldSelector(requirements) if requirements else None


def _no_such_field(row: Resource, path: str) -> ApiError:
    """Kinds that select on fields of their own refuse others in other words than those that do not."""
    if row.group == "batch" and row.selectable:
        return errors.bad_request(f'field label "{path}" not supported for batchv1.{row.kind}')
    if row.selectable or row.custom is not None:
        return errors.bad_request(f"field label not supported: {path}")
    return errors.bad_request(
        f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
    )


_WITH_CONTINUE: Final = "resourceVersionMatch is forbidden when continue is provided"


def _check(selection: Selection, token: str, watch: bool) -> None:
    """Raises 422 for a combination of options that means nothing."""
    causes = (_watch_causes if watch else _list_causes)(selection, token)
    if causes:
        raise errors.invalid("ListOptions", "", causes, "meta.k8s.io")
    version = selection.resource_version
    if token and not watch and version not in ("", "0"):
        raise errors.bad_request("specifying resource version is not allowed when using continue")
    revision_of(version)


def _list_causes(selection: Selection, token: str) -> list[Cause]:
    causes: list[Cause] = []
    match, version = selection.resource_version_match, selection.resource_version
    if match:
        if not version:
            text = "resourceVersionMatch is forbidden unless resourceVersion is provided"
            causes.append(errors.forbidden_field(_MATCH, text))
        if token:
            causes.append(errors.forbidden_field(_MATCH, _WITH_CONTINUE))
        if match not in (EXACT, NOT_OLDER):
            causes.append(errors.not_supported(_MATCH, match, [EXACT, NOT_OLDER, ""]))
        if match == EXACT and version == "0":
            text = 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            causes.append(errors.forbidden_field(_MATCH, text))
    if selection.initial_events is not None:
        text = "sendInitialEvents is forbidden for list"
        causes.append(errors.forbidden_field("sendInitialEvents", text))
    return causes


def _watch_causes(selection: Selection, token: str) -> list[Cause]:
    causes: list[Cause] = []
    match, wants_state = selection.resource_version_match, selection.initial_events is not None
    if wants_state and match != NOT_OLDER:
        text = f"sendInitialEvents requires setting resourceVersionMatch to {NOT_OLDER}"
        causes.append(errors.forbidden_field(_MATCH, text))
    if match:
        if not wants_state:
            text = (
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            )
            causes.append(errors.forbidden_field(_MATCH, text))
        if match != NOT_OLDER:
            causes.append(errors.not_supported(_MATCH, match, [NOT_OLDER]))
        if token:
            causes.append(errors.forbidden_field(_MATCH, _WITH_CONTINUE))
    return causes


def decode_continue(text: str, prefix: str) -> Continue:
    """Raises ApiError 400 for a token that we did not make."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        token: Any = orjson.loads(raw)
        version, revision, start = token["v"], token["rv"], token["start"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.bad_request(f"continue key is not valid: {error}") from None
    if version != "meta.k8s.io/v1" or not isinstance(revision, int) or not isinstance(start, str):
        raise errors.bad_request(
            "continue key is not valid: server does not recognize this encoded version"
        )
    if not start or ".." in start.split("/"):
        raise errors.bad_request(f'continue key is not valid: "{start}"')
    if revision == 0:
        raise errors.bad_request(
            "continue key is not valid: incorrect encoded start resourceVersion"
        )
    return Continue(revision, prefix + start)
