"""A plugin of pytest's for `./test`: what takes long comes first, so that two workers end at about the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

LONG = (
    "e2e",
    "microvm",
    "wasm",
    "vm",
    "store",
    "runtime",
    "node",
)  # directories, the longest first


def rank(path: Path) -> int:
    room = path.parent.name
    return LONG.index(room) if room in LONG else len(LONG)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank(item.path))
