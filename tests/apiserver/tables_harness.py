"""An object as its kind's table shows it, at a fixed time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sampan.apiserver import tables
from sampan.apiserver.resources import builtin

NOW = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
TABLE = builtin()


def stamp(**ago: float) -> str:
    return (NOW - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def shown(group: str, version: str, plural: str, obj: dict[str, Any]) -> dict[str, Any]:
    """Cells by column name."""
    row = TABLE.lookup(group, version, plural)
    assert row is not None
    obj.setdefault("metadata", {}).setdefault("name", "x")
    obj["metadata"].setdefault("creationTimestamp", stamp(seconds=303))
    table = tables.to_table(row, [obj], {}, NOW)
    names = [column["name"] for column in table["columnDefinitions"]]
    cells = table["rows"][0]["cells"]
    assert len(names) == len(cells)
    for column, cell in zip(table["columnDefinitions"], cells, strict=True):
        kind = {"integer": int, "boolean": bool}.get(column["type"], str)
        assert isinstance(cell, kind), (column, cell)
    return dict(zip(names, cells, strict=True))


# --- pods ---------------------------------------------------------------------------------------------


def running(name: str = "a", **more: Any) -> dict[str, Any]:
    state = {"running": {"startedAt": stamp(seconds=60)}}
    return {"name": name, "ready": True, "restartCount": 0, "state": state} | more


def pod(
    *statuses: dict[str, Any],
    phase: str = "Running",
    init: tuple[dict[str, Any], ...] = (),
    conditions: tuple[str, ...] = (),
    spec: dict[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    containers = [{"name": name} for name in dict.fromkeys(s["name"] for s in statuses)] or [
        {"name": "a"}
    ]
    return {
        "metadata": {"name": "x", **metadata},
        "spec": {"containers": containers} | (spec or {}),
        "status": {
            "phase": phase,
            "containerStatuses": list(statuses),
            "initContainerStatuses": list(init),
            "conditions": [{"type": kind, "status": "True"} for kind in conditions],
        },
    }
