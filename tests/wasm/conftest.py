"""Fixtures of the wasm kind's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from wasm_lab import Lab, compiled


@pytest.fixture(scope="session")
def cli() -> Path:
    return compiled("cli.c")


@pytest.fixture(scope="session")
def web() -> Path:
    return compiled("web.c")


@pytest.fixture(scope="session")
def component() -> Path:
    return compiled("component.wat")


@pytest.fixture
async def lab(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    shared = tmp_path_factory.getbasetemp() / "aot"
    made = Lab(tmp_path, shared)
    yield made
    await made.close()
