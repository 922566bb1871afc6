"""The libraries: one file each, each a table `FUNCTIONS` of name → overloads. Loaded at the first expression."""

from __future__ import annotations

from importlib import import_module
from typing import Any

NAMES = (
    "standard",
    "conversions",
    "time",
    "strings",
    "lists",
    "sets",
    "optionals",
    "regex",
    "urls",
    "quantity",
    "network",
    "formats",
    "semver",
    "authorizer",
    "jsonpatch",
)


def all_libraries() -> list[dict[str, Any]]:
    return [import_module(f"{__name__}.{name}").FUNCTIONS for name in NAMES]
