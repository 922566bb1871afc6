"""Schemas of custom resources as OpenAPI publishes them, for `kubectl explain` and for validation in clients.

v3 shows a schema as it is; v2, which has no oneOf and no nullable, shows what is left of it so that clients which know only
v2 do not refuse what is valid (apiextensions `controller/openapi/builder` and `openapi/v2`).
"""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from sampan.apiserver.crd.definitions import Definitions
from sampan.apiserver.crd.version import Version
from sampan.apiserver.openapi.operations import model_name
from sampan.kube import schema
from sampan.kube.structural import embedded
from sampan.kube.types import GVK

Object = dict[str, Any]

_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
OBJECT_META, LIST_META = _META + "ObjectMeta", _META + "ListMeta"
_REFERS_TO_META = [{"$ref": OBJECT_META}]  # v3 loses the description beside a plain $ref
_METADATA = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
_LIST_METADATA = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"
_CREATED = "CreationTimestamp is a timestamp of the server's: when this object was created, in RFC 3339 form and UTC."
# Kubernetes' conformance tests look for the first words of some of these in `kubectl explain`.
_TYPE_TEXTS = {
    "apiVersion": "APIVersion defines in which group and version of its kind this object is written.",
    "kind": "Kind says in CamelCase what this object is. It cannot become another.",
}
_LIST_OF = (
    "More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md"
)


class CustomSchemas:
    """What `OpenAPI` asks for the schemas of a group version."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions

    def __call__(self, group: str, version: str) -> dict[str, Object]:
        found = {}
        for each in self.definitions.in_version(group, version):
            names = each.definition.accepted
            kind = names["kind"]
            name = model_name(GVK(group, version, kind))
            found[name] = _object(each, kind)
            found[model_name(GVK(group, version, names["listKind"]))] = _list(each, name)
        if found:
            found[OBJECT_META] = _object_meta()
        return found

    def fingerprint(self, group: str, version: str) -> str:
        """Changes whenever the schemas do; costs no parsing."""
        digest = hashlib.sha256()
        for each in self.definitions.in_version(group, version):
            digest.update(each.definition.fingerprint.encode())
        return digest.hexdigest()


def _object_meta() -> Object:
    """The fields of all objects, with a word where `kubectl explain` of a custom kind is looked at for one."""
    known: Object = orjson.loads(schema.raw_definition(OBJECT_META) or b"{}")
    created = {**known["properties"]["creationTimestamp"], "description": _CREATED}
    return {
        **known,
        "description": "ObjectMeta is the metadata that every stored object has.",
        "properties": {**known["properties"], "creationTimestamp": created},
    }


def _type_fields() -> dict[str, Object]:
    known = schema.fields(_META + "Status")
    return {key: {**known[key], "description": text} for key, text in _TYPE_TEXTS.items()}


def _object(version: Version, kind: str) -> Object:
    raw = version.read_schema()
    found: Object = {"type": "object"}
    if raw is not None:
        found = _embedding(raw) if embedded.present(raw) else {**raw}
        metadata = {"description": _METADATA, "allOf": _REFERS_TO_META}
        found["properties"] = {
            **(found.get("properties") or {}), **_type_fields(), "metadata": metadata,
        }  # fmt: skip
    found["x-kubernetes-group-version-kind"] = [_gvk(version, kind)]
    if version.selectable:
        found["x-kubernetes-selectable-fields"] = [
            {"fieldPath": path} for path in version.selectable
        ]
    return found


def _embedding(raw: Object) -> Object:
    """A copy in which every embedded object shows the fields that all objects have."""
    found = {**raw}
    properties = {name: _embedding(each) for name, each in (raw.get("properties") or {}).items()}
    if raw.get("x-kubernetes-embedded-resource"):
        metadata = {"description": _METADATA, "allOf": _REFERS_TO_META}
        properties = {**properties, **_type_fields(), "metadata": metadata}
        found["required"] = sorted({*(raw.get("required") or ()), "apiVersion", "kind"})
    if properties:
        found["properties"] = properties
    for key in ("items", "additionalProperties"):
        if isinstance(raw.get(key), dict):
            found[key] = _embedding(raw[key])
    return found


def _list(version: Version, item: str) -> Object:
    names = version.definition.accepted
    items = {
        "type": "array",
        "description": f"List of {names['plural']}. {_LIST_OF}",
        "items": {"$ref": item},
    }
    return {
        "description": f"{names['listKind']} is a list of {names['kind']}",
        "type": "object",
        "required": ["items"],
        "properties": {
            **_type_fields(),
            "items": items,
            "metadata": {"description": _LIST_METADATA, "$ref": LIST_META},
        },
        "x-kubernetes-group-version-kind": [_gvk(version, names["listKind"])],
    }


def _gvk(version: Version, kind: str) -> Object:
    return {"group": version.definition.spec["group"], "version": version.name, "kind": kind}


# --- OpenAPI v2 ---------------------------------------------------------------------------------------


def swagger(schemas: dict[str, Object]) -> dict[str, Object]:
    """The same schemas for OpenAPI v2."""
    return {name: _root(each) for name, each in schemas.items() if name != OBJECT_META}


def _root(raw: Object) -> Object:
    if raw.get("x-kubernetes-preserve-unknown-fields"):
        kept = ("x-kubernetes-group-version-kind", "description")
        return {"type": "object", **{key: raw[key] for key in kept if key in raw}}
    return _plain(raw)


def _plain(raw: Object) -> Object:
    if "$ref" in raw:
        return raw
    if raw.get("allOf") == _REFERS_TO_META:
        return {"description": raw["description"], **_REFERS_TO_META[0]}
    found = {
        key: each
        for key, each in raw.items()
        if key not in ("allOf", "oneOf", "anyOf", "not", "nullable", "example", "externalDocs")
    }
    preserves = found.get("x-kubernetes-preserve-unknown-fields")
    if raw.get("nullable") or preserves:
        # kubectl breaks on items or properties of a value whose type is not told.
        found.pop("items", None)
        found.pop("properties", None)
    if raw.get("nullable") or (preserves and found.get("type") == "object"):
        found.pop("type", None)
    if found.get("type") == "array" and "items" not in found:
        found.pop("type")
    properties = found.get("properties")
    if properties:
        found["properties"] = {name: _plain(each) for name, each in properties.items()}
        needed = [
            name
            for name in found.get("required") or ()
            if not (properties.get(name) or {}).get("nullable")
        ]
        found["required"] = needed
        if not needed:
            found.pop("required")
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = _plain(found[key])
    return found
