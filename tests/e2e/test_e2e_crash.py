"""kill -9 of every process there is, one after another, while pods run and a client keeps calling them.

What must hold: pods that nobody touched go on (same process, no restart) and answer every single request; the killed
part is back soon and everything converges, whatever was asked for while it was away.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cluster import AS_ROOT, Cluster, wait_for
from conftest import OCI_KINDS, load_hello
from differences import documented
from pieces import KINDS, deployment, pods_of, service, settled
from remains import processes, remove_kernel_objects, unmount_all

HAMMER = Path(__file__).parent / "hammer.py"
BACK = {"server": "api", "runtime": "cri", "node": "registered"}  # what each reports when it works
# The supervisor forks at once; what is allowed here is for a machine that does much else at the time.
PATIENCE = 20.0


@pytest.fixture(scope="module")
def boat(hello_binaries: Path) -> Iterator[Cluster]:
    """One cluster for all kills: `steady` is never touched and served through a Service, `extra` is scaled about."""
    boat = Cluster()
    try:
        boat.start()
        load_hello(boat)
        for kind in KINDS:
            boat.apply(deployment(kind, "steady", 1))
            boat.apply(deployment(kind, "extra", 1))
        boat.apply(service("steady"))
        for kind in KINDS:
            rolled_out(boat, f"steady-{kind}")
            rolled_out(boat, f"extra-{kind}")
        wait_for(lambda: len(endpoints(boat, "steady")) == len(KINDS), what="endpoints of steady")
        yield boat
    finally:
        boat.stop()
        unmount_all(boat)
        boat.remove()


def rolled_out(boat: Cluster, name: str) -> None:
    boat.kubectl("rollout", "status", f"deployment/{name}", "--timeout=60s")


def endpoints(boat: Cluster, name: str) -> list[str]:
    chosen = f"endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
    slices = boat.read(f"/apis/discovery.k8s.io/v1/namespaces/default/{chosen}")["items"]
    return [
        endpoint["addresses"][0]
        for item in slices
        for endpoint in item["endpoints"] or ()
        if endpoint["conditions"].get("ready")
    ]


def workloads(boat: Cluster, app: str) -> dict[str, tuple[str, int, int]]:
    """By pod: (container id, its process, its restarts)."""
    found = {}
    for pod in pods_of(boat, app):
        (status,) = pod["status"]["containerStatuses"]
        container_id = status["containerID"].rpartition("/")[2]
        pid = process_of(boat, container_id)
        found[pod["metadata"]["name"]] = (container_id, pid, status["restartCount"])
    return found


def process_of(boat: Cluster, container_id: str) -> int:
    """The pid of a container, as the runtime tells it over CRI."""
    from sampan.cri.client import CRIClient

    async def ask() -> int:
        async with CRIClient(boat.data / "run" / "cri.sock") as cri:
            answer = await cri.container_status(
                container_id=container_id, verbose=True, wait=True, rpc_timeout=20
            )
            return int(answer.info["pid"])

    return asyncio.run(ask())


@contextmanager
def hammered(boat: Cluster, name: str) -> Iterator[None]:
    """A client that asks the Service all the time; no request may fail, and every pod must have answered."""
    port = 8080
    address = boat.get("service", name)["spec"]["clusterIP"]
    client = boat.popen(
        sys.executable, str(HAMMER), address, str(port),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield
    finally:
        output, _ = client.communicate(timeout=30)
    *failures, result = [json.loads(line) for line in output.splitlines()]
    assert not failures, f"{len(failures)} of {result['served']} requests failed: {failures[:5]}"
    assert len(result["names"]) == len(KINDS), result
    assert result["served"] > 20, result


def until_it_works(boat: Cluster, *arguments: str) -> None:
    """kubectl, again while the API server is away."""
    wait_for(
        lambda: boat.run("kubectl", *arguments, check=False).returncode == 0,
        PATIENCE,
        " ".join(arguments),
    )


@pytest.mark.parametrize("part", ["server", "node", "runtime"])
def test_pods_answer_while_a_part_is_killed_and_what_was_asked_meanwhile_is_done(
    boat: Cluster, part: str, record_testsuite_property: Any
) -> None:
    before = workloads(boat, "steady")
    victim = pods_of(boat, "extra")[0]["metadata"]["name"]
    with hammered(boat, "steady"):
        pid = boat.status()["parts"][part]["pid"]
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        for kind in KINDS:
            until_it_works(boat, "scale", f"deployment/extra-{kind}", "--replicas=3")
        until_it_works(boat, "delete", "pod", victim, "--wait=false", "--ignore-not-found")
        wait_for(lambda: is_back(boat, part, pid), PATIENCE, f"{part} back")
        record_testsuite_property(
            f"seconds until {part} is back", round(time.monotonic() - began, 2)
        )
        wait_for(lambda: settled(boat, "extra", 3 * len(KINDS)), 60, "the scale")
        assert victim not in [pod["metadata"]["name"] for pod in pods_of(boat, "extra")]
        for name in before:
            assert "hello from" in boat.http(f"http://{address_of(boat, name)}:8080/")
            boat.kubectl("logs", name)
        for kind in set(KINDS) & set(OCI_KINDS):
            shell = ("exec", f"deploy/steady-{kind}", "--", "/bin/busybox", "echo", "ay")
            assert boat.kubectl(*shell) == "ay\n"
        for kind in KINDS:
            boat.kubectl("scale", f"deployment/extra-{kind}", "--replicas=1")
        wait_for(lambda: settled(boat, "extra", len(KINDS)), 60, "the scale down")
    assert workloads(boat, "steady") == before


def is_back(boat: Cluster, part: str, former: int) -> bool:
    return boat.status()["parts"][part]["pid"] not in (0, former) and reached(boat, part)


def reached(boat: Cluster, part: str) -> bool:
    return BACK[part] in boat.status()["parts"][part]["reports"]


def address_of(boat: Cluster, pod: str) -> str:
    return str(boat.get("pod", pod)["status"]["podIP"])


def test_a_storm_of_kills_touches_no_pod(boat: Cluster) -> None:
    before = workloads(boat, "steady")
    with hammered(boat, "steady"):
        for replicas in (2, 1):
            for part in ("runtime", "node", "server"):
                if pid := boat.status()["parts"][part]["pid"]:
                    os.kill(pid, signal.SIGKILL)
            for part in BACK:
                wait_for(lambda part=part: reached(boat, part), PATIENCE, f"{part} back")
            for kind in KINDS:
                until_it_works(boat, "scale", f"deployment/extra-{kind}", f"--replicas={replicas}")
            wait_for(lambda count=replicas * len(KINDS): settled(boat, "extra", count), 60, "scale")
    assert workloads(boat, "steady") == before


def test_the_zygote_is_killed(boat: Cluster) -> None:
    before = workloads(boat, "steady")
    with hammered(boat, "steady"):
        (zygote,) = {parent_of(before[name][1]) for name in before if "wasm" in name}
        assert "zygote" in Path(f"/proc/{zygote}/cmdline").read_text()
        os.kill(zygote, signal.SIGKILL)
        boat.kubectl("scale", "deployment/extra-wasm", "--replicas=3")
        wait_for(lambda: settled(boat, "extra", 2 + len(KINDS)), 60, "the scale")
        boat.kubectl("scale", "deployment/extra-wasm", "--replicas=1")
        wait_for(lambda: settled(boat, "extra", len(KINDS)), 60, "the scale down")
    assert workloads(boat, "steady") == before
    # Workers of the former zygote are still ended, and seen to end, by its successor.
    victim = next(iter(n for n in workloads(boat, "extra") if "wasm" in n))
    boat.kubectl("delete", "pod", victim, "--timeout=20s")
    wait_for(lambda: settled(boat, "extra", len(KINDS)), 30, "the replacement")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_workload_is_restarted(boat: Cluster, kind: str) -> None:
    (name,) = [name for name in workloads(boat, "extra") if kind in name]
    container_id, pid, restarts = workloads(boat, "extra")[name]
    os.kill(pid, signal.SIGKILL)

    def restarted() -> bool:
        (status,) = boat.read(f"/api/v1/namespaces/default/pods/{name}")["status"][
            "containerStatuses"
        ]
        return status["restartCount"] == restarts + 1 and status["ready"]

    wait_for(restarted, 30, f"{name} restarted")
    status = boat.get("pod", name)["status"]["containerStatuses"][0]
    assert status["lastState"]["terminated"]["exitCode"] == 137, status
    assert status["lastState"]["terminated"]["containerID"].endswith(container_id)


@pytest.mark.root
@pytest.mark.skipif(not AS_ROOT, reason="containers need root")
def test_a_container_whose_conmon_is_killed_is_started_again(boat: Cluster) -> None:
    documented("a watcher of each container")
    # A pod that was not restarted yet is started again at once, without a pause.
    boat.kubectl("delete", "pod", "-l", "app=extra,kind=container")
    wait_for(lambda: settled(boat, "extra", len(KINDS)), 30, "the replacement")
    (name,) = [name for name in workloads(boat, "extra") if "container" in name]
    _, pid, restarts = workloads(boat, "extra")[name]
    conmon = parent_of(pid)
    assert b"conmon" in Path(f"/proc/{conmon}/cmdline").read_bytes()
    os.kill(conmon, signal.SIGKILL)
    wait_for(
        lambda: (
            workloads(boat, "extra")[name][2] == restarts + 1 and settled(boat, "extra", len(KINDS))
        ),
        30,
        "restarted",
    )
    assert not running(pid), "the unwatched container still runs"


def test_a_pod_that_never_restarts_fails_when_its_process_is_killed(boat: Cluster) -> None:
    manifest = deployment("wasm", "once", 1)["spec"]["template"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "once", "labels": {"app": "once"}},
    }
    boat.apply({**pod, "spec": {**manifest["spec"], "restartPolicy": "Never"}})
    boat.kubectl("wait", "--for=condition=Ready", "pod/once", "--timeout=30s")
    os.kill(workloads(boat, "once")["once"][1], signal.SIGKILL)
    boat.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/once", "--timeout=30s")
    boat.kubectl("delete", "pod", "once")


def test_the_supervisor_is_killed_and_up_adopts(boat: Cluster) -> None:
    before = workloads(boat, "steady")
    with hammered(boat, "steady"):
        status = boat.status()
        os.kill(status["pid"], signal.SIGKILL)
        for name, part in status["parts"].items():
            wait_for(
                lambda pid=part["pid"]: not running(pid),
                PATIENCE,
                f"{name} to stop by its lifeline",
            )
        boat.start()
        wait_for(lambda: settled(boat, "extra", len(KINDS)), 30, "everything ready")
    assert workloads(boat, "steady") == before


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_down_keeps_pods_when_asked_and_up_adopts_them(boat: Cluster) -> None:
    before = workloads(boat, "steady")
    with hammered(boat, "steady"):
        boat.sampan("down", "--keep-pods")
        assert not [text for _, text in processes(boat) if "supervisor" in text]
        boat.start()
        wait_for(lambda: settled(boat, "extra", len(KINDS)), 30, "everything ready")
    assert workloads(boat, "steady") == before


def test_after_a_reboot_pods_start_without_the_api_server(boat: Cluster) -> None:
    """The power fails: no process, mount, namespace, cgroup or socket is left. Then only the node's two parts start."""
    power_off(boat)
    boat.open_network()
    parts = [
        boat.popen(
            sys.executable,
            "-m",
            "sampan",
            part,
            "--data-dir",
            str(boat.data),
            stderr=subprocess.DEVNULL,
        )
        for part in ("runtime", "node")
    ]
    try:
        wait_for(
            lambda: len(running_pods(boat)) == 2 * len(KINDS), 60, "the pods of the node's cache"
        )
        for address in running_pods(boat).values():
            assert "hello from" in wait_for(
                lambda at=address: boat.http(f"http://{at}:8080/"), 20, address
            )
    finally:
        for part in parts:
            part.terminate()
        for part in parts:
            part.wait(20)
    boat.start()
    for app in ("steady", "extra"):
        wait_for(lambda app=app: settled(boat, app, len(KINDS)), 60, f"{app} ready")


def power_off(boat: Cluster) -> None:
    os.kill(boat.status()["pid"], signal.SIGKILL)
    while found := list(processes(boat)):
        for pid, _ in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    boat.close_network()
    unmount_all(boat)
    remove_kernel_objects(boat)
    shutil.rmtree(boat.data / "run")


def running_pods(boat: Cluster) -> dict[str, str]:
    """Addresses by pod, of those with a running container, as the runtime tells over CRI."""
    from sampan.cri import api_pb2 as pb
    from sampan.cri.client import CRIClient

    async def ask() -> dict[str, str]:
        async with CRIClient(boat.data / "run" / "cri.sock") as cri:
            found = {}
            for item in (await cri.list_containers(wait=True, rpc_timeout=20)).containers:
                if item.state == pb.CONTAINER_RUNNING:
                    answer = await cri.pod_sandbox_status(pod_sandbox_id=item.pod_sandbox_id)
                    found[answer.status.metadata.name] = answer.status.network.ip
            return found

    return asyncio.run(ask())
