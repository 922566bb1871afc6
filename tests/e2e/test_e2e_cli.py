"""The command line as a user meets it: what it says, what it answers with, and what it does when something is wrong."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster import AS_ROOT, HELLO, Cluster, free_port, wait_for
from remains import remains, remove_kernel_objects, unmount_all

from sampan.cli.config import Config


@pytest.fixture
def boat() -> Iterator[Cluster]:
    """Directory, network and ports of a cluster that was not started."""
    boat = Cluster()
    boat.open_network()
    boat.ports = (free_port(), free_port())
    try:
        yield boat
    finally:
        boat.stop()
        unmount_all(boat)
        if AS_ROOT:
            remove_kernel_objects(boat)
        boat.remove()


def sampan(boat: Cluster, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return boat.run(sys.executable, "-m", "sampan", *arguments, check=False, timeout=timeout)


def options(boat: Cluster) -> list[str]:
    port, node_port = boat.ports
    rootless = ["--rootless"] if boat.rootless else []
    return [
        "--data-dir",
        str(boat.data),
        "--port",
        str(port),
        "--node-port",
        str(node_port),
        *rootless,
    ]


def nothing_left(boat: Cluster) -> None:
    wait_for(lambda: not any(remains(boat).values()), 5, f"nothing left of {remains(boat)}")


# One cluster's days, from the first `up` to the last `down`


def test_up_status_kubectl_down(boat: Cluster, hello_binaries: Path) -> None:
    up = sampan(boat, "up", *options(boat), "--node-name", "boat")
    assert up.returncode == 0, up.stderr
    steps = re.findall(r"^ +(\d+\.\d\d) s  (.+?)(?:  |$)", up.stdout, re.MULTILINE)
    assert {"API server ready", "runtime ready", "node Ready"} <= {text for _, text in steps}
    assert [float(after) for after, _ in steps] == sorted(float(after) for after, _ in steps)
    assert f"sampan down --data-dir {boat.data}" in up.stdout

    again = sampan(boat, "up", *options(boat))
    assert again.returncode == 0
    assert "already runs" in again.stdout

    data = ("--data-dir", str(boat.data))
    status = sampan(boat, "status", *data)
    assert status.returncode == 0, status.stderr
    for part in ("supervisor", "server", "runtime", "node"):
        assert re.search(rf"^{part} +\d+ .* [1-9]\d*\.\d MiB$", status.stdout, re.MULTILINE), status
    assert "node boat  Ready" in status.stdout

    # What follows `kubectl` is kubectl's, dashes and all.
    nodes = sampan(boat, "kubectl", *data, "get", "nodes", "-o", "wide")
    assert nodes.returncode == 0 and "INTERNAL-IP" in nodes.stdout, nodes.stderr
    assert "kube-dns" in sampan(boat, "kubectl", *data, "-n", "kube-system", "get", "svc").stdout
    assert "Examples:" in sampan(boat, "kubectl", *data, "get", "--help").stdout
    missing = sampan(boat, "kubectl", *data, "get", "pod", "nobody")
    assert missing.returncode == 1 and "NotFound" in missing.stderr

    boat.sampan(
        "image", "build", "-t", "hello:wasm", "-f", str(HELLO / "Dockerfile.wasm"), str(HELLO)
    )
    run = (
        "run",
        "say",
        "--image=hello:wasm",
        "--overrides",
        '{"spec":{"runtimeClassName":"wasm"}}',
        "--port=8080",
    )
    assert sampan(boat, "kubectl", *data, *run).returncode == 0
    assert (
        sampan(
            boat, "kubectl", *data, "wait", "--for=condition=Ready", "pod/say", "--timeout=30s"
        ).returncode
        == 0
    )
    refused = sampan(boat, "kubectl", *data, "exec", "say", "--", "/bin/ls", "--all", "-n")
    assert refused.returncode != 0 and "WebAssembly" in refused.stderr, refused.stderr
    assert "wasm zygote" in sampan(boat, "status", *data).stdout

    down = sampan(boat, "down", *data)
    assert down.returncode == 0 and "stopped" in down.stdout
    nothing_left(boat)
    assert "nothing runs" in sampan(boat, "down", *data).stdout
    idle = sampan(boat, "status", *data)
    assert idle.returncode == 1 and "nothing runs" in idle.stdout

    # What was set stays, and what was there comes back.
    back = sampan(boat, "up", *data, "--kubelet-arg", "shutdown-grace-period=20s")
    assert back.returncode == 0, back.stderr
    assert (
        sampan(
            boat, "kubectl", *data, "wait", "--for=condition=Ready", "pod/say", "--timeout=30s"
        ).returncode
        == 0
    )
    moved = sampan(boat, "up", *data, "--service-cidr", "10.99.0.0/16")
    assert moved.returncode == 1 and "cannot change" in moved.stderr
    graceful_end(boat, data)


def graceful_end(boat: Cluster, data: tuple[str, ...]) -> None:
    """Where the node has a time for its graceful shutdown, `down` lets pods end by themselves; asked again, it does not wait."""
    down = sampan(boat, "down", *data)
    assert down.returncode == 0 and "pods have up to 20 s to end" in down.stdout, down
    nothing_left(boat)
    assert sampan(boat, "up", *data).returncode == 0
    said = boat.get("pod", "say")["status"]
    assert (said["phase"], said["reason"]) == ("Failed", "Terminated")
    assert said["containerStatuses"][0]["state"]["terminated"]

    slow = {
        "terminationGracePeriodSeconds": 60,
        "containers": [
            {
                "name": "main",
                "image": "hello:wasm",
                "lifecycle": {"preStop": {"sleep": {"seconds": 60}}},
            }
        ],
        "runtimeClassName": "wasm",
    }
    boat.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "slow"}, "spec": slow})
    boat.kubectl("wait", "--for=condition=Ready", "pod/slow", "--timeout=30s")
    first = boat.popen(sys.executable, "-m", "sampan", "down", *data, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert "stopping" in first.stdout.readline() and "20 s" in first.stdout.readline()
    wait_for(lambda: "shutting down" in (boat.data / "logs/node.log").read_text(), 10, "its start")
    began = time.monotonic()
    second = sampan(boat, "down", *data)
    assert second.returncode == 0 and first.wait(20) == 0
    assert time.monotonic() - began < 15, "the pod was waited for"
    first.stdout.close()
    nothing_left(boat)


# Mistakes


def test_a_port_in_use_is_an_error_that_names_it(boat: Cluster) -> None:
    port = str(boat.ports[0])
    script = "import socket,sys; s=socket.create_server(('127.0.0.1', int(sys.argv[1]))); print(flush=True); sys.stdin.read()"
    other = boat.popen(
        sys.executable, "-c", script, port, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline()
    try:
        up = sampan(boat, "up", *options(boat))
    finally:
        other.communicate(timeout=10)
    assert up.returncode == 1
    assert f"127.0.0.1:{port}" in up.stderr and "--port" in up.stderr, up.stderr
    assert not any(remains(boat).values())


def test_a_part_that_cannot_start_ends_up_with_its_log(boat: Cluster) -> None:
    store = boat.data / "store" / "state.db"
    store.parent.mkdir(parents=True, mode=0o700)
    store.write_bytes(b"this is no database" * 1000)
    up = sampan(boat, "up", *options(boat))
    assert up.returncode == 1
    assert "server ended" in up.stderr and "giving up" in up.stderr, up.stderr
    assert "server.log" in up.stderr and "not a database" in up.stderr, up.stderr
    nothing_left(boat)


def test_doctor_says_what_works(boat: Cluster) -> None:
    done = sampan(boat, "doctor")
    assert done.returncode == 0, done
    assert re.search(r"^  wasm +works", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  kubectl +works", done.stdout, re.MULTILINE), done.stdout


# The supervisor


def talk(boat: Cluster, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(boat.data / "run" / "supervisor.sock"))
        client.sendall(data)
        return client.makefile("rb").read()


def test_the_supervisor_bears_garbage_signals_and_two_ups_at_once(boat: Cluster) -> None:
    both = [
        boat.popen(
            sys.executable,
            "-m",
            "sampan",
            "up",
            *options(boat),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("already runs" in text for text in said) == 1, said

    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(boat.data / "run" / "supervisor.sock"))
    for garbage in (
        b"\n",
        b"{}\n",
        b"[1]\n",
        b'"x"\n',
        b"\xff\xfe\n",
        b"[" * 5000,
        b'{"op": ["stop"]}\n',
        b"x" * 9000,
    ):
        answer = talk(boat, garbage)
        assert b"error" in answer, (garbage[:20], answer)
    assert b"not known" in talk(boat, b'{"op": "sink"}\n')
    before = boat.status()
    os.kill(before["pid"], signal.SIGHUP)
    after = boat.status()
    assert {n: p["pid"] for n, p in after["parts"].items()} == {
        n: p["pid"] for n, p in before["parts"].items()
    }
    silent.close()

    # A part that somebody runs by hand beside it is refused.
    for part in ("server", "runtime", "node"):
        done = sampan(boat, part, "--data-dir", str(boat.data))
        assert done.returncode == 1 and "already runs" in done.stderr, done

    # SIGTERM is a restart of the service: pods would stay. Here there are none, and nothing else stays either.
    os.kill(before["pid"], signal.SIGTERM)
    wait_for(lambda: not remains(boat)["processes"], 15, "the end of all processes")
    assert not remains(boat)["sockets"]


def test_sigterm_while_starting(boat: Cluster) -> None:
    up = boat.popen(
        sys.executable,
        "-m",
        "sampan",
        "up",
        *options(boat),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    pid_file = boat.data / "run" / "supervisor.pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text(), 20, "the supervisor")
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    _, errors = up.communicate(timeout=30)
    assert up.returncode == 1, errors
    wait_for(lambda: not any(remains(boat).values()), 15, "the end of everything")


def test_up_in_the_foreground_merges_the_kubeconfig_and_ends_with_sigterm(boat: Cluster) -> None:
    theirs = boat.directory / "theirs.yaml"
    theirs.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "work",
        "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me"}}],
        "clusters": [{"name": "work", "cluster": {"server": "https://192.0.2.1"}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
    }))  # fmt: skip
    boat.environment["KUBECONFIG"] = str(theirs)
    command = ("-m", "sampan", "up", "--foreground", "--merge-kubeconfig", *options(boat))
    up = boat.popen(sys.executable, *command, stdout=subprocess.PIPE)
    assert up.stdout is not None
    assert any("Stop it" in line for line in iter(up.stdout.readline, ""))

    merged = yaml.safe_load(theirs.read_text())
    assert [item["name"] for item in merged["contexts"]] == ["work", "sampan"]
    assert merged["current-context"] == "work"
    assert theirs.stat().st_mode & 0o777 == 0o600
    boat.kubectl("--context", "sampan", "get", "nodes")
    assert sampan(boat, "up", *options(boat), "--merge-kubeconfig").returncode == 0
    assert yaml.safe_load(theirs.read_text()) == merged

    up.send_signal(signal.SIGTERM)
    assert up.wait(timeout=20) == 0
    assert not remains(boat)["processes"]


# Two clusters, and parts alone


@pytest.mark.root
@pytest.mark.skipif(not AS_ROOT, reason="two pod networks on one host need root")
def test_two_clusters_share_a_host(boat: Cluster, hello_binaries: Path) -> None:
    other = Cluster()
    other.namespace, other.prefix = boat.namespace, boat.prefix
    other.ports = (free_port(), free_port())
    cidrs = ["--cluster-cidr", "10.52.0.0/16", "--service-cidr", "10.53.0.0/16"]
    try:
        first = sampan(boat, "up", *options(boat), "--node-name", "boat")
        second = sampan(boat, "up", *options(other), *cidrs, "--node-name", "other")
        assert (first.returncode, second.returncode) == (0, 0), (first.stderr, second.stderr)
        for each in (boat, other):
            each.sampan(
                "image",
                "build",
                "-t",
                "hello:wasm",
                "-f",
                str(HELLO / "Dockerfile.wasm"),
                str(HELLO),
            )
            each.kubectl("run", "hello", "--image=hello:wasm", "--port=8080", "--expose",
                         "--overrides", '{"spec":{"runtimeClassName":"wasm"}}')  # fmt: skip
            each.kubectl("wait", "--for=condition=Ready", "pod/hello", "--timeout=30s")
        addresses = [each.get("service", "hello")["spec"]["clusterIP"] for each in (boat, other)]
        assert addresses[0].startswith("10.43.") and addresses[1].startswith("10.53.")
        for each, address in zip((boat, other), addresses, strict=True):
            assert "hello from wasm" in wait_for(
                lambda at=address, of=each: of.http(f"http://{at}:8080/"), 10, address
            )
        other.sampan("down")
        left = remains(other)
        del left["links"]  # those of the first cluster are among them
        assert not any(left.values()), left
        assert "hello from wasm" in boat.http(f"http://{addresses[0]}:8080/")
    finally:
        if (other.data / "config.json").exists():
            other.sampan("down")
        unmount_all(other)
        other.remove()


def test_each_part_alone(boat: Cluster) -> None:
    """As systemd units or containers of their own would run them: no supervisor."""
    port, node_port = boat.ports
    settings = {"port": port, "node_port": node_port, "node_name": "boat"}
    Config.make(boat.data, rootless=boat.rootless, **settings).prepare()
    server = boat.popen(
        sys.executable,
        "-m",
        "sampan",
        "server",
        "--data-dir",
        str(boat.data),
        stderr=subprocess.DEVNULL,
    )
    wait_for((boat.data / "node" / "kubeconfig.yaml").exists, 20, "the node's credentials")
    parts = {
        name: boat.popen(
            sys.executable,
            "-m",
            "sampan",
            name,
            "--data-dir",
            str(boat.data),
            stderr=subprocess.DEVNULL,
        )
        for name in ("runtime", "node")
    }
    parts["server"] = server
    try:
        wait_for(
            lambda: boat.run("kubectl", "get", "node", "boat", check=False).returncode == 0,
            30,
            "the API server",
        )
        boat.kubectl("wait", "--for=condition=Ready", "node/boat", "--timeout=30s")
        assert not (boat.data / "run" / "supervisor.sock").exists()
    finally:
        for process in parts.values():
            process.terminate()
        codes = {name: process.wait(20) for name, process in parts.items()}
    assert codes == dict.fromkeys(parts, 0)
    boat.sampan("down")
    nothing_left(boat)
