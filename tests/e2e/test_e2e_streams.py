"""What flows through kubectl: logs, exec, attach, cp, port-forward; for wasm and for containers."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from box import BOX, image, pod
from cluster import wait_for
from differences import documented
from pieces import running_kinds
from space import Space
from terminal import Terminal


@pytest.fixture(scope="module")
def pods(space: Space) -> Space:
    """For each kind: `lines-KIND` has logged ten lines, `sleep-KIND` waits, `hello-KIND` answers HTTP on 8080."""
    kinds = running_kinds()
    for kind in kinds:
        hello = pod(kind, f"hello-{kind}")
        hello["spec"]["containers"][0] = {
            "name": "box",
            "image": image("hello", kind),
            "env": [{"name": "KIND", "value": kind}],
        }
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"hello-{kind}"},
            "spec": {
                "selector": {"app": f"hello-{kind}"},
                "ports": [{"port": 80, "targetPort": 8080}],
            },
        }
        space.apply(
            pod(kind, f"lines-{kind}", "lines", "10"),
            pod(kind, f"sleep-{kind}", "sleep"),
            hello,
            service,
        )
    for kind in kinds:
        for name in ("lines", "sleep", "hello"):
            space.ready(f"pod/{name}-{kind}")
        space.says(f"lines-{kind}", "line 10\n")
    return space


# Logs


def test_logs_tail_since_and_timestamps(pods: Space, kind: str) -> None:
    name = f"lines-{kind}"
    everything = "".join(f"line {number}\n" for number in range(1, 11))
    assert pods.kubectl("logs", name) == everything
    assert pods.kubectl("logs", name, "--tail=2") == "line 9\nline 10\n"
    assert pods.kubectl("logs", name, "--tail=0") == ""
    assert pods.kubectl("logs", name, "--since=1h") == everything
    assert pods.kubectl("logs", name, "--since-time=2037-01-01T00:00:00Z") == ""
    assert pods.kubectl("logs", name, "--limit-bytes=9") == "line 1\nli"
    stamped = pods.kubectl("logs", name, "--timestamps").splitlines()
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z line \d+", line) for line in stamped
    )
    assert (
        pods.kubectl("logs", "-l", f"app={name}", "--prefix", "--tail=1")
        == f"[pod/{name}/box] line 10\n"
    )


def test_logs_say_what_is_wrong(pods: Space) -> None:
    assert 'pods "nobody" not found' in pods.kubectl_fails("logs", "nobody")
    message = pods.kubectl_fails("logs", "sleep-wasm", "-c", "other")
    assert "container other is not valid for pod sleep-wasm" in message
    message = pods.kubectl_fails("logs", "sleep-wasm", "--previous")
    assert 'previous terminated container "box" in pod "sleep-wasm" not found' in message


def test_logs_follow_until_the_end(pods: Space, kind: str) -> None:
    name = f"ticks-{kind}"
    pods.start(kind, name, "ticks")
    pods.ready(f"pod/{name}")
    following = pods.cluster.popen("kubectl", "-n", pods.name, "logs", "-f", name, stdout=-1)
    assert following.stdout is not None
    assert [following.stdout.readline() for _ in range(3)] == ["tick 1\n", "tick 2\n", "tick 3\n"]
    pods.kubectl("delete", "pod", name, "--wait=false")
    rest, _ = following.communicate(timeout=20)
    assert following.returncode == 0
    # what it said until its end, its answer to SIGTERM included
    assert re.fullmatch(r"(tick \d+\n)*(asked to stop\n)?", rest)


# Exec


def test_exec_output_exit_code_and_stdin(pods: Space, kind: str) -> None:
    name, program = f"sleep-{kind}", BOX[kind]
    assert pods.kubectl("exec", name, "--", program, "echo", "two", "words") == "two words\n"
    done = pods.cluster.run(
        "kubectl", "-n", pods.name, "exec", name, "--", program, "exit", "42", check=False
    )
    assert (done.returncode, done.stdout) == (42, "leaving with 42\n")
    assert "command terminated with exit code 42" in done.stderr
    text = "".join(f"row {number}\n" for number in range(20_000))
    assert pods.kubectl("exec", "-i", name, "--", program, "upper", stdin=text) == text.upper()
    done = pods.cluster.run(
        "kubectl", "-n", pods.name, "exec", name, "--", program, "cat", "/none", check=False
    )
    assert (
        done.returncode == 1
        and "/none: No such file or directory" in done.stderr
        and done.stdout == ""
    )
    assert f"POD={name}" not in pods.kubectl("exec", name, "--", program, "env")
    missing = pods.kubectl_fails("exec", name, "--", "/no/such/program")
    # A container's engine and a wasm pod each say what they looked for.
    assert re.search("no such file|name a .wasm module of its image", missing, re.I), missing


def test_exec_over_spdy(pods: Space, kind: str) -> None:
    """kubectl's older protocol, which other clients still speak."""
    done = pods.cluster.run(
        "env", "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false",
        "kubectl", "-n", pods.name, "exec", "-i", f"sleep-{kind}", "--", BOX[kind], "upper", stdin="spdy",
    )  # fmt: skip
    assert done.stdout == "SPDY"


def test_exec_on_a_terminal(pods: Space, oci_kind: str) -> None:
    name = f"sleep-{oci_kind}"
    command = ("kubectl", "-n", pods.name, "exec", "-it", name, "--", "/bin/sh")
    with Terminal(pods.cluster, *command, rows=31, columns=101) as terminal:
        terminal.until("# ")
        terminal.type("stty size; tty\n")
        terminal.until("31 101")
        terminal.until("/dev/pts/")
        terminal.until("# ")
        terminal.resize(47, 83)

        def resized() -> bool:
            terminal.type("stty size\n")
            terminal.until("stty size")
            return "47 83" in terminal.until("# ")

        wait_for(resized, what="the new size")
        terminal.type("echo asleep; sleep 1000\n")
        terminal.until("asleep\r\n")

        def interrupted() -> str:
            """A shell that has not handed the terminal to its child yet lets ^C pass."""
            terminal.type("\x03")
            return terminal.until("# ", timeout=1)

        wait_for(interrupted, what="a prompt")
        terminal.type("echo interrupted $?\n")
        terminal.until("interrupted 130")
        terminal.type("exit 7\n")
        assert terminal.ended() == 7


def test_exec_on_a_terminal_in_wasm(pods: Space) -> None:
    command = ("kubectl", "-n", pods.name, "exec", "-it", "sleep-wasm", "--", BOX["wasm"], "upper")
    with Terminal(pods.cluster, *command) as terminal:
        terminal.type("ahoy\r")
        terminal.until("ahoy\r\nAHOY\r\n")
        terminal.type("\x04")
        assert terminal.ended() == 0
    with Terminal(pods.cluster, *command[:-1], "spin") as terminal:
        terminal.until("spinning")
        terminal.type("\x03")
        assert terminal.ended() == 130


def test_many_execs_at_once(pods: Space, kind: str) -> None:
    def one(number: int) -> str:
        return pods.kubectl("exec", f"sleep-{kind}", "--", BOX[kind], "echo", str(number))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [f"{number}\n" for number in range(8)]


# Attach


def test_attach_reads_and_writes(pods: Space, kind: str) -> None:
    name = f"attached-{kind}"
    pods.start(kind, name, "upper", stdin=True, stdinOnce=True, spec={"restartPolicy": "Never"})
    pods.ready(f"pod/{name}")
    attached = pods.cluster.popen(
        "kubectl", "-n", pods.name, "attach", "-i", name, stdin=-1, stdout=-1, stderr=-1
    )
    output, errors = attached.communicate("all aboard\n", timeout=30)
    assert attached.returncode == 0, errors
    assert "ALL ABOARD" in output
    pods.phase(name, "Succeeded")
    assert "ALL ABOARD" in pods.kubectl("logs", name)


def test_attach_to_a_terminal(pods: Space, oci_kind: str) -> None:
    name = f"terminal-{oci_kind}"
    made = pod(oci_kind, name, stdin=True, tty=True)
    made["spec"]["containers"][0] |= {"command": ["/bin/sh"]}
    pods.apply(made)
    pods.ready(f"pod/{name}")
    with Terminal(pods.cluster, "kubectl", "-n", pods.name, "attach", "-it", name) as terminal:
        terminal.type("\n")
        terminal.until("# ")
        terminal.type("echo $((6*7))\n")
        terminal.until("42\r\n")


def test_run_interactively_and_remove(pods: Space, oci_kind: str) -> None:
    name = f"once-{oci_kind}"
    overrides = json.dumps({"spec": {"runtimeClassName": oci_kind}})
    output = pods.kubectl(
        "run", name, "--rm", "-i", "--image=box:container", "--restart=Never", f"--overrides={overrides}",
        "--command", "--", "cat", stdin="through a pod\n",
    )  # fmt: skip
    assert "through a pod\n" in output
    assert "NotFound" in pods.kubectl_fails("get", "pod", name)


def test_debug_a_copy(pods: Space, oci_kind: str) -> None:
    copied = f"copied-{oci_kind}"
    pods.kubectl(
        "debug", f"sleep-{oci_kind}", f"--copy-to={copied}", "--image=box:container", "--container=tools",
        "--profile=general", "--", "/bin/sleep", "1000",
    )  # fmt: skip
    pods.ready(f"pod/{copied}")
    assert pods.kubectl("exec", copied, "-c", "tools", "--", "hostname") == f"{copied}\n"
    pods.kubectl("delete", "pod", copied, "--wait=false")


def test_debug_beside_a_container(pods: Space, oci_kind: str) -> None:
    """An ephemeral container that sees the target's processes, and the rest of the pod goes on."""
    name = f"sleep-{oci_kind}"
    before = pods.get("pod", name)["status"]["containerStatuses"]
    target = before[0]["name"]
    pods.kubectl(
        "debug", name, "--image=box:container", f"--target={target}", "--container=beside",
        "--profile=general", "--", "/bin/sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '",
    )  # fmt: skip
    ended = "jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}=0"
    pods.kubectl("wait", f"--for={ended}", "--timeout=30s", f"pod/{name}")
    first = pods.kubectl("exec", name, "--", "cat", "/proc/1/cmdline")
    assert pods.kubectl("logs", name, "-c", "beside") == first.replace("\0", " ")
    after = pods.get("pod", name)["status"]["containerStatuses"]
    assert after[0]["containerID"] == before[0]["containerID"]


@pytest.mark.root
def test_debug_the_node(pods: Space) -> None:
    """A pod in the node's namespaces, with the node's files below /host: by its nature a container."""
    documented("host's namespaces")
    made = pods.kubectl(
        "debug", "node/boat", "--image=box:container", "--profile=general", "--",
        "/bin/sh", "-c", "cat /host/etc/os-release; hostname; cat /proc/1/comm",
    )  # fmt: skip
    found = re.search(r"debugging pod (\S+) with container (\S+) on node boat", made)
    assert found, made
    pods.phase(found[1], "Succeeded")
    files = Path("/etc/os-release").read_text()
    first = Path("/proc/1/comm").read_text()
    assert pods.kubectl("logs", found[1]) == f"{files}{socket.gethostname()}\n{first}"
    pods.kubectl("delete", "pod", found[1], "--wait=false")


# Copy


def test_cp_both_ways(pods: Space, oci_kind: str, tmp_path: Path) -> None:
    name = f"sleep-{oci_kind}"
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "small").write_text("small\n")
    content = hashlib.shake_256(b"cargo").digest(3_000_000)
    (tree / "large").write_bytes(content)
    pods.kubectl("cp", str(tree), f"{name}:/tmp/tree")
    digest = hashlib.sha256(content).hexdigest()
    assert pods.kubectl("exec", name, "--", "sha256sum", "/tmp/tree/large").split()[0] == digest
    pods.kubectl("cp", f"{pods.name}/{name}:/tmp/tree", str(tmp_path / "back"))
    assert (tmp_path / "back" / "large").read_bytes() == content
    assert (tmp_path / "back" / "inner" / "small").read_text() == "small\n"


# Port-forward


@contextmanager
def forwarded(space: Space, target: str, port: int) -> Iterator[int]:
    """The local port of a port-forward that runs."""
    process = space.cluster.popen(
        "kubectl",
        "-n",
        space.name,
        "port-forward",
        target,
        f":{port}",
        stdout=-1,
        stderr=subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)\n", line)
        assert found, line + process.stdout.read()
        yield int(found[1])
    finally:
        process.kill()
        process.communicate()


def test_port_forward_to_a_pod_and_to_a_service(pods: Space, kind: str) -> None:
    name = f"hello-{kind}"
    for target, port in ((f"pod/{name}", 8080), (f"service/{name}", 80)):
        with forwarded(pods, target, port) as local:
            assert pods.cluster.http(f"http://127.0.0.1:{local}/").startswith(f"hello from {kind}")
            with ThreadPoolExecutor(6) as pool:
                answers = list(pool.map(pods.cluster.http, [f"http://127.0.0.1:{local}/"] * 6))
            assert all(answer.startswith(f"hello from {kind}") for answer in answers)


def test_port_forward_outlives_a_refused_connection(pods: Space, kind: str) -> None:
    with forwarded(pods, f"pod/hello-{kind}", 9) as local, pytest.raises(AssertionError):
        pods.cluster.http(f"http://127.0.0.1:{local}/")
    with forwarded(pods, f"pod/hello-{kind}", 8080) as local:
        assert pods.cluster.http(f"http://127.0.0.1:{local}/").startswith("hello")


def test_the_api_server_proxies_to_pods_and_services(pods: Space, kind: str) -> None:
    path = f"/api/v1/namespaces/{pods.name}"
    for target in (f"pods/hello-{kind}:8080", f"services/hello-{kind}:80"):
        answer = pods.cluster.kubectl("get", "--raw", f"{path}/{target}/proxy/")
        assert answer.startswith(f"hello from {kind}"), target
