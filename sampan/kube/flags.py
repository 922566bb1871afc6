"""Flags of Kubernetes' components as `name=value`: a table of rows, read. What is wrong is a BadFlag that names the flag."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class BadFlag(ValueError):
    """Not a flag of this component, or not a value for it."""


class Flag(NamedTuple):
    field: str  # of what the component is told
    read: Callable[[str], Any]  # ValueError says what the text must be


_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def duration(text: str) -> float:
    """Seconds, of Go's way to write them: `1m30s`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("must be a duration, such as 30s or 1m30s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def read_flags(flags: Mapping[str, Flag], arguments: Iterable[str]) -> dict[str, Any]:
    """Values by field. Raises BadFlag."""
    found: dict[str, Any] = {}
    for argument in arguments:
        name, sign, value = argument.removeprefix("--").partition("=")
        flag = flags.get(name)
        if flag is None or not sign:
            raise BadFlag(f"{argument}: write NAME=VALUE; names: {', '.join(flags)}")
        try:
            found[flag.field] = flag.read(value)
        except ValueError as error:
            raise BadFlag(f"{name}={value}: {error}") from None
    return found
