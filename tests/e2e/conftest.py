from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import box
from cluster import AS_ROOT, HELLO, ROOT, Cluster
from space import Space

IMAGE_KINDS = ("wasm", "container")
OCI_KINDS = ("container", "microvm")  # what runs any program of an OCI image
ALL_KINDS = ("wasm", *OCI_KINDS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On a fresh machine the first test waits for the C library to be compiled, twice."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker(
            "timeout"
        ):
            item.add_marker(pytest.mark.timeout(300))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not AS_ROOT and item.get_closest_marker("root") is not None:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def hello_binaries() -> Path:
    """The example's programs, compiled once (wasm, and static Linux for the container)."""
    subprocess.run([sys.executable, str(HELLO / "build.py")], check=True, cwd=ROOT)
    return HELLO


@pytest.fixture(scope="session")
def cluster(hello_binaries: Path) -> Iterator[Cluster]:
    """One cluster for all tests that do not break it. As root it runs both kinds, else wasm alone."""
    boat = Cluster()
    boat.start("--kube-controller-manager-arg", "horizontal-pod-autoscaler-sync-period=1s")
    try:
        load_hello(boat)
        load_box(boat)
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
    for kind in IMAGE_KINDS if AS_ROOT and not boat.rootless else ("wasm",):
        boat.sampan(
            "image",
            "build",
            "-t",
            f"hello:{kind}",
            "-f",
            str(HELLO / f"Dockerfile.{kind}"),
            str(HELLO),
        )


def load_box(boat: Cluster) -> None:
    context = box.build()
    for kind in IMAGE_KINDS if AS_ROOT and not boat.rootless else ("wasm",):
        boat.sampan(
            "image",
            "build",
            "-t",
            f"box:{kind}",
            "-f",
            str(context / f"Dockerfile.{kind}"),
            str(context),
        )


def skip_unless_it_runs(kind: str) -> None:
    if kind != "wasm" and not AS_ROOT:
        pytest.skip(f"{kind} pods of this cluster need root")
    if kind == "microvm" and (missing := box.missing_for_microvms()):
        pytest.skip(missing)


@pytest.fixture(params=ALL_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of sandbox in turn."""
    skip_unless_it_runs(request.param)
    return str(request.param)


@pytest.fixture(params=OCI_KINDS)
def oci_kind(request: pytest.FixtureRequest) -> str:
    """Each kind that runs any program of an OCI image in turn, so a shell too."""
    skip_unless_it_runs(request.param)
    return str(request.param)


@pytest.fixture(scope="module")
def space(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace for the tests of one file; its default service account is there."""
    name = request.module.__name__.removeprefix("test_e2e_").replace("_", "-")
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("wait", "-n", name, "--for=create", "serviceaccount/default", "--timeout=10s")
    yield Space(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, deleted afterwards."""
    name = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower()).strip("-")[
        :50
    ].strip("-")
    cluster.kubectl("create", "namespace", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
