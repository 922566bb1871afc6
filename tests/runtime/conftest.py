"""Fixtures of the runtime's tests; helpers of this directory and of the CRI tests can be imported by name."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "cri"))
sys.path.insert(0, str(Path(__file__).parent))

import busybox
from runtime_fixture import Runtime
from runtime_kinds import missing_for_microvms

from sampan.image.store import ImageStore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = (
        "needs root"
        if os.geteuid() != 0
        else next(
            (f"needs {tool}" for tool in ("conmon", "busybox") if shutil.which(tool) is None), ""
        )
    )
    if missing:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason=missing))
    in_machines = [item for item in items if kind_of(item) == "microvm"]
    if in_machines and (why := missing_for_microvms()):
        for item in in_machines:
            item.add_marker(pytest.mark.skip(reason=why))


def kind_of(item: pytest.Item) -> str:
    return item.callspec.params.get("runtime", "") if hasattr(item, "callspec") else ""


@pytest.fixture(scope="session")
def images() -> Iterator[Path]:
    """Directory of an image store that has busybox."""
    if busybox.binary() is None:
        pytest.skip("needs busybox")
    with tempfile.TemporaryDirectory(prefix="sampan-images-") as directory:
        layout = busybox.write_layout(Path(directory, "layout"))
        ImageStore(Path(directory, "store")).load(layout)
        yield Path(directory, "store")


@pytest.fixture(scope="session")
def microvm_home(images: Path) -> Iterator[Path]:
    """State of the runtimes of machines: a template is booted once."""
    with tempfile.TemporaryDirectory(prefix="sampan-runtime-microvm-") as directory:
        yield Path(directory)


@pytest.fixture
async def runtime(images: Path, request: pytest.FixtureRequest) -> AsyncIterator[Runtime]:
    """Its pods are containers, or what runtime_kinds.py says."""
    if getattr(request, "param", "container") == "microvm":
        runtime = Runtime(request.getfixturevalue("microvm_home"), images, kinds=("microvm",))
        runtime.handler = "microvm"
        async with runtime.running():
            yield runtime
        return
    with tempfile.TemporaryDirectory(prefix="sampan-runtime-") as directory:
        runtime = Runtime(Path(directory), images)
        async with runtime.running():
            yield runtime
        known = (directory, f"/{runtime.config.instance}/")
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        left = [line for line in lines if any(name in line for name in known)]
        assert not left, f"mounts left behind: {left}"
