"""OpenAPI v2 (Swagger): one document for everything, read by older clients, generators and the Python client's tools."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from sampan.apiserver.openapi.operations import (
    Operation,
    Parameter,
    path_items,
    tag,
)
from sampan.apiserver.resources.model import Resource
from sampan.kube import schema

PREFIX = "#/definitions/"
FORMS = ["application/json", "application/yaml"]
WATCH_FORMS = ["application/json;stream=watch"]

# Swagger has no oneOf: a value of several types is described as the string that it may always be.
PLAIN: dict[str, dict[str, Any]] = {
    schema.QUANTITY: {"type": "string"},
    schema.INT_OR_STRING: {"type": "string", "format": "int-or-string"},
}


def document(rows: Iterable[Resource], extra: dict[str, dict[str, Any]], version: str) -> bytes:
    """The whole API. `extra` are schemas of custom resources, by definition name."""
    head = {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths(rows),
        "securityDefinitions": {
            "BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}
        },
        "security": [{"BearerToken": []}],
    }
    definitions = []
    for name in sorted({*schema.definition_names(), *extra}):
        raw = schema.raw_definition(name)
        if name in extra or name in PLAIN or raw is None:
            raw = orjson.dumps(extra.get(name) or PLAIN.get(name) or {})
        definitions.append(orjson.dumps(name) + b":" + _referring(raw))
    return orjson.dumps(head)[:-1] + b',"definitions":{' + b",".join(definitions) + b"}}"


def addition(rows: Iterable[Resource], extra: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What custom resources add to the document."""
    return {"paths": paths(rows), "definitions": orjson.loads(_referring(orjson.dumps(extra)))}


def paths(rows: Iterable[Resource]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in rows:
        for item in path_items(row):
            entry: dict[str, Any] = {
                operation.method: _operation(operation, tag(row.group, row.version))
                for operation in item.operations
            }
            entry["parameters"] = [_parameter(each) for each in item.parameters]
            found[item.path] = entry
    return found


def _referring(raw: bytes) -> bytes:
    return raw.replace(b'"$ref":"', b'"$ref":"' + PREFIX.encode())


def _parameter(parameter: Parameter) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": parameter.name, "in": parameter.where}
    if parameter.many:
        entry |= {"type": "array", "items": {"type": parameter.type}}
    else:
        entry |= {"type": parameter.type, "uniqueItems": True}
    return entry | ({"required": True} if parameter.required else {})


def _operation(operation: Operation, group_tag: str) -> dict[str, Any]:
    answer = {"$ref": PREFIX + operation.answer} if operation.answer else {"type": "string"}
    responses: dict[str, Any] = {"200": {"description": "OK", "schema": answer}}
    if operation.created:
        responses["201"] = {"description": "Created", "schema": answer}
    if operation.accepted:
        responses["202"] = {"description": "Accepted", "schema": answer}
    responses["401"] = {"description": "Unauthorized"}
    parameters = [_parameter(each) for each in operation.parameters]
    if operation.body:
        body: dict[str, Any] = {
            "name": "body",
            "in": "body",
            "schema": {"$ref": PREFIX + operation.body},
        }
        if operation.method != "delete":
            body["required"] = True
        parameters.insert(0, body)
    produces = FORMS + WATCH_FORMS if operation.stream else FORMS
    if not operation.answer:
        produces = ["text/plain"] if operation.action == "get" else ["*/*"]
    return {
        "tags": [group_tag],
        "operationId": operation.id,
        "consumes": list(operation.patch) if operation.patch else ["*/*"],
        "produces": produces,
        "schemes": ["https"],
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": operation.action,
        "x-kubernetes-group-version-kind": operation.gvk._asdict(),
    }
