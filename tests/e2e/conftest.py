from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster import AS_ROOT, HELLO, ROOT, Cluster


@pytest.fixture(scope="session")
def hello_binaries() -> Path:
    """The example's programs, compiled once (wasm, and static Linux for the container)."""
    subprocess.run([sys.executable, str(HELLO / "build.py")], check=True, cwd=ROOT)
    return HELLO


@pytest.fixture(scope="session")
def cluster(hello_binaries: Path) -> Iterator[Cluster]:
    """One cluster for all tests that do not break it. As root it runs both kinds, else wasm alone."""
    boat = Cluster()
    boat.start()
    try:
        load_hello(boat)
        yield boat
    finally:
        boat.stop()
        boat.remove()


@pytest.fixture
def own_cluster(hello_binaries: Path) -> Iterator[Cluster]:
    """A cluster for one test, which may break it."""
    boat = Cluster()
    try:
        boat.start()
        load_hello(boat)
        yield boat
    finally:
        boat.stop()
        boat.remove()


def load_hello(boat: Cluster) -> None:
    for kind in ("wasm", "container") if AS_ROOT and not boat.rootless else ("wasm",):
        boat.sampan("image", "build", "-t", f"hello:{kind}", "-f", str(HELLO / f"Dockerfile.{kind}"), str(HELLO))


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, deleted afterwards."""
    name = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")[:50].strip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
