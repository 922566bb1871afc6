"""Without root: as root that gives its privilege up (`--rootless`), and as a user who never had any.

The user runs Debian's Python on this checkout and the installed libraries, since root's own may be out of reach.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
import ssh_server
from cluster import AS_ROOT, HELLO, ROOT, Cluster, wait_for
from pieces import cargo_image, cargo_pod, deployment, settled
from remains import remains

NOBODY = 65534
BECOME_NOBODY = [
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--no-new-privs",
]
PYTHON = "/usr/bin/python3"


class UserCluster(Cluster):
    """Every command as an unprivileged user, in a network namespace with loopback and nothing else."""

    python = PYTHON

    def __init__(self) -> None:
        super().__init__(rootless=False)  # nobody has to say so
        os.chown(self.directory, NOBODY, NOBODY)
        self.environment["PYTHONPATH"] = f"{ROOT}:{sysconfig.get_path('purelib')}"
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"  # not allowed to write beside the sources

    def open_network(self) -> None:
        super().open_network()
        if "setpriv" not in self.prefix:
            self.prefix += BECOME_NOBODY


def reason_not_to_run_as_user() -> str:
    if not AS_ROOT:
        return "needs root to become another user; as an ordinary user the other tests are this one"
    version = "import sys; print(sys.version_info[:2])"
    if not os.access(PYTHON, os.X_OK) or not shutil.which("setpriv"):
        return f"{PYTHON} or setpriv is not installed"
    found = subprocess.run(
        [PYTHON, "-c", version], capture_output=True, text=True, check=True
    ).stdout
    if found.strip() != str(sys.version_info[:2]):
        return f"{PYTHON} is another version than what the libraries were installed for"
    path = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    read = subprocess.run(
        [*BECOME_NOBODY, PYTHON, "-c", "import orjson, sampan"], env=path, check=False
    )
    if read.returncode:
        return f"other users cannot read {ROOT}"
    return ""


@pytest.fixture(scope="module", params=["flag", "user"])
def boat(hello_binaries: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "user" and (reason := reason_not_to_run_as_user()):
        pytest.skip(reason)
    boat = UserCluster() if request.param == "user" else Cluster(rootless=True)
    try:
        boat.start()
        boat.sampan(
            "image", "build", "-t", "hello:wasm", "-f", str(HELLO / "Dockerfile.wasm"), str(HELLO)
        )
        boat.kubectl("apply", "-f", str(HELLO / "hello-wasm.yaml"))
        boat.kubectl("config", "set-context", "--current", "--namespace=hello")
        boat.kubectl("rollout", "status", "deployment/hello-wasm", "--timeout=60s")
        yield boat
        boat.sampan("down")
        wait_for(lambda: not any(remains(boat).values()), 5, f"nothing left of {remains(boat)}")
    finally:
        boat.stop()
        boat.remove()


def test_the_service_answers_on_its_own_address(boat: Cluster) -> None:
    service = boat.get("service", "hello")
    address = service["spec"]["clusterIP"]
    assert address.startswith("127.43.")
    (pod,) = boat.get("pods")["items"]
    assert pod["status"]["podIP"].startswith("127.42.")
    answer = wait_for(lambda: boat.http(f"http://{address}:8080/"), 20, "the Service")
    assert f"hello from wasm, pod {pod['metadata']['name']}," in answer


def test_a_low_port_is_served_at_ten_thousand_more(boat: Cluster) -> None:
    """docs/network.md: a port that this user cannot bind is at port + 10000. Real root can bind it."""
    boat.kubectl(
        "expose", "deployment", "hello-wasm", "--name=low", "--port=80", "--target-port=8080"
    )
    address = boat.get("service", "low")["spec"]["clusterIP"]
    port = 10080 if isinstance(boat, UserCluster) or not AS_ROOT else 80
    assert "hello from wasm" in wait_for(
        lambda: boat.http(f"http://{address}:{port}/"), 20, f"port {port}"
    )


def load_cargo(boat: Cluster) -> None:
    place = boat.directory / "cargo"  # pytest's own directory is root's
    place.mkdir(exist_ok=True)
    cargo_image(boat, place, "gold")


def test_an_image_of_several_layers_is_a_volume(boat: Cluster) -> None:
    """Nothing can be mounted: a user's is a tree of links to the layers' files, which goes with the pod."""
    context = box.build()
    boat.sampan(
        "image", "build", "-t", "box:wasm", "-f", str(context / "Dockerfile.wasm"), str(context)
    )
    load_cargo(boat)
    boat.apply(cargo_pod("wasm"))
    wait_for(lambda: "gold a" in boat.kubectl("logs", "cargo-wasm", "-c", "box"), 20, "its words")
    assert boat.kubectl("logs", "cargo-wasm", "-c", "look") == "gold a\ngold b\ngold a\ngold b\n"
    write = (box.BOX["wasm"], "write", "/whole/a/word", "lead")
    boat.kubectl_fails("exec", "cargo-wasm", "-c", "box", "--", *write)
    trees = boat.data.glob("runtime/containers/*/volumes/*.tree")
    assert bool(list(trees)) == (isinstance(boat, UserCluster) or not AS_ROOT)
    boat.kubectl("delete", "pod", "cargo-wasm", "--timeout=20s")
    wait_for(
        lambda: not list(boat.data.glob("runtime/containers/*/volumes/*")), what="no volume left"
    )


def test_exec_is_refused_clearly(boat: Cluster) -> None:
    said = boat.kubectl_fails("exec", "deploy/hello-wasm", "--", "/bin/sh", "-c", "id")
    assert "this pod is WebAssembly: there is no shell in it" in said


def test_containers_are_refused_clearly(boat: Cluster) -> None:
    pod = deployment("container", "x", 1)["spec"]["template"]["spec"]
    boat.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "boxed"}, "spec": pod})
    wait_for(
        lambda: "container" in boat.kubectl("events", "--for=pod/boxed", "--types=Warning"),
        20,
        "a warning",
    )
    assert boat.get("pod", "boxed")["status"]["phase"] == "Pending"
    boat.kubectl("delete", "pod", "boxed", "--timeout=20s")


def test_scale_to_ten_and_every_pod_answers(boat: Cluster) -> None:
    boat.kubectl("scale", "deployment/hello-wasm", "--replicas=10")
    boat.kubectl("rollout", "status", "deployment/hello-wasm", "--timeout=60s")
    wait_for(lambda: settled(boat, "hello", 10, "hello"), 20, "ten pods")
    addresses = {pod["status"]["podIP"] for pod in boat.get("pods")["items"]}
    assert len(addresses) == 10
    for address in addresses:
        assert "hello from wasm" in boat.http(f"http://{address}:8080/")
    boat.kubectl("logs", "deploy/hello-wasm")


LOOPBACK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        listener.accept()[0].sendall(b"of the host")
"""


def build_box(boat: Cluster) -> None:
    context = box.build()
    file = str(context / "Dockerfile.container")
    boat.sampan("image", "build", "-t", "box:container", "-f", file, str(context))


def test_a_microvm_calls_the_cluster_and_nothing_of_the_hosts(boat: Cluster) -> None:
    """User-mode networking: names, services and pods by their addresses on 127/8; of the host's loopback nothing."""
    if not isinstance(boat, UserCluster):
        pytest.skip("a root that has no network namespaces offers no microVMs")
    if missing := box.missing_for_microvms():
        pytest.skip(missing)
    build_box(boat)
    load_cargo(boat)
    serve = "exec nc -ll -p 7000 -e /bin/echo hello from the guest"
    made = box.pod("microvm", "vm", ports=[{"containerPort": 7000}], command=["/bin/sh", "-c", serve])  # fmt: skip
    del made["spec"]["containers"][0]["args"]
    made["spec"]["volumes"] = cargo_pod("microvm")["spec"]["volumes"]
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "cargo", "mountPath": "/cargo"}]
    boat.apply(made)
    boat.kubectl("wait", "--for=condition=Ready", "pod/vm", "--timeout=60s", timeout=70)

    def inside(script: str) -> str:
        return boat.kubectl("exec", "vm", "--", "/bin/sh", "-c", f"{script} </dev/null 2>&1 || true")  # fmt: skip

    assert inside("cat /cargo/a/word /cargo/b/word") == "gold a\ngold b\n"
    assert inside("/cargo/a/run") == "ran\n"
    assert "hello from wasm" in inside("wget -qO- http://hello:8080/")
    service = boat.get("service", "hello")["spec"]["clusterIP"]
    assert "hello from wasm" in inside(f"wget -qO- http://{service}:8080/")
    pod = boat.get("pods", "-l", "app=hello")["items"][0]["status"]["podIP"]
    assert "hello from wasm" in inside(f"wget -qO- http://{pod}:8080/")
    assert "refused" not in inside("nc -w 5 kubernetes.default 443"), (
        "below 1024: see docs/network.md"
    )
    own = boat.get("pod", "vm")["status"]["podIP"]
    with boat.inside(lambda: socket.create_connection((own, 7000), 5)) as connection:
        assert connection.recv(100) == b"hello from the guest\n"

    listener = boat.popen(PYTHON, "-c", LOOPBACK, stdout=subprocess.PIPE)
    try:
        assert listener.stdout is not None
        port = int(listener.stdout.readline())
        with boat.inside(lambda: socket.create_connection(("127.0.0.1", port), 5)) as connection:
            assert connection.recv(100) == b"of the host", "else the rest says nothing"
        for address in ("127.0.0.1", "127.0.1.1", "127.1.2.3", "10.0.2.2", "10.0.2.3", "0.0.0.0"):
            answer = inside(f"nc -w 2 {address} {port}")
            assert "of the host" not in answer and answer, address
    finally:
        listener.kill()
        listener.communicate()
    summary = json.loads(boat.kubectl("get", "--raw", "/api/v1/nodes/boat/proxy/stats/summary"))
    (told,) = [item for item in summary["pods"] if item["podRef"]["name"] == "vm"]
    inner = told["containers"][0]["memory"]["usageBytes"]
    assert told["memory"]["usageBytes"] > inner > 0, "no cgroup counts its machine"
    boat.kubectl("delete", "pod", "vm", "--timeout=20s")


def test_a_user_logs_in_to_a_machine(boat: Cluster) -> None:
    """Port 22 of a machine is on no address of the host: it is reached through the API, and undeclared ports are said."""
    if not isinstance(boat, UserCluster):
        pytest.skip("a root that has no network namespaces offers no microVMs")
    if missing := box.missing_for_microvms() or ssh_server.missing():
        pytest.skip(missing)
    build_box(boat)
    boat.sampan("image", "build", "-t", "login:1", str(ssh_server.build(boat.directory / "login")))
    key = boat.directory / ".ssh" / "id_ed25519"
    boat.run("mkdir", "-m", "700", str(key.parent))
    boat.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))

    def vm(verb: str, *rest: str) -> subprocess.CompletedProcess[str]:
        command = (boat.python, "-m", "sampan", "vm", verb, "--data-dir", str(boat.data), *rest)
        return boat.run(*command, timeout=150, stdin="")

    ran = vm("run", "--ssh", "--name", "login", "-m", "192m", "login:1", "--", "ticks")
    assert "without root, ports are reached that --publish names" in ran.stderr
    assert vm("ssh", "login", "--", "hostname").stdout == "login\n"
    vm("rm", "--force", "login")


def test_nothing_has_more_privilege_than_the_user(boat: Cluster) -> None:
    user = NOBODY if isinstance(boat, UserCluster) else os.geteuid()
    for part in boat.status()["parts"].values():
        assert Path(f"/proc/{part['pid']}").stat().st_uid == user
