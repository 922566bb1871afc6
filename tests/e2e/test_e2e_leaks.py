"""Nothing leaks: not while pods come and go, not over kill -9, and nothing is left after `sampan down`."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import AS_ROOT, Cluster, wait_for
from conftest import load_hello
from pieces import KINDS, deployment, pods_of, settled
from remains import (
    descriptors,
    private_memory,
    remains,
    remove_kernel_objects,
    unmount_all,
)

SOAK = bool(os.environ.get("SAMPAN_SOAK"))
CYCLES = 30 if SOAK else 2
WAVE = {"wasm": 12, "container": 12, "microvm": 4}  # pods in each cycle
# Caches fill, heaps fragment, and histories of objects are kept: that is bounded, and less than this many KiB a cycle.
GROWTH = 4096


@pytest.fixture(scope="module")
def boat(hello_binaries: Path) -> Iterator[Cluster]:
    boat = Cluster()
    try:
        boat.start()
        load_hello(boat)
        yield boat
    finally:
        boat.stop()
        unmount_all(boat)
        if AS_ROOT:
            remove_kernel_objects(boat)
        boat.remove()


def counts(boat: Cluster) -> dict[str, int]:
    """What pods take, as numbers: all the same again once they are gone."""
    found = {sort: len(items) for sort, items in remains(boat).items()}
    for part, state in boat.status()["parts"].items():
        found[f"descriptors of {part}"] = descriptors(state["pid"])
    for name in (
        "runtime/sandboxes",
        "runtime/containers",
        "node/pods",
        "run/volumes",
        "logs/pods",
    ):
        path = boat.data / name
        found[name] = len(list(path.iterdir())) if path.is_dir() else 0
    return found


def slack(name: str) -> int:
    """Connections are kept open for a while, for the next request."""
    return 5 if name.startswith("descriptors") else 0


def cycle(boat: Cluster, most: int = max(WAVE.values())) -> None:
    pods = {kind: min(WAVE[kind], most) for kind in KINDS}
    for kind in KINDS:
        boat.apply(deployment(kind, "wave", pods[kind]))
    wait_for(lambda: settled(boat, "wave", sum(pods.values())), 60, f"{pods} pods")
    for kind in KINDS:
        boat.kubectl("delete", "deployment", f"wave-{kind}", "--wait=false")
    wait_for(lambda: not pods_of(boat), 60, "the end of all pods")


def test_cycles_of_pods_leave_nothing(boat: Cluster) -> None:
    cycle(boat)  # the first fills caches and starts what is started on demand
    pids = {part: state["pid"] for part, state in boat.status()["parts"].items()}
    before, memory = counts(boat), {part: private_memory(pid) for part, pid in pids.items()}
    for _ in range(CYCLES):
        cycle(boat)

    def same() -> bool:
        now = counts(boat)
        return all(now[name] <= before[name] + slack(name) for name in before)

    wait_for(same, 20, f"{before} again, now {counts(boat)},")
    assert {part: state["pid"] for part, state in boat.status()["parts"].items()} == pids
    grown = {part: private_memory(pid) - memory[part] for part, pid in pids.items()}
    assert max(grown.values()) < GROWTH * CYCLES, f"KiB in {CYCLES} cycles: {grown}"


def test_kills_in_the_middle_of_waves_leave_nothing(boat: Cluster) -> None:
    cycle(boat, 2)
    before = remains(boat)
    warm = "microvm" in KINDS  # a machine that waits for the next pod, or does not yet
    for part in ("runtime", "node", "server"):
        for kind in KINDS:
            boat.apply(deployment(kind, "wave", WAVE[kind] // 2))
        wait_for(lambda: len(pods_of(boat)) > 1, 30, "pods on their way")
        os.kill(boat.status()["parts"][part]["pid"], signal.SIGKILL)
        for kind in KINDS:
            wait_for(
                lambda name=f"wave-{kind}": boat.run("kubectl", "delete", "deployment", name, "--wait=false", "--ignore-not-found", check=False).returncode == 0,
                30, "the deletion",
            )  # fmt: skip
    wait_for(lambda: not pods_of(boat), 60, "the end of all pods")
    wanted = {sort: len(items) for sort, items in before.items() if sort != "sockets"}
    wanted["processes"] += warm
    for sort, most in wanted.items():
        wait_for(
            lambda sort=sort, most=most: len(remains(boat)[sort]) <= most,
            20,
            f"{sort}: {remains(boat)[sort]}",
        )
    for name in ("runtime/sandboxes", "runtime/containers", "node/pods", "run/volumes"):
        wait_for(lambda name=name: not list((boat.data / name).iterdir()), 20, f"{name} empty")


# Who may see and ask


def test_files_are_private(boat: Cluster) -> None:
    assert stat.S_IMODE(boat.data.stat().st_mode) == 0o700
    secrets = [*boat.data.glob("pki/*.key"), *boat.data.rglob("*kubeconfig.yaml"), *boat.data.rglob("*.db*"),
               boat.data / "config.json", *boat.data.glob("logs/*.log")]  # fmt: skip
    assert len(secrets) > 10
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for path in boat.data.rglob("*"):
        if path.is_socket():
            assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
        if path.is_dir() and path.parent == boat.data:
            assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


@pytest.mark.root
@pytest.mark.skipif(not AS_ROOT, reason="the network namespace of the cluster needs root")
def test_nothing_listens_beyond_loopback(boat: Cluster) -> None:
    dns = boat.get("-n", "kube-system", "service", "kube-dns")["spec"]["clusterIP"]
    listening = boat.run("ss", "-Hlntu").stdout.splitlines()
    addresses = {line.split()[4].rpartition(":")[0].partition("%")[0] for line in listening}
    assert f"127.0.0.1:{boat.ports[0]}" in {line.split()[4] for line in listening}
    assert addresses <= {"127.0.0.1", dns}, listening


def fetch(boat: Cluster, url: str, *options: str) -> tuple[int, str]:
    done = boat.run("curl", "-sk", "--noproxy", "*", "-o", "/dev/stderr", "-w", "%{http_code}", "--max-time", "5",
                    *options, url, check=False)  # fmt: skip
    return int(done.stdout or 0), done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_nobody_is_served_without_a_name(boat: Cluster) -> None:
    api, node = (f"https://127.0.0.1:{port}" for port in boat.ports)
    for path in ("/api/v1/secrets", "/api/v1/nodes", "/apis/apps/v1/deployments", "/metrics"):
        code, _ = fetch(boat, api + path)
        assert code in (401, 403), path
        code, _ = fetch(boat, api + path, "-H", "Authorization: Bearer nonsense")
        assert code == 401, path
    for path in (
        "/pods",
        "/exec/default/x/y?command=id",
        "/containerLogs/default/x/y",
        "/metrics",
        "/stats/summary",
    ):
        code, _ = fetch(boat, node + path)
        assert code in (0, 401, 403), path
    # A client certificate of our CA is needed, and not just any: a pod's identity is none for the node.
    pki = boat.data / "pki"
    code, _ = fetch(
        boat,
        node + "/pods",
        "--cert",
        str(pki / "kubelet-client.crt"),
        "--key",
        str(pki / "kubelet-client.key"),
    )
    assert code == 200


# Down


def test_down_with_pods_of_every_kind_leaves_nothing_and_the_data_can_be_deleted(
    boat: Cluster,
) -> None:
    for kind in KINDS:
        boat.apply(
            deployment(kind, "last", 2, volumes=[{"name": "m", "emptyDir": {"medium": "Memory"}}])
        )
    wait_for(lambda: settled(boat, "last", 2 * len(KINDS)), 60, "pods")
    os.kill(boat.status()["parts"]["runtime"]["pid"], signal.SIGKILL)
    boat.sampan("down")
    wait_for(lambda: not any(remains(boat).values()), 5, f"nothing left of {remains(boat)}")

    # The same when the supervisor was killed before: `down` ends what goes on without it.
    boat.start()
    wait_for(lambda: settled(boat, "last", 2 * len(KINDS)), 60, "pods")
    status = boat.status()
    for pid in (status["pid"], *(part["pid"] for part in status["parts"].values())):
        os.kill(pid, signal.SIGKILL)
    assert remains(boat)["processes"], "pods go on"
    boat.sampan("down")
    wait_for(lambda: not any(remains(boat).values()), 5, f"nothing left of {remains(boat)}")
    shutil.rmtree(boat.data)
