"""Write the table of protobuf field numbers from which the API server decodes kubectl's typed bodies.

usage: generate_protobuf.py API_DIR APIMACHINERY_DIR APIEXTENSIONS_APISERVER_DIR KUBE_AGGREGATOR_DIR

All are checkouts of Kubernetes' own repositories. Only facts are taken from the struct tags: JSON name, field number,
whether a pointer, a list or a map, and of what. One line per message: `name<TAB>[[number, json name, type], …]`, where a type is an optional
`*` (pointer), `[` (list) or `{` (map with string keys), then s, i, b, f, y (bytes) or a message's name.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "sampan/apiserver/protobuf/v1.36.jsonl.gz"

SCALARS = {
    "string": "s", "int": "i", "int32": "i", "int64": "i", "uint8": "i", "uint32": "i", "uint64": "i",
    "bool": "b", "float64": "f", "float32": "f", "byte": "y",
}  # fmt: skip
# Types with a wire form of their own; the decoder knows them by these names.
OWN = {
    "resource.Quantity": "Quantity",
    "intstr.IntOrString": "IntOrString",
    "metav1.Time": "Time",
    "metav1.MicroTime": "MicroTime",
    "metav1.Duration": "Duration",
    "metav1.FieldsV1": "Raw",
    "runtime.RawExtension": "Raw",
    "time.Duration": "i",
    "types.UID": "s",
    "types.NodeName": "s",
    "k8sruntime.RawExtension": "Raw",
    "JSON": "Raw",
}
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
# Groups whose definitions are not named after k8s.io/api.
ELSEWHERE = {
    "meta": "io.k8s.apimachinery.pkg.apis.meta",
    "apiextensions": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions",
    "apiregistration": "io.k8s.kube-aggregator.pkg.apis.apiregistration",
}
ALIASES = {
    "metav1": META,
    "v1": "io.k8s.api.core.v1",
    "corev1": "io.k8s.api.core.v1",
    "api": "io.k8s.api.core.v1",
}

NOT_SERVED = ("testapigroup", "clientset", "informers", "listers", "typed", "example", "wardle")

STRUCT = re.compile(r"^type (\w+) struct \{(.*?)^\}", re.MULTILINE | re.DOTALL)
EMPTY = re.compile(r"^type (\w+) struct ?\{\}", re.MULTILINE)
NAMED = re.compile(r"^type (\w+) ((?:\[\]|map\[\w+\]|\*)*[\w.]+)\s*$", re.MULTILINE)
FIELD = re.compile(r"^\s*(?:(\w+)\s+)?([\[\]*\w.]+)\s+`([^`]*)`")
JSON = re.compile(r'json:"([^",]*)')
NUMBER = re.compile(r'protobuf:"\w+,(\d+),(\w+)(?:,name=(\w+))?')


def package_of(path: Path) -> str:
    group, version = path.parent.parts[-2:]
    return f"{ELSEWHERE.get(group, f'io.k8s.api.{group}')}.{version}"


def main() -> None:
    sources: dict[str, str] = {}
    for base in map(Path, sys.argv[1:5]):
        for path in sorted(base.rglob("*.go")):
            group, version = path.parent.parts[-2:]
            if version in ("v1", "v2") and "generated" not in path.name and group not in NOT_SERVED:
                package = package_of(path)
                sources[package] = sources.get(package, "") + path.read_text()
    imports = {
        package: dict(
            re.findall(
                r'^\s+(\w+) "k8s\.io/(?:api|apimachinery/pkg/apis)/([\w/]+)"', text, re.MULTILINE
            )
        )
        for package, text in sources.items()
    }
    structs = {
        f"{p}.{name}": body for p, text in sources.items() for name, body in STRUCT.findall(text)
    }
    structs |= {f"{p}.{name}": "" for p, text in sources.items() for name in EMPTY.findall(text)}
    named = {
        f"{p}.{name}": kind for p, text in sources.items() for name, kind in NAMED.findall(text)
    }

    def qualify(package: str, kind: str) -> str:
        if "." not in kind:
            return f"{package}.{kind}"
        alias, _, name = kind.partition(".")
        where = imports[package].get(alias)
        if where is not None:
            group, version = where.split("/")[-2:]
            return f"{META if group == 'meta' else f'io.k8s.api.{group}.{version}'}.{name}"
        return f"{ALIASES.get(alias, alias)}.{name}"

    def type_of(package: str, kind: str) -> str:
        if kind.startswith("*"):
            return "*" + type_of(package, kind[1:]).lstrip("*")
        if kind == "[]byte":
            return "y"
        if kind.startswith("[]"):
            return "[" + type_of(package, kind[2:])
        if match := re.match(r"map\[[\w.]+\](.*)", kind):
            return "{" + type_of(package, match[1])
        if kind in SCALARS:
            return SCALARS[kind]
        full = qualify(package, kind)
        short = {META: "metav1"}.get(full.rpartition(".")[0])
        own = OWN.get(kind) or (OWN.get(f"{short}.{full.rpartition('.')[2]}") if short else None)
        if own:
            return own
        if full in structs:
            return full
        if full in named:
            inner = type_of(full.rpartition(".")[0], named[full])
            # A named slice is a message with one repeated field; in a map or list it nests.
            return "@" + inner[1:] if inner.startswith("[") else inner
        raise SystemExit(f"{package}: what is {kind}?")

    lines = []
    for full, body in sorted(structs.items()):
        package = full.rpartition(".")[0]
        fields = []
        for line in body.splitlines():
            match = FIELD.match(line)
            number = NUMBER.search(line)
            if match and number:
                json_name = JSON.search(match[3])
                kind = type_of(package, match[2])
                if number[2] == "rep" and kind.startswith("@"):
                    kind = "[" + kind[1:]
                # What is written to JSON by hand has no name there: the decoder knows it by that in protobuf.
                name = json_name[1] if json_name else number[3]
                fields.append([int(number[1]), name or "", kind])
        if fields or not body:
            lines.append(f"{full}\t{json.dumps(fields, separators=(',', ':'))}")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    print(f"{len(lines)} messages, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
