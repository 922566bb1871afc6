"""Virtual machines as their users meet them: `sampan vm`, and the same as objects through kubectl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import box
import pytest
import ssh_server
from cluster import AS_ROOT, Cluster, wait_for

pytestmark = pytest.mark.root
IMAGE = "box:container"
BARE_KERNEL = os.environ.get("SAMPAN_TEST_VMLINUX", "")


@pytest.fixture(autouse=True)
def microvms() -> None:
    if not AS_ROOT:
        pytest.skip("needs root")
    if missing := box.missing_for_microvms():
        pytest.skip(missing)


def vm(
    boat: Cluster, *arguments: str, check: bool = True, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    verb, *rest = arguments
    command = [boat.python, "-m", "sampan", "vm", verb, "--data-dir", str(boat.data), *rest]
    return boat.run(*command, check=check, timeout=150, stdin=stdin)


def test_a_machine_s_life(cluster: Cluster) -> None:
    ran = vm(
        cluster, "run", "--name", "life", "-m", "192m", "--publish", "8080", IMAGE, "--", "ticks"
    )
    assert ran.stdout == "life\n"
    assert "created life  1 CPU, 192Mi" in ran.stderr
    assert "Running  10." in ran.stderr
    assert "port 8080  at 10." in ran.stderr

    listed = vm(cluster, "ps").stdout
    assert "NAME" in listed and "life" in listed and "Running" in listed
    table = cluster.kubectl("get", "vm", "life")
    assert table.split("\n")[0].split() == ["NAME", "IMAGE", "CPUS", "MEMORY", "PHASE", "IP", "AGE"]
    assert vm(cluster, "exec", "life", "--", "hostname").stdout == "life\n"
    wait_for(
        lambda: "3" in vm(cluster, "logs", "--tail=20", "life").stdout, what="ticks in the log"
    )
    failed = vm(cluster, "exec", "life", "--", "sh", "-c", "exit 9", check=False)
    assert failed.returncode == 9

    # Its files, kept as an image, are there in a machine of their own.
    vm(cluster, "exec", "life", "--", "sh", "-c", "echo kept >/root/note")
    kept = vm(cluster, "snapshot", "--files", "life", "life:noon")
    assert "life:noon" in kept.stdout
    vm(cluster, "restore", "life:noon", "--name", "again")
    assert vm(cluster, "exec", "again", "--", "cat", "/root/note").stdout == "kept\n"
    found = json.loads(vm(cluster, "inspect", "again").stdout)[0]
    assert found["spec"]["memory"] == "192Mi" and found["spec"]["args"] == ["ticks"]
    vm(cluster, "rm", "--force", "again")

    # A stopped machine stays, without a pod; started anew it has the image's files alone.
    vm(cluster, "stop", "life")
    assert "Stopped" in vm(cluster, "ps").stdout
    assert not cluster.get("pods", "-l", "sampan.dev/virtual-machine=life")["items"]
    refused = vm(cluster, "exec", "life", "--", "true", check=False)
    assert refused.returncode == 1 and "sampan vm start life" in refused.stderr
    vm(cluster, "start", "life")
    assert vm(cluster, "exec", "life", "--", "ls", "/root").stdout == ""

    running = vm(cluster, "rm", "life", check=False)
    assert running.returncode == 1 and "sampan vm stop life" in running.stderr
    vm(cluster, "rm", "--force", "life")
    for kind in ("pods", "services"):
        wait_for(
            lambda kind=kind: (
                not cluster.get(kind, "-l", "sampan.dev/virtual-machine=life")["items"]
            ),
            what=f"{kind} of life gone",
        )


def test_a_machine_goes_on_from_its_snapshot(cluster: Cluster) -> None:
    """Memory, programs and disk of one moment: what is in no file of the image goes on in another machine."""
    options = ("--name", "runs", "-m", "192m", "--size", "32m", "--publish", "8081")
    vm(cluster, "run", *options, IMAGE, "--", "ticks")
    prepare = "echo on disk >/root/note; echo in memory >/dev/shm/note; (sleep 1000 & echo $! >/dev/shm/pid)"
    vm(cluster, "exec", "runs", "--", "sh", "-c", prepare)
    taken = vm(cluster, "snapshot", "runs", "friday")
    assert taken.stdout == "friday\n" and "of runs, which goes on" in taken.stderr
    reached = int(vm(cluster, "logs", "--tail=1", "runs").stdout.split()[1])
    vm(
        cluster,
        "exec",
        "runs",
        "--",
        "sh",
        "-c",
        "echo later >/root/note; kill $(cat /dev/shm/pid)",
    )
    again = vm(cluster, "snapshot", "runs", "friday", check=False)
    assert again.returncode == 1 and "sampan vm snapshots rm friday" in again.stderr
    vm(cluster, "rm", "--force", "runs")
    cluster.sampan("down", timeout=120)
    cluster.start()
    assert "default/runs" in vm(cluster, "snapshots").stdout

    vm(cluster, "restore", "friday", "--name", "goes-on")
    look = "cat /root/note /dev/shm/note; kill -0 $(cat /dev/shm/pid) && echo runs still; hostname"
    found = vm(cluster, "exec", "goes-on", "--", "sh", "-c", look).stdout
    assert found == "on disk\nin memory\nruns still\ngoes-on\n"
    first = vm(cluster, "logs", "goes-on").stdout.split()[1]
    assert 1 < int(first) <= reached + 1, "it counts on"
    machine = json.loads(vm(cluster, "inspect", "goes-on").stdout)[0]
    assert machine["status"]["restoredFrom"] == "friday" and machine["spec"]["size"] == "32Mi"
    # Started anew it is not at that moment again: its disk has gone on.
    vm(cluster, "exec", "goes-on", "--", "sh", "-c", "echo after >/root/note")
    vm(cluster, "stop", "goes-on")
    vm(cluster, "start", "goes-on")
    look = "cat /root/note; ls /dev/shm"
    assert vm(cluster, "exec", "goes-on", "--", "sh", "-c", look).stdout == "after\n"
    vm(cluster, "rm", "--force", "goes-on")
    assert vm(cluster, "snapshots", "rm", "friday").stdout == "friday\n"
    gone = vm(cluster, "restore", "friday", check=False)
    assert gone.returncode == 1 and "sampan vm snapshots" in gone.stderr


def test_a_disk_and_a_directory_of_the_host_stay(cluster: Cluster, tmp_path: Path) -> None:
    options = ("--name", "keeps", "-m", "192m", "--size", "64m", "--volume", f"{tmp_path}:/data")
    vm(cluster, "run", *options, IMAGE, "--", "ticks")
    write = "echo kept >/root/note; echo from the guest >/data/note; df -m / | tail -1"
    room = vm(cluster, "exec", "keeps", "--", "sh", "-c", write).stdout.split()
    assert 40 < int(room[1]) < 64
    assert (tmp_path / "note").read_text() == "from the guest\n"
    vm(cluster, "stop", "keeps")
    (tmp_path / "back").write_text("from the host\n")
    vm(cluster, "start", "keeps")
    read = vm(cluster, "exec", "keeps", "--", "cat", "/root/note", "/data/back").stdout
    assert read == "kept\nfrom the host\n"
    found = json.loads(vm(cluster, "inspect", "keeps").stdout)[0]
    assert found["status"]["phase"] == "Running" and found["spec"]["size"] == "64Mi"
    vm(cluster, "rm", "--force", "keeps")
    wait_for(
        lambda: not cluster.get("pvc", "-l", "sampan.dev/virtual-machine=keeps")["items"],
        what="the disk of keeps gone",
    )


def test_attach_reaches_its_program(cluster: Cluster) -> None:
    vm(cluster, "ps")  # brings the kind, where this test runs alone
    spec = {
        "image": IMAGE, "memory": "192Mi", "stdin": True, "restartPolicy": "Never",
        "command": ["/bin/sh", "-c", "read line; echo got $line; exit 3"],
    }  # fmt: skip
    kind = {"apiVersion": "sampan.dev/v1alpha1", "kind": "VirtualMachine"}
    cluster.apply({**kind, "metadata": {"name": "reads"}, "spec": spec})
    cluster.kubectl("wait", "vm/reads", "--for=jsonpath={.status.phase}=Running", "--timeout=60s", timeout=70)  # fmt: skip
    vm(cluster, "attach", "reads", stdin="ahoy\n", check=False)
    cluster.kubectl("wait", "vm/reads", "--for=jsonpath={.status.exitCode}=3", "--timeout=20s")
    assert vm(cluster, "logs", "reads").stdout == "got ahoy\n"
    vm(cluster, "rm", "--force", "reads")


def test_its_user_logs_in(cluster: Cluster, tmp_path: Path) -> None:
    """OpenSSH in the machine, for the key that its user has, which no image and no manifest brought."""
    if missing := ssh_server.missing():
        pytest.skip(missing)
    context = ssh_server.build(tmp_path)
    cluster.sampan("image", "build", "-t", "login:1", str(context))
    key = cluster.directory / ".ssh" / "id_ed25519"
    key.parent.mkdir(mode=0o700)
    cluster.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    vm(cluster, "run", "--ssh", "--name", "login", "-m", "192m", "login:1", "--", "ticks")
    look = "read line; echo $line to $(hostname) as $(id -un); exit 7"
    said = vm(cluster, "ssh", "login", "--", look, check=False, stdin="welcome\n")
    assert (said.returncode, said.stdout) == (7, "welcome to login as root\n"), said
    # Whoever has another key stays outside.
    key.unlink()
    cluster.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    refused = vm(cluster, "ssh", "login", "--", "true", check=False, stdin="")
    assert refused.returncode == 255 and "Permission denied (publickey" in refused.stderr
    vm(cluster, "rm", "--force", "login")


def test_what_cannot_be_says_what_to_do(cluster: Cluster) -> None:
    for arguments, says in (
        (("run", "--ssh", IMAGE), "no /usr/sbin/sshd"),
        (("run", "--memory", "much", IMAGE), "as in 512m or 2g"),
        (("run", "--kernel", "2.4", IMAGE), "sampan vm kernels"),
        (("run", "--kernel", IMAGE, IMAGE), "no kernel in this image"),
        (("run", "--kernel", "./vmlinux", IMAGE), "there is no such file"),
        (("run", "--volume", "/srv:srv", IMAGE), "/HOST/PATH:/PATH[:ro]"),
        (("ssh", "nobody"), "sampan vm ps"),
        (("restore", IMAGE), "is no snapshot"),
    ):
        refused = vm(cluster, *arguments, check=False)
        assert refused.returncode in (1, 2), refused
        assert says in refused.stderr, refused.stderr
    pulled = vm(cluster, "run", "--name", "nowhere", "127.0.0.1:9/none:1", check=False)
    assert pulled.returncode == 1 and "sampan vm rm nowhere" in pulled.stderr
    vm(cluster, "rm", "nowhere")
    assert "used" in vm(cluster, "kernels").stdout.lower()
    # What only the events of its pod say is said by who waits for it, who does not wait for ever.
    kind = {"apiVersion": "sampan.dev/v1alpha1", "kind": "VirtualMachine"}
    spec = {"image": IMAGE, "kernel": "2.4", "running": False}
    cluster.apply({**kind, "metadata": {"name": "old"}, "spec": spec})
    refused = vm(cluster, "start", "old", check=False)
    why = "there is no guest kernel 2.4 on this node"
    assert f"FailedCreatePodSandBox  Failed to create pod sandbox: microVM: {why}" in refused.stderr
    assert refused.returncode == 1 and f"old does not start: Failed to create pod sandbox: microVM: {why}" in refused.stderr  # fmt: skip
    assert "to have it: sampan vm kernels fetch" in refused.stderr
    vm(cluster, "rm", "old")


def test_init_is_process_one(cluster: Cluster) -> None:
    """An image whose program is an init: it has the process tree of its container for itself."""
    machine = {
        "apiVersion": "sampan.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "init"},
        "spec": {"image": IMAGE, "command": ["/bin/init"], "memory": "192Mi"},
    }
    vm(cluster, "ps")  # brings the kind, where this test runs alone
    cluster.apply(machine)
    cluster.kubectl("wait", "vm/init", "--for=jsonpath={.status.phase}=Running", "--timeout=60s", timeout=70)  # fmt: skip
    first = vm(cluster, "exec", "init", "--", "cat", "/proc/1/cmdline").stdout
    assert first.startswith(("/bin/init", "init"))
    cluster.kubectl("delete", "vm", "init", "--timeout=30s")


@pytest.mark.skipif(
    not BARE_KERNEL,
    reason="SAMPAN_TEST_VMLINUX names no vmlinux with its drivers built in: docs/vm.md",
)
def test_a_kernel_of_one_s_own_without_modules(cluster: Cluster, tmp_path: Path) -> None:
    """As docs/vm.md says how to build one: by its path, out of an image as Ignite's are, for a machine and for a pod."""
    options = ("--name", "bare", "-m", "192m", "--size", "64m", "--volume", f"{tmp_path}:/data")
    vm(cluster, "run", *options, "--kernel", BARE_KERNEL, IMAGE, "--", "ticks")
    kernel = json.loads(vm(cluster, "inspect", "bare").stdout)[0]["spec"]["kernel"]
    assert kernel in vm(cluster, "kernels").stdout
    look = "uname -r; echo kept >/root/note; echo from the guest >/data/note; test -e /proc/modules || echo none"
    release, modules = vm(cluster, "exec", "bare", "--", "sh", "-c", look).stdout.split()
    assert kernel.startswith(f"{release}-") and modules == "none"
    assert (tmp_path / "note").read_text() == "from the guest\n"
    vm(cluster, "stop", "bare")
    assert "Stopped" in vm(cluster, "ps").stdout
    vm(cluster, "start", "bare")
    assert vm(cluster, "exec", "bare", "--", "cat", "/root/note").stdout == "kept\n"
    vm(cluster, "rm", "--force", "bare")

    context = tmp_path / "image"
    (context / "boot").mkdir(parents=True)
    shutil.copy(BARE_KERNEL, context / "boot" / "vmlinux")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY boot /boot\n")
    cluster.sampan("image", "build", "-t", "kernel:own", str(context))
    vm(cluster, "kernels", "rm", kernel)
    assert vm(cluster, "kernels", "fetch", "kernel:own").stdout == f"{kernel}\n"
    vm(cluster, "run", "--name", "imaged", "-m", "192m", "--kernel", "kernel:own", IMAGE, "--", "ticks")  # fmt: skip
    assert vm(cluster, "exec", "imaged", "--", "uname", "-r").stdout == f"{release}\n"
    vm(cluster, "rm", "--force", "imaged")

    annotations = {"sampan.dev/vm-kernel": kernel}
    program = ["/bin/sh", "-c", "uname -r"]
    spec = {"restartPolicy": "Never"}
    cluster.apply(
        box.pod(
            "microvm", "bare", command=program, spec=spec, metadata={"annotations": annotations}
        )
    )
    cluster.kubectl("wait", "pod/bare", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=90s", timeout=100)  # fmt: skip
    assert cluster.kubectl("logs", "bare") == f"{release}\n"
    cluster.kubectl("delete", "pod", "bare")
