"""OpenAPI v3, one document per group version (KEP-2896): what kubectl explain, apply and --dry-run=server read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson

from sampan.apiserver.openapi.operations import (
    Operation,
    Parameter,
    path_items,
    tag,
)
from sampan.apiserver.openapi.prose import told
from sampan.apiserver.resources.model import Resource
from sampan.kube import schema

PREFIX = "#/components/schemas/"
FORMS = ("application/json", "application/yaml")
WATCH_FORMS = ("application/json;stream=watch",)
_REFERENCE = re.compile(rb'"\$ref":"([^"]+)"')


def document(rows: Iterable[Resource], extra: dict[str, dict[str, Any]], version: str) -> bytes:
    """The document of one group version. `extra` are schemas of custom resources, by definition name."""
    paths: dict[str, Any] = {}
    needed: set[str] = set()
    for row in rows:
        for item in path_items(row):
            entry: dict[str, Any] = {
                operation.method: _operation(operation, tag(row.group, row.version), needed)
                for operation in item.operations
            }
            entry["parameters"] = [_parameter(each) for each in item.parameters]
            paths[item.path] = entry
    head = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
    }
    schemas = b",".join(
        orjson.dumps(name) + b":" + body for name, body in sorted(closure(needed, extra).items())
    )
    return orjson.dumps(head)[:-1] + b',"components":{"schemas":{' + schemas + b"}}}"


def closure(names: Iterable[str], extra: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    """The definitions named and all that they refer to, as JSON with v3 references."""
    found: dict[str, bytes] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name in extra:
            raw = orjson.dumps(extra[name])
        elif (known := schema.raw_definition(name)) is not None:
            raw = told(name, known)
        else:
            continue
        waiting += [match.decode() for match in _REFERENCE.findall(raw)]
        found[name] = raw.replace(b'"$ref":"', b'"$ref":"' + PREFIX.encode())
    return found


def _parameter(parameter: Parameter) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": parameter.type, "uniqueItems": True}
    if parameter.many:
        plain = {"type": "array", "items": {"type": parameter.type}}
    entry = {"name": parameter.name, "in": parameter.where, "schema": plain}
    return entry | ({"required": True} if parameter.required else {})


def _reference(name: str, needed: set[str]) -> dict[str, Any]:
    if not name:
        return {"type": "string"}
    needed.add(name)
    return {"$ref": PREFIX + name}


def _operation(operation: Operation, group_tag: str, needed: set[str]) -> dict[str, Any]:
    answer = {"schema": _reference(operation.answer, needed)}
    forms: tuple[str, ...] = (*FORMS, *WATCH_FORMS) if operation.stream else FORMS
    if not operation.answer:
        forms = ("text/plain",) if operation.action == "get" else ("*/*",)
    response = {"description": "OK", "content": dict.fromkeys(forms, answer)}
    responses: dict[str, Any] = {"200": response}
    if operation.created:
        responses["201"] = response | {"description": "Created"}
    if operation.accepted:
        responses["202"] = response | {"description": "Accepted"}
    responses["401"] = {"description": "Unauthorized"}
    entry: dict[str, Any] = {
        "tags": [group_tag],
        "operationId": operation.id,
        "parameters": [_parameter(each) for each in operation.parameters],
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.gvk._asdict(),
    }
    if operation.body:
        body = {"schema": _reference(operation.body, needed)}
        types = operation.patch or ("*/*",)
        entry["requestBody"] = {"content": dict.fromkeys(types, body)}
        if operation.method != "delete":
            entry["requestBody"]["required"] = True
    return entry
