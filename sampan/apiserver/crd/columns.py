"""The table of a custom resource: its name, and what additionalPrinterColumns point to.

apiextensions `registry/customresource/tableconvertor`: a string column shows any value as kubectl's JSONPath prints it, the
others only a value of their type.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from sampan.apiserver.tables.model import NAME, Column, Object, Printer, Value, since
from sampan.kube.structural import jsonpath

if TYPE_CHECKING:
    from sampan.apiserver.crd.version import Version

_AGE_TEXT = (
    "CreationTimestamp is a timestamp representing the server time when this object was created. It is not "
    "guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It "
    "is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More "
    "info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"
)
DEFAULT: list[Object] = [
    {
        "name": "Age",
        "type": "date",
        "description": _AGE_TEXT,
        "jsonPath": ".metadata.creationTimestamp",
    }
]


def printer(version: Version) -> Printer:
    columns = [NAME]
    for each in version.columns or DEFAULT:
        path = each["jsonPath"]
        text = f"Custom resource definition column (in JSONPath format): {path}"
        columns.append(
            Column(
                each["name"],
                _value(path, each["type"]),
                each["type"],
                format=each.get("format") or "",
                empty=None,
                description=each.get("description") or text,
                priority=each.get("priority") or 0,
            )
        )
    return Printer(tuple(columns))


def _value(path: str, kind: str) -> Value:
    def value(obj: Object, now: datetime) -> Any:
        try:
            found, cell = jsonpath.first(obj, path)
        except jsonpath.JSONPathError:
            return None
        return shown(cell, kind, now) if found else None

    return value


def shown(value: Any, kind: str, now: datetime) -> Any:
    """A cell of a column of that type."""
    if kind == "string":
        return _text(value)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "integer":
            return int(value) if number else None
        case "number":
            return float(value) if number else None
        case "boolean":
            return value if isinstance(value, bool) else None
        case "date" if isinstance(value, str):
            try:
                return since(value, now)
            except ValueError:
                return "<invalid>"
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return str(value)
