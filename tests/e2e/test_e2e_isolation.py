"""What a pod with every capability tries against its neighbours and its node, on the product's own bridge; nothing comes of it.

And guests that flood, panic or fill themselves up: the pod shows it, the others and the node do not notice.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from box import image, pod
from cluster import wait_for
from conftest import skip_unless_it_runs
from remains import private_memory
from space import Space

pytestmark = pytest.mark.root
EVERYTHING = {"securityContext": {"privileged": True}}
SETTLING = 32 << 10  # KiB that a part may grow by, of caches and buffers, while it is flooded
FLOODED = 24 << 20  # bytes of log: more than two files of it


def shell(kind: str, name: str, script: str, **fields: Any) -> dict[str, Any]:
    made = pod(kind, name, command=["/bin/sh", "-c", script], **fields)
    del made["spec"]["containers"][0]["args"]
    return made


@pytest.fixture(scope="module")
def victim(space: Space) -> str:
    """The address of a pod that answers HTTP on 8080."""
    made = pod("wasm", "victim")
    made["spec"]["containers"][0] = {"name": "box", "image": image("hello", "wasm")}
    space.apply(made)
    space.ready("pod/victim")
    return str(space.get("pod", "victim")["status"]["podIP"])


@pytest.fixture
def attacker(space: Space, oci_kind: str) -> Iterator[str]:
    name = f"attacker-{oci_kind}"
    space.apply(shell(oci_kind, name, "exec sleep 1000", **EVERYTHING))
    space.ready(f"pod/{name}")
    yield name
    space.kubectl("delete", "pod", name, "--grace-period=1", "--wait=false")


def inside(space: Space, name: str, script: str) -> str:
    return space.kubectl("exec", name, "--", "/bin/sh", "-c", f"({script}) 2>&1 || true")


def answers(space: Space, address: str) -> bool:
    return space.cluster.http(f"http://{address}:8080/").startswith("hello from wasm")


def test_a_pod_cannot_be_its_neighbour(space: Space, victim: str, attacker: str) -> None:
    """By its address in ARP, by its hardware address, by its address alone: the node goes on finding the right one."""
    assert answers(space, victim)
    known = card_of(space, victim)
    gateway = inside(space, attacker, "ip route | awk '/^default/ {print $3}'").strip()
    reach = f"ping -c 1 -W 2 {gateway} >/dev/null && echo reached"
    assert "reached" in inside(space, attacker, reach), "else the rest says nothing"

    inside(space, attacker, f"ip addr add {victim}/32 dev eth0; arping -U -c 1 -I eth0 {victim}; arping -A -c 1 -I eth0 {victim}")  # fmt: skip
    assert card_of(space, victim) == known and answers(space, victim)
    stolen = f"ping -c 1 -W 1 -I {victim} {gateway} >/dev/null && echo reached"
    assert "reached" not in inside(space, attacker, stolen)
    inside(space, attacker, f"ip addr del {victim}/32 dev eth0; ip addr add {gateway}/32 dev eth0; arping -U -c 1 -I eth0 {gateway}; ip addr del {gateway}/32 dev eth0")  # fmt: skip
    assert answers(space, victim)

    become = f"ip link set eth0 down; ip link set eth0 address {known}; ip link set eth0 up; ip route add default via {gateway}"
    inside(space, attacker, become)
    assert known in inside(space, attacker, "cat /sys/class/net/eth0/address")
    assert "reached" not in inside(space, attacker, reach), "frames in another's name go nowhere"
    assert answers(space, victim) and card_of(space, victim) == known


def card_of(space: Space, address: str) -> str:
    """Where the node sends what is for an address."""
    return space.cluster.run("ip", "neigh", "show", address).stdout.partition("lladdr ")[2].split()[0]  # fmt: skip


def test_the_hosts_loopback_is_out_of_reach(space: Space, attacker: str) -> None:
    """Not by the gateway's address, and not by frames for 127.0.0.1, which a pod's own kernel can be made to send."""

    def listen() -> socket.socket:
        return socket.create_server(("127.0.0.1", 0))

    with space.cluster.inside(listen) as listener:
        listener.settimeout(0.1)
        port = listener.getsockname()[1]
        with space.cluster.inside(lambda: socket.create_connection(("127.0.0.1", port), 5)):
            listener.accept()[0].close()
        gateway = inside(space, attacker, "ip route | awk '/^default/ {print $3}'").strip()
        inside(space, attacker, f"nc -w 1 {gateway} {port} </dev/null")
        inside(
            space, attacker,
            "mount -o remount,rw /proc/sys; echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; "
            "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local; "
            f"ip route add 127.0.0.0/8 via {gateway}; nc -w 1 127.0.0.1 {port} </dev/null",
        )  # fmt: skip
        assert "via" in inside(space, attacker, "ip route get 127.0.0.1"), "it does leave the pod"
        with pytest.raises(TimeoutError):
            listener.accept()


def test_floods_stay_where_they_are(space: Space, victim: str, oci_kind: str) -> None:
    """Of the log, of the network and, in a machine, of the kernel's console: memory is bounded, others answer, it can be ended."""
    parts = {part: state["pid"] for part, state in space.cluster.status()["parts"].items()}
    before = {part: private_memory(pid) for part, pid in parts.items()}
    name = f"flood-{oci_kind}"
    console = "while :; do echo noise; done >/dev/kmsg &" if oci_kind == "microvm" else ""
    script = (
        f"{console} nc -u {victim} 9 </dev/zero & ping -f {victim} >/dev/null 2>&1 & exec yes flood"
    )
    space.apply(shell(oci_kind, name, script, **EVERYTHING))
    space.ready(f"pod/{name}")
    logs = space.cluster.data / "logs" / "pods"
    told = 0

    def written() -> bool:
        nonlocal told
        files = logs.glob(f"{space.name}_{name}_*/box/*")
        told = max(told, sum(path.stat().st_size for path in files if path.exists()))
        return told > FLOODED or bool(list(logs.glob(f"{space.name}_{name}_*/box/*.2*")))

    wait_for(written, 60, "a log that was rotated")
    assert answers(space, victim)
    # A file that was begun anew just now has no line yet.
    wait_for(lambda: space.kubectl("logs", name, "--tail=1").startswith("flood\n"), 30, "a tail")
    grown = {part: private_memory(pid) - before[part] for part, pid in parts.items()}
    assert max(grown.values()) < SETTLING, f"KiB: {grown}"
    space.kubectl("delete", "pod", name, "--grace-period=1")
    assert {part: state["pid"] for part, state in space.cluster.status()["parts"].items()} == parts
    ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    assert space.cluster.kubectl("get", "node", "boat", "-o", ready) == "True"


def test_a_guest_that_panics_or_fills_itself_up(space: Space, victim: str) -> None:
    """The pod says why it failed; the next one of the same set comes up as if nothing had been."""
    skip_unless_it_runs("microvm")
    never = {"restartPolicy": "Never"}
    full = "exec dd if=/dev/zero of=/full bs=1M"  # its writable layer is the machine's memory
    limited = {"resources": {"limits": {"memory": "32Mi"}}}
    space.apply(
        shell("microvm", "panics", "echo c >/proc/sysrq-trigger", spec=never, **EVERYTHING),
        shell("microvm", "fills-disk", full, spec=never, **limited),
    )
    space.phase("panics", "Failed")
    ended = space.container_status("panics")["state"]["terminated"]
    assert ended["exitCode"] == 137 and "Kernel panic" in ended["message"], ended
    space.phase("fills-disk", "Failed")
    ended = space.container_status("fills-disk")["state"]["terminated"]
    assert ended["reason"] == "OOMKilled" and ended["exitCode"], ended
    assert answers(space, victim)


def test_a_machine_that_is_killed_is_made_anew(space: Space) -> None:
    """Its pod keeps its name, and gets another machine at once; nobody else ends."""
    skip_unless_it_runs("microvm")
    space.apply(shell("microvm", "phoenix", "exec sleep 1000", **EVERYTHING))
    space.ready("pod/phoenix")
    crash = ("exec", "phoenix", "--", "/bin/sh", "-c", "echo c >/proc/sysrq-trigger")
    with pytest.raises((AssertionError, subprocess.TimeoutExpired)):
        space.kubectl(*crash, timeout=20)
    wait_for(lambda: space.container_status("phoenix")["restartCount"] == 1, 30, "a restart")
    space.ready("pod/phoenix")
    last = space.container_status("phoenix")["lastState"]["terminated"]
    assert last["exitCode"] == 137 and "Kernel panic" in last["message"], last
    assert "sleep" in space.kubectl("exec", "phoenix", "--", "cat", "/proc/1/cmdline")
    space.kubectl("delete", "pod", "phoenix", "--grace-period=1", "--wait=false")
