"""Entries to bytes in the form and version that a client asked for. The usual case returns the cached bytes as they are."""

from __future__ import annotations

from typing import Any

import orjson

from sampan.apiserver import conversion
from sampan.apiserver.call import Call
from sampan.apiserver.entries import BOOKMARK, Entry, frame
from sampan.apiserver.lists import Listed, encode_list
from sampan.apiserver.negotiate import JSON, YAML
from sampan.client.transport import Request, Response
from sampan.kube import errors
from sampan.kube.errors import ApiError

JSON_HEADERS = {"Content-Type": JSON}
Object = dict[str, Any]


def is_plain(call: Call) -> bool:
    """The cached bytes are what the client wants."""
    return not call.form.kind and call.resource.plain


def object_bytes(call: Call, entry: Entry) -> bytes:
    """The object itself, in the version of the request."""
    if call.resource.custom is not None:
        return call.resource.custom.presented(entry.data)
    if call.resource.storage_version == call.resource.api_version:
        return entry.data
    return orjson.dumps(conversion.from_storage(call.resource, entry.object()))


def respond_entry(call: Call, entry: Entry, status: int = 200) -> Response:
    form = call.form
    if not form.kind:
        return respond_bytes(call, object_bytes(call, entry), status)
    if form.kind == "PartialObjectMetadataList":
        raise not_a_form(form.kind, call.resource.kind, "not a list")
    obj = orjson.loads(object_bytes(call, entry))
    if form.partial:
        return respond_bytes(call, orjson.dumps(partial(obj, form.version)), status)
    table = to_table(call, [obj])
    table["metadata"]["resourceVersion"] = obj["metadata"].get("resourceVersion", "")
    return respond_bytes(call, orjson.dumps(table), status)


def respond_list(call: Call, listed: Listed) -> Response:
    row, form = call.resource, call.form
    if is_plain(call):
        items = [entry.data for entry in listed.entries]
        return respond_bytes(call, encode_list(row.list_kind, row.api_version, listed, items))
    if form.kind == "Table":
        table = to_table(call, [orjson.loads(object_bytes(call, each)) for each in listed.entries])
        metadata = table["metadata"]
        metadata["resourceVersion"] = str(listed.revision)
        if listed.continues:
            metadata["continue"] = listed.continues
        if listed.remaining:
            metadata["remainingItemCount"] = listed.remaining
        return respond_bytes(call, orjson.dumps(table))
    if form.kind == "PartialObjectMetadata":
        raise not_a_form(form.kind, row.list_kind, "a list")
    if form.partial:
        items = [orjson.dumps(partial(entry.object(), form.version)) for entry in listed.entries]
        version = f"meta.k8s.io/{form.version}"
        return respond_bytes(call, encode_list("PartialObjectMetadataList", version, listed, items))
    items = [object_bytes(call, entry) for entry in listed.entries]
    return respond_bytes(call, encode_list(row.list_kind, row.api_version, listed, items))


def not_a_form(asked: str, kind: str, what: str) -> ApiError:
    return errors.not_acceptable(
        f"you requested {asked}, but the requested object is {what} ({kind})"
    )


def partial(obj: Object, version: str) -> Object:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj["metadata"],
    }


def to_table(call: Call, objects: list[Object]) -> Object:
    from sampan.apiserver import tables

    include = call.request.param("includeObject") or "Metadata"
    table = tables.to_table(
        call.resource, objects, {"includeObject": include, "version": call.form.version}
    )
    table.setdefault("metadata", {})
    return table


class WatchFramer:
    """Frames in the client's form; tables tell their columns once per watch, so their frames cannot all be shared."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.first = True
        self.key = (call.form, call.resource.api_version, call.request.param("includeObject"))

    def __call__(self, kind: str, entry: Entry) -> bytes:
        call = self.call
        if kind == BOOKMARK or call.resource.plain:
            obj = entry.object()
        elif call.resource.custom is not None:
            obj = orjson.loads(call.resource.custom.presented(entry.data))
        else:
            obj = conversion.from_storage(call.resource, entry.object())
        if call.form.partial:
            return frame(kind, orjson.dumps(partial(obj, call.form.version)))
        if call.form.kind == "Table":
            table = to_table(call, [obj])
            table["metadata"]["resourceVersion"] = obj["metadata"].get("resourceVersion", "")
            return frame(kind, orjson.dumps(table))
        return frame(kind, orjson.dumps(obj))


def respond_bytes(call: Call, body: bytes, status: int = 200) -> Response:
    headers = JSON_HEADERS
    if call.form.media_type == YAML:
        body, headers = to_yaml(body), {"Content-Type": YAML}
    elif wants_pretty(call.request):
        body = orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2) + b"\n"
    if call.warnings:
        headers = with_warnings(headers, call.warnings)
    return Response(status, headers, body)


_FOR_PEOPLE = ("curl", "Wget", "Mozilla/5.0")
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))


def wants_pretty(request: Request) -> bool:
    """Asked for with `?pretty`, or by a tool that shows answers as they are."""
    if request.query and (asked := request.param("pretty")):
        return asked in _TRUE
    return request.headers.get("user-agent", "").startswith(_FOR_PEOPLE)


def respond_object(call: Call, obj: Object, status: int = 200) -> Response:
    return respond_bytes(call, orjson.dumps(obj), status)


def to_yaml(body: bytes) -> bytes:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(orjson.loads(body), Dumper=dumper, sort_keys=True, allow_unicode=True).encode()


def with_warnings(headers: dict[str, str], warnings: list[str]) -> dict[str, str]:
    """`Warning: 299 - "text"`, one header line per warning (RFC 7234 §5.5); the HTTP layer splits at newlines."""
    lines = []
    for text in dict.fromkeys(warnings):
        clean = "".join(char if char.isprintable() else " " for char in text)
        quoted = clean.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'299 - "{quoted[:4096]}"')
    return {**headers, "Warning": "\n".join(lines)}


def respond_error(error: ApiError) -> Response:
    headers = JSON_HEADERS
    retry = error.details.get("retryAfterSeconds")
    status = error.status()
    token = error.details.get("continue")
    if token:
        status["metadata"] = {"continue": token}
        status["details"] = {
            key: value for key, value in error.details.items() if key != "continue"
        }
    if retry:
        headers = {**headers, "Retry-After": str(retry)}
    if error.warnings:
        headers = with_warnings(headers, error.warnings)
    return Response(error.code, headers, orjson.dumps(status) + b"\n")


def success(details: Object) -> Object:
    """What DELETE answers for an object that is gone."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }
