"""The annotation of client-side apply, where `kubectl apply --server-side` meets an object that plain `kubectl apply` wrote.

Only for the field manager "kubectl", as in Kubernetes: conflicts over fields whose live value is still the one in the
annotation are its own, and are no conflicts; and when the annotation is there, it is kept up to date, so that the user
can go back to client-side apply.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sampan.kube.apply import fields
from sampan.kube.apply.compare import compare
from sampan.kube.apply.fields import Fields
from sampan.kube.apply.types import FieldType
from sampan.kube.apply.values import TypeErrors, check, field_set

Object = dict[str, Any]

ANNOTATION: Final = "kubectl.kubernetes.io/last-applied-configuration"
KUBECTL: Final = "kubectl"
MAX_ANNOTATIONS: Final = 256 * 1024  # bytes of all annotations of an object

_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def annotated(obj: Object) -> str:
    found = ((obj.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION)
    return found if isinstance(found, str) else ""


def owned(live: Object, version: str, of: FieldType) -> Fields | None:
    """What client-side apply owns still: the annotation's fields whose values are live. None when it cannot be told."""
    text = annotated(live)
    if not text:
        return None
    try:
        last = orjson.loads(text)
        if not isinstance(last, dict) or last.get("apiVersion") != version:
            return None
        check(last, of)
        mine = field_set(last, of)
        found = compare(last, live, of)
    except (orjson.JSONDecodeError, TypeErrors, ValueError):
        return None
    for other in (found.modified, found.added, found.removed):
        mine = fields.difference(mine, other)
    return mine


def refreshed(obj: Object, config: Object) -> Object:
    """`obj` with the annotation saying what was applied now; without it when all annotations would be too large."""
    metadata = dict(config.get("metadata") or {})
    if metadata.get("annotations") is not None:
        metadata["annotations"] = {
            key: value for key, value in metadata["annotations"].items() if key != ANNOTATION
        }
    text = orjson.dumps({**config, "metadata": metadata}, option=orjson.OPT_SORT_KEYS).decode()
    annotations = {**obj["metadata"]["annotations"], ANNOTATION: text.translate(_ESCAPES) + "\n"}
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > MAX_ANNOTATIONS:
        del annotations[ANNOTATION]
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}
