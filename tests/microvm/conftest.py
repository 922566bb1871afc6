"""Fixtures of the microVM tests: one home for the whole session, so that a template is booted once."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cri"))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import busybox
from runtime_fixture import Runtime
from runtime_kinds import missing_for_microvms

from sampan.image.store import ImageStore


def missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if busybox.binary() is None:
        return "needs busybox"
    return missing_for_microvms()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    if any(item.get_closest_marker("root") for item in here) and (why := missing()):
        for item in here:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """State of the runtimes of this session: images, drives, templates."""
    base = Path(tempfile.mkdtemp(prefix="sampan-microvm-"))
    ImageStore(base / "images").load(busybox.write_layout(base / "layout"))
    yield base
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
async def runtime(home: Path) -> AsyncIterator[Runtime]:
    """A runtime of which nothing is left but templates and drives."""
    runtime = Runtime(home, home / "images", kinds=("microvm",))
    async with runtime.running():
        yield runtime
    left = list((home / "run" / "microvm" / "machines").glob("*"))
    assert not left, f"machines left behind: {left}"
