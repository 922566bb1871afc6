"""What of pod networking works here, found by doing it once in a network namespace of its own; nothing is left behind.

`probe()` answers by name; the fields are those of the runtime's `Support`, so that `sampan doctor` prints both alike.
"""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace

from sampan.network import netns, nftables
from sampan.network.bridge import filter_bridged
from sampan.network.errors import NetworkError
from sampan.network.ports import PortGuard
from sampan.network.rtnetlink import Netlink


@dataclass(frozen=True, slots=True)
class Answer:
    usable: bool
    detail: str = ""  # what was found
    why: str = ""  # what failed
    install: str = ""  # the command that mends it


def probe() -> dict[str, Answer]:
    """Blocks for some 20 ms."""
    answers = {"network loopback": _loopback(), "network namespaces": _namespaces()}
    if answers["network namespaces"].usable:
        answers["network bridge"] = _inside(_bridge, "a bridge with a veth pair", "")
        answers["network nftables"] = _nftables()
        answers["network policies"] = _policies(answers["network nftables"])
        answers["network ports"] = _ports(answers["network nftables"])
    else:
        missing = "needs network namespaces"
        answers["network bridge"] = Answer(False, why=missing, install="run as root")
        answers["network nftables"] = Answer(False, why=missing, install="run as root")
        answers["network policies"] = Answer(
            False,
            why="pods without namespaces share the host's network: NetworkPolicies are kept, not enforced",
            install="run as root",
        )
    return answers


def _loopback() -> Answer:
    try:
        with socket.socket() as listener:
            listener.bind(("127.42.0.1", 0))
            listener.listen()
            with socket.create_connection(listener.getsockname(), 1):
                return Answer(True, detail="each pod its own address of 127.42.0.0/16")
    except OSError as error:
        return Answer(False, why=f"127.42.0.1: {error}", install="ip link set lo up")


def _in_namespace(function: Callable[[], None]) -> None:
    def run() -> None:
        netns.unshare()
        function()

    netns.in_thread(run)


def _namespaces() -> Answer:
    try:
        _in_namespace(lambda: None)
    except (NetworkError, OSError) as error:
        return Answer(False, why=str(error), install="run as root")
    return Answer(True, detail="unshare and setns")


def _inside(function: Callable[[], None], detail: str, install: str) -> Answer:
    try:
        _in_namespace(function)
    except (NetworkError, OSError) as error:
        return Answer(False, why=str(error), install=install)
    return Answer(True, detail=detail)


def _bridge() -> None:
    with Netlink() as netlink:
        netlink.add_bridge("probe0", 1500, b"\x02\0\0\0\0\1")
        master = netlink.index("probe0")
        netlink.add_veth("probe1", "probe2", 1500, master)
        netlink.set_hairpin(netlink.index("probe1"))
        netlink.add_address(master, "10.255.255.1", 24)


def _policies(nft: Answer) -> Answer:
    if not nft.usable:
        return Answer(False, why="needs nftables", install=nft.install)

    def bridged() -> None:
        if missing := filter_bridged():
            raise NetworkError(missing)
        nftables.run(_POLICIES)

    return _inside(bridged, "enforced in nftables", "modprobe br_netfilter")


def _ports(nft: Answer) -> Answer:
    if not nft.usable:
        return Answer(False, why="needs nftables", install=nft.install)
    guard = PortGuard("probe", ipaddress.IPv4Network("10.255.255.0/24"))
    done = _inside(
        lambda: nftables.run(guard.script(())),
        "a pod sends with its own addresses only",
        "modprobe nf_tables_bridge, of a kernel with CONFIG_NF_TABLES_BRIDGE",
    )
    if done.usable:
        return done
    return replace(done, why=f"pods can send frames in each other's names: {done.why}")


_SCRIPT = """\
add table inet probe
add map inet probe m { type ipv4_addr . inet_proto . inet_service : verdict; }
add set inet probe s { type ipv4_addr; flags dynamic,timeout; timeout 10s; }
add chain inet probe c
add chain inet probe nat { type nat hook prerouting priority dstnat; }
add chain inet probe out { type nat hook postrouting priority srcnat; }
add rule inet probe c meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 80 }
add rule inet probe nat ip daddr . meta l4proto . th dport vmap @m
add rule inet probe nat fib daddr type local update @s { ip saddr }
add rule inet probe out masquerade fully-random
"""

_POLICIES = """\
add table inet probe
add set inet probe n { type ipv4_addr; flags interval; }
add chain inet probe c { type filter hook forward priority -10; }
add rule inet probe c ct state established,related accept
add rule inet probe c ip saddr @n tcp dport { 80, 8000-8100 } accept
add rule inet probe c meta l4proto tcp reject with tcp reset
add rule inet probe c reject with icmpx admin-prohibited
"""


def _nftables() -> Answer:
    if shutil.which(nftables.NFT) is None:
        return Answer(False, why="nft is not on the PATH", install="apt-get install nftables")
    version = subprocess.run(
        [nftables.NFT, "--version"], capture_output=True, text=True, check=False, timeout=10
    ).stdout.strip()
    return _inside(
        lambda: nftables.run(_SCRIPT), version, "modprobe nf_tables nft_chain_nat nft_masq"
    )
