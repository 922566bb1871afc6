"""A printer: the columns that `kubectl get` shows of a kind, and how a cell is read off an object.

A column's value is a dotted path or a function of the object and the moment. What kubectl shows only with `-o wide` has
`wide=True` (priority 1 on the wire).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sampan.kube.objects import parse_time

Object = dict[str, Any]
Value = Callable[[Object, datetime], Any]

NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    value: str | Value
    type: str = "string"
    wide: bool = False
    format: str = ""
    empty: Any = ""  # shown when a path leads nowhere
    description: str = ""
    priority: int = 0  # of a custom column; `wide` stands for 1

    def definition(self) -> Object:
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": 1 if self.wide else self.priority,
        }

    def cell(self, obj: Object, now: datetime) -> Any:
        if callable(self.value):
            return self.value(obj, now)
        found = at(obj, self.value)
        return self.empty if found is None or found == "" else found


@dataclass(frozen=True, slots=True)
class Printer:
    """`cells`, when given, makes the whole row at once: for kinds whose columns depend on one another."""

    columns: tuple[Column, ...]
    cells: Callable[[Object, datetime], list[Any]] | None = None

    def row(self, obj: Object, now: datetime) -> list[Any]:
        if self.cells is not None:
            return self.cells(obj, now)
        return [column.cell(obj, now) for column in self.columns]


def printer(*columns: Column) -> Printer:
    return Printer(columns)


def at(obj: Any, path: str) -> Any:
    """The value at a dotted path, None when any part of it is missing."""
    for part in path.split("."):
        if not isinstance(obj, dict):
            return None
        obj = obj.get(part)
    return obj


def count(path: str) -> Value:
    """Number of items at a path."""
    return lambda obj, _now: len(at(obj, path) or ())


def number(path: str) -> Value:
    return lambda obj, _now: at(obj, path) or 0


# --- time ---------------------------------------------------------------------------------------------


def human_duration(span: timedelta) -> str:
    """As kubectl shows a span: two units at most, coarser as it grows."""
    seconds = int(span.total_seconds())
    if seconds < -1:
        return "<invalid>"
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    years = days // 365
    return _two(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"


def since(text: str | None, now: datetime, missing: str = UNKNOWN) -> str:
    """How long ago a timestamp was."""
    return human_duration(now - parse_time(text)) if text else missing


def age(obj: Object, now: datetime) -> str:
    return since(obj.get("metadata", {}).get("creationTimestamp"), now)


NAME = Column("Name", "metadata.name", format="name")
AGE = Column("Age", age)
CREATED_AT = Column("Created At", "metadata.creationTimestamp", "date")

DEFAULT = printer(NAME, AGE)
CREATED = printer(NAME, CREATED_AT)


# --- texts --------------------------------------------------------------------------------------------


def joined(texts: Iterable[str], empty: str = NONE) -> str:
    return ",".join(texts) or empty


def shortened(texts: list[str], limit: int = 3) -> str:
    """The first few, and how many more there are."""
    if len(texts) > limit:
        return f"{','.join(texts[:limit])} + {len(texts) - limit} more..."
    return ",".join(texts)


def labels_text(labels: dict[str, str] | None) -> str:
    return joined(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def selector_text(selector: Object | None) -> str:
    """A LabelSelector as kubectl writes it: `app=web,tier in (a,b)`."""
    if selector is None:
        return NONE
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for each in selector.get("matchExpressions") or ():
        key, values = each["key"], ",".join(sorted(each.get("values") or ()))
        match each["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case "DoesNotExist":
                parts.append(f"!{key}")
    return joined(parts)


def container_columns(path: str) -> tuple[Column, Column]:
    """Names and images of the containers of the pod template at `path`."""

    def names(obj: Object, _now: datetime) -> str:
        return ",".join(each.get("name", "") for each in at(obj, path) or ())

    def images(obj: Object, _now: datetime) -> str:
        return ",".join(each.get("image", "") for each in at(obj, path) or ())

    return Column("Containers", names, wide=True), Column("Images", images, wide=True)


def selector_column(path: str = "spec.selector") -> Column:
    return Column("Selector", lambda obj, _now: selector_text(at(obj, path)), wide=True)


def boolean_text(path: str, missing: str = UNSET) -> Value:
    def text(obj: Object, _now: datetime) -> str:
        value = at(obj, path)
        return missing if value is None else str(bool(value))

    return text


def has_condition(obj: Object, kind: str) -> bool:
    return any(
        each.get("type") == kind and each.get("status") == "True"
        for each in at(obj, "status.conditions") or ()
    )
