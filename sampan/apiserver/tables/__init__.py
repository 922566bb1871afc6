"""Server-side tables: the columns of `kubectl get`, one file per family of groups, joined into one table by kind.

A kind without a printer shows its name and age. Ages are of the moment of the request.
https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sampan.apiserver.resources.model import Resource
from sampan.apiserver.tables import apps, cluster, core, pods
from sampan.apiserver.tables.model import DEFAULT, Object, Printer

__all__ = ["printer_for", "to_table"]

PRINTERS: dict[tuple[str, str], Printer] = {
    **core.PRINTERS,
    **pods.PRINTERS,
    **apps.PRINTERS,
    **cluster.PRINTERS,
}


def printer_for(group: str, kind: str) -> Printer:
    return PRINTERS.get((group, kind), DEFAULT)


def to_table(
    resource: Resource,
    objects: Iterable[Object],
    options: Mapping[str, str],
    now: datetime | None = None,
) -> dict[str, Any]:
    """A meta.k8s.io Table. Options: `includeObject` (None, Metadata, Object), `version` (v1), `noHeaders` (true)."""
    now = now or datetime.now(UTC)
    version = f"meta.k8s.io/{options.get('version') or 'v1'}"
    include = options.get("includeObject") or "Metadata"
    rows: list[dict[str, Any]] = []
    if resource.custom is not None:
        printer = resource.custom.printer
    else:
        printer = printer_for(resource.group, resource.kind)
    for obj in objects:
        row: dict[str, Any] = {"cells": printer.row(obj, now)}
        if include == "Object":
            row["object"] = obj
        elif include != "None":
            row["object"] = {
                "kind": "PartialObjectMetadata",
                "apiVersion": version,
                "metadata": obj.get("metadata", {}),
            }
        rows.append(row)
    headers = [] if options.get("noHeaders") == "true" else printer.columns
    return {
        "kind": "Table",
        "apiVersion": version,
        "metadata": {},
        "columnDefinitions": [column.definition() for column in headers],
        "rows": rows,
    }
