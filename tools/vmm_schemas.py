"""Definitions of the VMMs' HTTP APIs, cut down to the calls that our drivers make: what their tests check requests by.

    tools/vmm_schemas.py firecracker.yaml      >tests/microvm/exchanges/firecracker.json
    tools/vmm_schemas.py cloud-hypervisor.yaml >tests/microvm/exchanges/cloud-hypervisor.json

The files are the projects' own: src/firecracker/swagger/firecracker.yaml, vmm/src/api/openapi/cloud-hypervisor.yaml. An
object is {field: type}, a required field `field!`; a list is [type]; a type is a word, `least..most` behind it when it is
bounded, or the words that are allowed with | between them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CALLS = {
    "firecracker": (
        "PUT /machine-config", "PUT /boot-source", "PUT /vsock", "PUT /drives/{drive_id}", "PATCH /drives/{drive_id}",
        "PUT /network-interfaces/{iface_id}", "PUT /actions", "PATCH /vm", "PUT /snapshot/create", "PUT /snapshot/load",
    ),
    "cloud-hypervisor": (
        "PUT /vm.create", "PUT /vm.boot", "PUT /vm.pause", "PUT /vm.resume", "PUT /vm.snapshot", "PUT /vm.restore",
        "PUT /vm.add-disk", "PUT /vm.remove-device", "GET /vm.info",
    ),
}  # fmt: skip
PREFIX = {"firecracker": "", "cloud-hypervisor": "/api/v1"}
DEPTH = 6  # configurations of disks that are made of disks, and the like


def compact(document: dict[str, Any], schema: dict[str, Any], depth: int = DEPTH) -> Any:
    if "$ref" in schema:
        found: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return compact(document, found, depth)
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            merged |= compact(document, part, depth)
        return merged
    kind = schema.get("type", "object")
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    if kind == "array":
        return [compact(document, schema["items"], depth - 1)] if depth else ["any"]
    if kind == "object" and "properties" in schema:
        if not depth:
            return "any"
        needed = set(schema.get("required") or ())
        return {
            f"{name}{'!' if name in needed else ''}": compact(document, each, depth - 1)
            for name, each in schema["properties"].items()
        }
    bounds = (schema.get("minimum", ""), schema.get("maximum", ""))
    return f"{kind} {bounds[0]}..{bounds[1]}" if any(b != "" for b in bounds) else kind


def body_of(document: dict[str, Any], operation: dict[str, Any]) -> Any:
    for parameter in operation.get("parameters") or ():  # Swagger 2
        if parameter["in"] == "body":
            return compact(document, parameter["schema"])
    content = (operation.get("requestBody") or {}).get("content") or {}  # OpenAPI 3
    return compact(document, content["application/json"]["schema"]) if content else None


def main(path: Path) -> None:
    import yaml

    document = yaml.safe_load(path.read_text())
    calls = {}
    for call in CALLS[path.stem]:
        method, target = call.split()
        operation = document["paths"][target][method.lower()]
        codes = sorted(str(code) for code in operation["responses"])
        calls[f"{method} {PREFIX[path.stem]}{target}"] = {
            "answers": codes, "body": body_of(document, operation)
        }  # fmt: skip
    version = document["info"]["version"]
    lines = ",\n".join(f" {json.dumps(call)}: {json.dumps(found)}" for call, found in calls.items())
    print(f'{{"source": "{path.name}, version {version}",\n"calls": {{\n{lines}\n}}}}')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
