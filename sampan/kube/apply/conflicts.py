"""Conflicts: fields that an apply would change and that belong to others; and how the API says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sampan.kube.apply import fields
from sampan.kube.apply.fields import Fields, Path, shown_path
from sampan.kube.apply.managers import Manager
from sampan.kube.errors import ApiError


class Conflict(NamedTuple):
    manager: Manager
    path: Path


class Conflicts(Exception):
    """An apply without `force` that would take fields from others."""

    def __init__(self, found: Iterable[Conflict]) -> None:
        self.found = sorted(found)
        super().__init__(f"{len(self.found)} conflicts")

    @classmethod
    def between(cls, sets: dict[Manager, Fields]) -> Conflicts:
        return cls(
            Conflict(manager, path)
            for manager, owned in sets.items()
            for path in fields.paths(owned)
        )

    def fields(self) -> Fields:
        return fields.of(*(conflict.path for conflict in self.found))

    def outside(self, allowed: Fields) -> Conflicts:
        return Conflicts(each for each in self.found if not fields.has(allowed, each.path))

    def error(self) -> ApiError:
        """409, with a cause for each field."""
        causes = [
            {
                "reason": "FieldManagerConflict",
                "message": f"conflict with {manager}",
                "field": shown_path(path),
            }
            for manager, path in self.found
        ]
        return ApiError(409, "Conflict", self.message(), {"causes": causes})

    def message(self) -> str:
        if len(self.found) == 1:
            manager, path = self.found[0]
            return f"Apply failed with 1 conflict: conflict with {manager}: {shown_path(path)}"
        lines = []
        for manager in dict.fromkeys(manager for manager, _ in self.found):
            lines.append(f"conflicts with {manager}:")
            lines += [f"- {shown_path(path)}" for owner, path in self.found if owner == manager]
        return f"Apply failed with {len(self.found)} conflicts: " + "\n".join(lines)
