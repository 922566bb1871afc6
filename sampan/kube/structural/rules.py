"""`x-kubernetes-validations`: rules in CEL on parts of an object."""

from __future__ import annotations

from typing import Any

from sampan.kube.errors import Cause
from sampan.kube.structural.node import Node, Raw, every_part


class Validator:
    def validate(
        self, value: Any, old: Any, path: str = "", *, ratchet: bool = False
    ) -> list[Cause]:
        return []


def expressions(spec: dict[str, Any]) -> set[str]:
    """Every rule that a definition has."""
    found = set()
    for version in spec.get("versions") or ():
        raw = (version.get("schema") or {}).get("openAPIV3Schema")
        for part in every_part(raw) if raw else ():
            found.update(
                rule.get("rule") or "" for rule in part.get("x-kubernetes-validations") or ()
            )
    return found


def compiled(node: Node, *, root: bool) -> Validator | None:
    return None


def check(raw: Raw, path: str, known: frozenset[str]) -> list[Cause]:
    return []
