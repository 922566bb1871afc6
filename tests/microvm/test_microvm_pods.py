"""Pods in machines of their own, over CRI: life, streams, limits, isolation, restarts of the runtime."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import jails
import pytest
from micropods import KIND, Sink, machine_of, run, sandbox_of, until, vmm_of
from runtime_fixture import Runtime

from sampan.cri.errors import CRIError
from sampan.cri.streams import Streams
from sampan.runtime.microvm.kind import MicroVMKind
from sampan.runtime.microvm.session import Execution
from sampan.runtime.sandbox import ExecRequest

pytestmark = pytest.mark.root


async def test_an_image_is_in_its_drive_before_its_container_is_started(
    runtime: Runtime, home: Path
) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(pod, "echo", "here", start=False)
    await until(lambda: len(sandbox_of(home, pod)["slots"]) == 1, "the image in its drive")
    await runtime.client.start_container(container_id=container)
    await runtime.ended(container)
    assert await runtime.log(container) == "here"
    assert len(sandbox_of(home, pod)["slots"]) == 1


async def test_a_pod_runs_in_a_kernel_of_its_own(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND, hostname="quay")
    status, text = await run(
        runtime, pod, "uname -r; hostname; cat /etc/hostname; id -u; echo oops >&2; exit 3"
    )
    assert (status.exit_code, status.reason) == (3, "Error")
    lines = text.splitlines()
    assert lines[0] != os.uname().release
    assert lines[1:4] == ["quay", "quay", "0"]
    assert "oops" in lines
    status, text = await run(runtime, pod, "echo second; echo without an end | tr -d '\\n'")
    assert status.reason == "Completed" and text == "second\nwithout an end"


async def test_what_cannot_be_executed_is_said(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    with pytest.raises(CRIError, match=r'exec: "no-such": executable file not found in \$PATH'):
        await runtime.container(pod, "no-such")
    with pytest.raises(CRIError, match=r'exec: "/etc": permission denied'):
        await runtime.container(pod, "/etc")
    with pytest.raises(CRIError, match="unable to find user nobody-here"):
        await runtime.container(
            pod, "true", linux={"security_context": {"run_as_username": "nobody-here"}}
        )


async def test_signals_and_the_memory_limit(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    status, _ = await run(runtime, pod, "kill -TERM $$")
    assert status.exit_code == 0, "process 1 of a namespace ignores what it does not handle"
    waiting = await runtime.container(
        pod, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo set; while :; do sleep 0.1; done"
    )
    await until(lambda: b"set" in log_of(runtime, waiting), "it handles the signal")
    await runtime.client.stop_container(container_id=waiting, timeout=15)
    status = await runtime.status(waiting)
    assert status.exit_code == 5 and await runtime.log(waiting) == "set\nbye"
    status, _ = await run(
        runtime, pod, "head -c 64m /dev/zero | tail -c 64m >/dev/null",
        linux={"resources": {"memory_limit_in_bytes": 16 << 20}},
    )  # fmt: skip
    assert status.reason == "OOMKilled" or status.exit_code == 137


async def test_security_settings(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    context = {
        "run_as_user": {"value": 1000}, "run_as_group": {"value": 2000}, "supplemental_groups": [3000],
        "seccomp": {"profile_type": "RuntimeDefault"},
        "readonly_rootfs": True, "no_new_privs": True, "capabilities": {"drop_capabilities": ["ALL"]},
    }  # fmt: skip
    _, text = await run(
        runtime, pod,
        "id -u; id -g; id -G; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ulimit -u; touch /here 2>&1; grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status",
        linux={"security_context": context},
    )  # fmt: skip
    assert text.splitlines()[:5] == ["1000", "2000", "2000 3000", "0", "unlimited"]
    assert "Read-only file system" in text
    assert (
        "CapBnd:\t0000000000000000" in text and "NoNewPrivs:\t1" in text and "Seccomp:\t2" in text
    )
    _, text = await run(
        runtime,
        pod,
        "mount -t tmpfs x /tmp 2>&1; cat /proc/kcore | head -c 1; echo 1 2>&1 >/proc/sys/kernel/panic",
    )
    assert "mount: permission denied" in text and "Read-only" in text


async def test_processes_of_a_pod_can_be_shared(runtime: Runtime) -> None:
    shared = {"linux": {"security_context": {"namespace_options": {"pid": 0}}}}
    pod = await runtime.pod(KIND, **shared)
    first = await runtime.container(pod, "sleep", "1234", **shared)
    answer = await runtime.exec(first, "ps")
    assert b"1234" in answer.stdout
    second = await runtime.container(pod, "sleep", "4321", **shared)
    answer = await runtime.exec(second, "ps")
    assert b"1234" in answer.stdout and b"4321" in answer.stdout


# Streams


async def test_exec_its_output_exit_code_and_input(runtime: Runtime, home: Path) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(
        pod, "sleep", "1000", envs=[{"key": "SHIP", "value": "junk"}]
    )
    answer = await runtime.exec(container, "sh", "-c", "echo $SHIP; echo no >&2; exit 7")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"junk\n", b"no\n", 7)
    answer = await runtime.exec(container, "no-such")
    assert answer.exit_code == 127 and b"not found" in answer.stderr
    with pytest.raises(CRIError, match="timed out"):
        await runtime.exec(container, "sleep", "30", timeout=1)
    sandbox = find(runtime, pod)
    much = os.urandom(1 << 20)
    stdin, out = asyncio.StreamReader(), Sink()
    stdin.feed_data(much)
    stdin.feed_eof()
    code = await sandbox.exec(container, ExecRequest(("cat",)), Streams(stdin=stdin, stdout=out))
    assert code == 0 and bytes(out.data) == much, (
        "a megabyte in and out, and the end of input arrives"
    )


async def test_a_slow_client_hears_all_that_an_ended_process_wrote(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes; the time that is set is for children that it leaves behind."""
    monkeypatch.setattr("sampan.runtime.microvm.session.DRAIN", 0.0)
    ended, listening = asyncio.Event(), Execution.exited

    def exited(self: Execution, code: int, oom: bool, finished_at: int) -> None:
        listening(self, code, oom, finished_at)
        ended.set()

    monkeypatch.setattr(Execution, "exited", exited)

    class Slow(Sink):
        async def drain(self) -> None:
            await ended.wait()
            await asyncio.sleep(0)

    pod = await runtime.pod(KIND)
    container = await runtime.container(pod, "sleep", "1000")
    out = Slow()
    request = ExecRequest(("sh", "-c", "sleep 1000 & seq 1 10000; exit 6"))
    code = await find(runtime, pod).exec(container, request, Streams(stdout=out))
    assert code == 6 and out.data.split() == [b"%d" % number for number in range(1, 10_001)]


async def test_a_terminal(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(pod, "sleep", "1000")
    sandbox = find(runtime, pod)
    stdin, out = asyncio.StreamReader(), Sink()
    sizes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    wait = 'until [ "$(stty size)" = "43 132" ]; do sleep 0.1; done'
    script = f"tty; echo ready; {wait}; stty size; read line; echo got $line; exit 4"
    running = asyncio.create_task(
        sandbox.exec(
            container, ExecRequest(("sh", "-c", script), tty=True),
            Streams(stdin=stdin, stdout=out, resize=sizes),
        )
    )  # fmt: skip
    await out.until(b"ready")
    sizes.put_nowait((132, 43))
    await out.until(b"43 132")
    stdin.feed_data(b"rope\n")
    assert await running == 4
    assert b"/dev/pts/" in out.data and b"got rope" in out.data


async def test_attach_and_standard_input(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(
        pod, "sh", "-c", "while read x; do echo you said $x; done", stdin=True, stdin_once=True
    )
    process = await find(runtime, pod).process(container)
    assert process is not None
    stdin, out = asyncio.StreamReader(), Sink()
    attached = asyncio.create_task(process.attach(Streams(stdin=stdin, stdout=out)))
    stdin.feed_data(b"ahoy\n")
    await out.until(b"you said ahoy\n")
    stdin.feed_eof()
    await attached
    assert (await runtime.ended(container)).exit_code == 0


async def test_a_port_of_the_guest(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(pod, "sh", "-c", "echo listening; nc -l -p 8080 -e cat")
    await until(lambda: b"listening" in log_of(runtime, container), "it listens")
    sandbox = find(runtime, pod)
    for _ in range(100):
        with contextlib.suppress(Exception):
            reader, writer = await sandbox.port(8080)
            break
        await asyncio.sleep(0.02)
    sent = os.urandom(300_000)
    writer.write(sent)
    writer.write_eof()
    assert await reader.read(-1) == sent
    writer.close()
    with pytest.raises(Exception, match="Connection refused"):
        await sandbox.port(8081)


def find(runtime: Runtime, pod: str) -> Any:
    """The sandbox, inside the runtime of this test."""
    for task in asyncio.all_tasks():
        frame = task.get_coro().cr_frame  # type: ignore[union-attr]
        if frame is not None and (service := frame.f_locals.get("service")) is not None:
            return service.inventory.sandboxes[pod].sandbox
    raise AssertionError("there is no runtime")


def log_of(runtime: Runtime, container: str) -> bytes:
    return b"".join(path.read_bytes() for path in (runtime.base / "logs").rglob("*.log"))


# Clones


async def test_two_clones_are_two_machines(runtime: Runtime) -> None:
    script = "head -c 32 /dev/urandom | md5sum; cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid"
    seen: list[str] = []
    clocks = []
    for _ in range(2):
        pod = await runtime.pod(KIND)
        _, text = await run(
            runtime,
            pod,
            f"{script}; cut -d. -f1 /proc/uptime >/dev/null; awk 'BEGIN{{srand();print srand()}}'",
        )
        *words, clock = text.split()
        seen += [word for word in words if word != "-"]
        clocks.append(int(clock))
    assert len(seen) == len(set(seen)) == 6, "the same random bytes in two clones"
    import time

    assert all(abs(clock - time.time()) < 30 for clock in clocks)


# The runtime restarts


async def test_a_restarted_runtime_finds_everything_again(runtime: Runtime, home: Path) -> None:
    pod = await runtime.pod(KIND)
    script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"
    talks = await runtime.container(pod, "sh", "-c", script)
    ends = await runtime.container(pod, "sh", "-c", "sleep 0.7; echo last words; exit 9")
    await until(lambda: b"line 5\n" in log_of(runtime, talks), "it talks")
    before = vmm_of(home, pod)
    heard = len((await runtime.log(talks)).splitlines())
    await runtime.stop()
    await asyncio.sleep(1)  # what is tested: time passes while nobody listens
    await runtime.start()
    assert vmm_of(home, pod) == before
    status = await runtime.ended(ends)
    assert status.exit_code == 9 and await runtime.log(ends) == "last words"
    answer = await runtime.exec(talks, "echo", "still here")
    assert answer.stdout == b"still here\n"
    await runtime.client.stop_container(container_id=talks, timeout=0)
    lines = (await runtime.log(talks)).splitlines()
    assert len(lines) > heard, "what it said meanwhile"
    assert lines == [f"line {number}" for number in range(len(lines))]


# Isolation


async def test_the_vmm_is_nobody_and_sees_nothing(runtime: Runtime, home: Path) -> None:
    """One started from the template's files, as far as nothing stands to be copied yet: see test_microvm_live."""
    pod, other = await runtime.pod(KIND), await runtime.pod(KIND)
    vmm = vmm_of(home, pod)
    uid = jails.check(vmm)
    assert uid != jails.check(vmm_of(home, other))
    assert jails.writable_files(vmm) <= {str(machine_of(home, pod) / "vmm.log")}
    assert jails.escapes(vmm, uid, [home, runtime.config.socket]) == []


async def test_a_container_does_not_reach_the_agents_channel(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    _, text = await run(
        runtime, pod,
        "ls /dev; set -- $(sed 's/:/ /' /sys/class/virtio-ports/vport*/dev); mknod /tmp/port c $1 $2 && echo made;"
        "mknod /dev/port c $1 $2; cat /tmp/port 2>&1; cat /dev/port 2>&1; echo x 2>&1 >/dev/port",
    )  # fmt: skip
    assert "made" in text, "mknod itself is allowed, as in any container"
    assert "vport" not in text.replace("/sys/class", "")
    assert text.count("Permission denied") == 3


async def test_root_of_a_guest_reaches_no_more_than_his_guest(runtime: Runtime, home: Path) -> None:
    """Privileged, he has the guest's devices: the agent's port is taken, and the image's drive is everybody's."""
    pod = await runtime.pod(KIND)
    drives = {path: path.read_bytes() for path in (home / "state/microvm/images").glob("*.erofs")}
    _, text = await run(
        runtime, pod,
        "for p in /dev/vport*p1; do cat $p; (echo x >$p); done 2>&1; busybox blockdev --setrw /dev/vda 2>&1; "
        "dd if=/dev/zero of=/dev/vda bs=4096 count=1 2>&1; sync; head -c 16 /dev/vda | wc -c",
        linux={"security_context": {"privileged": True}},
    )  # fmt: skip
    assert text.count("busy") == 2 and text.splitlines()[-1] == "16", text
    assert "not permitted" in text or "Read-only" in text or "I/O error" in text, text
    assert {path: path.read_bytes() for path in drives} == drives
    answer = await runtime.exec(await runtime.container(pod, "sleep", "1000"), "echo", "well")
    assert answer.stdout == b"well\n"


async def test_a_flood_of_output_is_slowed_and_whole(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    status, text = await run(runtime, pod, "seq 1 60000; seq 1 1000 >&2")
    assert status.exit_code == 0
    lines = text.splitlines()
    assert len(lines) == 61_000
    assert [line for line in lines if int(line) > 1000] == [str(n) for n in range(1001, 60_001)]


async def test_what_a_microvm_cannot_have_is_refused_with_a_reason(
    runtime: Runtime, home: Path
) -> None:
    with pytest.raises(CRIError, match="hostNetwork: a microVM has a kernel of its own"):
        await runtime.pod(KIND, linux={"security_context": {"namespace_options": {"network": 2}}})
    pod = await runtime.pod(KIND)
    with pytest.raises(CRIError, match="is a device or socket of the host"):
        await runtime.container(
            pod, "true", mounts=[{"host_path": "/dev/null", "container_path": "/x"}]
        )
    with pytest.raises(CRIError, match="block devices of the host, and no others"):
        await runtime.container(
            pod, "true", devices=[{"host_path": "/dev/null", "container_path": "/dev/x"}]
        )


async def test_limits_change_and_figures_are_told(runtime: Runtime) -> None:
    pod = await runtime.pod(KIND)
    container = await runtime.container(pod, "sleep", "1000")
    await runtime.client.update_container_resources(
        container_id=container,
        linux={"memory_limit_in_bytes": 32 << 20, "cpu_quota": 20_000, "cpu_period": 100_000},
    )
    answer = await runtime.exec(
        container, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"
    )
    assert answer.stdout.split() == [str(32 << 20).encode(), b"20000", b"100000"]
    with pytest.raises(CRIError, match="cannot grow while it runs"):
        await runtime.client.update_container_resources(
            container_id=container, linux={"memory_limit_in_bytes": 8 << 30}
        )
    (figures,) = (await runtime.client.list_container_stats()).stats
    assert (
        figures.memory.working_set_bytes.value > 0 and figures.cpu.usage_core_nano_seconds.value > 0
    )
    whole = (await runtime.client.pod_sandbox_stats(pod_sandbox_id=pod)).stats
    assert whole.linux.memory.usage_bytes.value > figures.memory.usage_bytes.value


async def test_the_probe_boots_a_guest(home: Path) -> None:
    kind = MicroVMKind(home / "state" / "microvm", home / "run" / "microvm", "sptest")
    try:
        support = await kind.probe()
    finally:
        await kind.close()
    assert support.usable and "boots in" in support.detail, support
