"""Paths to requests: `/apis/apps/v1/namespaces/default/deployments/web/status` → `RequestInfo`.

The rules are those of Kubernetes' request info resolver: the verb comes from method and shape, `namespaces/x` is the
namespace itself unless a resource follows, and `watch` is a list with `?watch=true` or the old `/watch/` prefix.
Pure: knows the shape of paths, not which resources exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

_VERBS = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_NON_RESOURCE_VERBS = {method: method.lower() for method in (*_VERBS, "OPTIONS")}
# `namespaces/x/<this>` belongs to the namespace object, everything else below it is a resource in it.
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


@dataclass(slots=True)
class RequestInfo:
    """What a request asks for. For non-resource paths only `verb` (the method in lower case) and `path` are set."""

    verb: str
    path: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    rest: str = ""  # what follows a proxy subresource, without the leading slash
    prefix: str = ""  # "api" or "apis"
    field_selector: str = ""


def parse(method: str, path: str, query: list[tuple[str, str]]) -> RequestInfo:
    """The request's meaning. `path` is as sent (still percent-encoded), without the query."""
    parts = path.split("/")[1:]
    info = _resource(method, path, parts) if parts[0] in ("api", "apis") else None
    if info is None:
        return RequestInfo(_NON_RESOURCE_VERBS.get(method, method.lower()), path)
    if info.verb in ("get", "list"):
        if info.verb == "list" or not info.subresource:
            for key, value in query:
                if key == "watch" and info.verb == "list" and value.lower() not in ("false", "0"):
                    info.verb = "watch"
                elif key == "fieldSelector" and info.verb in ("list", "watch") and not info.name:
                    # An authorizer may allow a list of one named object, or of what is one node's.
                    info.field_selector = value
                    if value.startswith("metadata.name=") and "," not in value:
                        info.name = value[14:].removeprefix("=")
    return info


def _resource(method: str, path: str, parts: list[str]) -> RequestInfo | None:
    while parts and parts[-1] == "" and len(parts) > 3:
        parts = parts[:-1]
    if parts[0] == "api":
        if len(parts) < 3 or not parts[2]:
            return None
        info = RequestInfo("", path, True, "", parts[1], prefix="api")
        rest = parts[2:]
    else:
        if len(parts) < 4 or not parts[3]:
            return None
        info = RequestInfo("", path, True, parts[1], parts[2], prefix="apis")
        rest = parts[3:]
    verb = _VERBS.get(method)
    if verb is None:
        verb = method.lower()
    if rest[0] == "watch" and len(rest) > 1:
        rest = rest[1:]
        if verb == "get":
            verb = "watch"
    elif rest[0] == "proxy" and len(rest) > 1:
        return None
    if "%" in path:
        rest = [unquote(part) for part in rest]
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
        info.namespace = rest[1]
        rest = rest[2:]
    elif rest[0] == "namespaces" and len(rest) > 1:
        info.namespace = rest[1]
    info.resource = rest[0]
    if len(rest) > 1:
        info.name = rest[1]
    if len(rest) > 2:
        info.subresource = rest[2]
    if len(rest) > 3:
        info.rest = "/".join(rest[3:])
    if not info.name:
        if verb == "get":
            verb = "list"
        elif verb == "delete":
            verb = "deletecollection"
    info.verb = verb
    return info
