"""Write `sampan/kube/schema/v1.36.jsonl.gz`, the model of every built-in kind, from PyPI's `kubernetes-validate`.

Kept: types, formats, `$ref`, items, required, enum, and every `x-kubernetes-*` key, which is what decoding, patching and
OpenAPI need. Left out: prose, and what the JSON-schema conversion added to Kubernetes' OpenAPI (a null beside every
type, an enum that pins apiVersion and kind). Put back: the defaults of list-map keys, which that conversion dropped.

Layout, one line each, so that a reader parses only the definitions it needs: first line `{"group/version/Kind": name}`,
then `name<TAB>definition`. The output is the same bytes for the same input.
"""

from __future__ import annotations

import argparse
import gzip
import json
from importlib import metadata, resources
from pathlib import Path
from typing import Any

VERSION = "v1.36"
SOURCE_FOLDER = "v1.36.0-local"
TARGET = Path(__file__).resolve().parent.parent / "sampan/kube/schema" / f"{VERSION}.jsonl.gz"

REF_PREFIX = "#/$defs/"
ADDED_ENUMS = ("apiVersion", "kind")
# A list keyed by (port, protocol) merges right only when an absent protocol counts as TCP.
KEY_DEFAULTS = {
    ("io.k8s.api.core.v1.ContainerPort", "protocol"): "TCP",
    ("io.k8s.api.core.v1.ServicePort", "protocol"): "TCP",
}
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"


def compact(node: dict[str, Any]) -> dict[str, Any]:
    """One schema node without prose and without the nulls that the conversion added."""
    result: dict[str, Any] = {}
    for key, value in sorted(node.items()):
        match key:
            case "description":
                continue
            case "type":
                result[key] = plain_type(value)
            case "$ref":
                result[key] = value.removeprefix(REF_PREFIX)
            case "properties":
                result[key] = {name: field(name, value[name]) for name in sorted(value)}
            case "items" | "additionalProperties" if isinstance(value, dict):
                result[key] = compact(value)
            case "oneOf":
                result[key] = [compact(choice) for choice in value]
            case _:
                result[key] = value
    return result


def plain_type(value: str | list[str]) -> str:
    if isinstance(value, str):
        return value
    (only,) = (kind for kind in value if kind != "null")
    return only


def field(name: str, node: dict[str, Any]) -> dict[str, Any]:
    kept = compact(node)
    if name in ADDED_ENUMS:
        kept.pop("enum", None)
    return kept


def generate(definitions: dict[str, dict[str, Any]]) -> bytes:
    kinds: dict[str, str] = {}
    lines: list[str] = []
    for name in sorted(definitions):
        definition = compact(definitions[name])
        for (owner, key), default in KEY_DEFAULTS.items():
            if owner == name:
                definition["properties"][key]["default"] = default
        if name == INT_OR_STRING:
            definition |= {"format": "int-or-string", "x-kubernetes-int-or-string": True}
        for gvk in definition.get("x-kubernetes-group-version-kind", ()):
            key = f"{gvk['group']}/{gvk['version']}/{gvk['kind']}"
            if kinds.setdefault(key, name) != name:
                raise SystemExit(f"{key} is claimed by {kinds[key]} and by {name}")
        lines.append(f"{name}\t{encode(definition)}")
    return "\n".join([encode(kinds), *lines]).encode()


def encode(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the compact Kubernetes schema.")
    parser.add_argument("--output", type=Path, default=TARGET)
    output: Path = parser.parse_args().output
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / SOURCE_FOLDER
    source = json.loads((folder / "_definitions.json").read_text())
    plain = generate(source["$defs"])
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(gzip.compress(plain, 9, mtime=0))
    print(
        f"{output.name}: {len(source['$defs'])} definitions from kubernetes-validate "
        f"{metadata.version('kubernetes-validate')}, {len(plain)} bytes, "
        f"{output.stat().st_size} compressed"
    )


if __name__ == "__main__":
    main()
