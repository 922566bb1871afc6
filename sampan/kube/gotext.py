"""Values as Go prints them: some messages of Kubernetes show a map so, and clients compare them."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> str:
    """As Go's %v prints it."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{plain(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(plain, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<nil>" if value is None else str(value)
