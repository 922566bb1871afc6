"""Fixtures of the wasm kind's tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from wasm_lab import CACHE, Lab, compiled, componentized, warm_zygote


@pytest.fixture(scope="session")
def cli() -> Path:
    return compiled("cli.c")


@pytest.fixture(scope="session")
def web() -> Path:
    return compiled("web.c")


@pytest.fixture(scope="session")
def component() -> Path:
    return compiled("component.wat")


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run directory of a zygote that tests share."""
    with warm_zygote(tmp_path_factory.getbasetemp() / "warm") as directory:
        yield directory


@pytest.fixture
async def lab(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, warm: Path
) -> AsyncIterator[Lab]:
    made = Lab(tmp_path, tmp_path_factory.getbasetemp() / "aot", warm)
    yield made
    await made.close()


@pytest.fixture
async def lab_alone(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    """With a zygote of its own."""
    made = Lab(tmp_path, tmp_path_factory.getbasetemp() / "aot", tmp_path / "run")
    yield made
    await made.close()


@pytest.fixture(scope="session")
def app() -> Path:
    return componentized("python")


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of native code. What another user's tests have compiled is copied: nobody trusts another's code."""
    kept = CACHE / "aot"
    if not kept.exists() or kept.stat().st_uid == os.geteuid():
        return kept
    own = tmp_path_factory.getbasetemp() / "native"
    shutil.copytree(kept, own)
    return own


@pytest.fixture
async def http_lab(tmp_path: Path, native: Path, warm: Path) -> AsyncIterator[Lab]:
    made = Lab(tmp_path, native, warm)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def js() -> Path:
    return componentized("js")
