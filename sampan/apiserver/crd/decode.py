"""Bodies of custom objects: parsed as any body, then fitted to the schema of the request's version.

Fields that the schema does not know are dropped, and named as unknown fields of built-in kinds are (`fieldValidation`).
"""

from __future__ import annotations

from typing import Any

from sampan.apiserver.call import Call
from sampan.apiserver.crd.version import Version
from sampan.kube import conform, decode, errors, schema
from sampan.kube.structural import embedded
from sampan.kube.types import GVK

Object = dict[str, Any]


def decode_object(call: Call, body: bytes, content_type: str, gvk: GVK) -> Object:
    """The body as an object of the row's version, defaulted. Raises ApiError 400 and 415."""
    mode = call.field_validation
    obj, found = decode.decode(
        body, content_type, gvk, strict="Ignore" if mode == "Ignore" else "Warn"
    )
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        obj["metadata"] = {}
    unknown: list[str] = []
    try:
        version_of(call).schema.fit(obj, unknown)
    except embedded.Malformed as error:
        raise errors.bad_request(decode.cannot_be_handled(gvk, str(error.cause))) from error
    found = found + _sentences(unknown)
    if found and mode == "Strict":
        raise errors.bad_request(decode.cannot_be_handled(gvk, decode.strict_message(found)))
    if mode == "Warn":
        call.warnings += found
    return obj


def conforming(call: Call, new: Object) -> Object:
    """What a patch made, fitted to the schema. Raises ApiError 422 as Kubernetes does for a patched object."""
    try:
        unknown = [
            f"metadata.{text.split(chr(34))[1]}"
            for text in conform.conform(new["metadata"], schema.OBJECT_META)
        ]
        fields: list[str] = []
        version_of(call).schema.fit(new, fields)
    except (conform.Mismatch, embedded.Malformed) as error:
        raise decode.unfit(new, str(error)) from error
    found = _sentences([*unknown, *fields])
    if found and call.field_validation == "Strict":
        raise decode.unfit(new, decode.strict_message(found))
    if found and call.field_validation == "Warn":
        call.warnings += [each for each in found if each not in call.warnings]
    return new


def _sentences(unknown: list[str]) -> list[str]:
    return [f"unknown field {errors.quote(path)}" for path in unknown]


def version_of(call: Call) -> Version:
    found = call.resource.custom
    assert found is not None
    return found
