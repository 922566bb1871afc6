"""The table "What a microVM pod cannot do" of docs/sandboxes.md: a test that makes an exception names a row of it."""

from __future__ import annotations

import functools
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sandboxes.md"
HEADING = "### What a microVM pod cannot do, and why"


@functools.cache
def differences() -> dict[str, str]:
    """Reason by what is different."""
    _, found, rest = PAGE.read_text().partition(HEADING)
    assert found, f"{PAGE} has no {HEADING!r}"
    rows = [line.strip("| ").split(" | ") for line in rest.splitlines() if line.startswith("|")]
    return {what.replace("`", "").strip(): why for what, *_, why in rows[2:]}


def documented(what: str) -> str:
    """The reason that users are given; AssertionError when they are given none."""
    assert what in differences(), f"{what!r} is no row of the table in {PAGE}"
    return differences()[what]
