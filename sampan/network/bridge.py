"""Bridge pod network: a network namespace for each pod, a veth pair, and the bridge `<instance>0` as its gateway.

    pod: eth0 10.42.0.7/24, default via 10.42.0.1 ── veth ── bridge <instance>0 10.42.0.1 ── routed, masqueraded ── outside

What goes from pod to pod is handed to nftables as if it were routed (br_netfilter): else answers of a service's endpoint on the
same bridge would not be translated back, and no NetworkPolicy could hold.

Addresses are kept on disk (addresses.py), all else is in the kernel under names made from the instance and the address, so
any process can find, repeat or undo what another one did. The network may become another while pods run (subnets.py). Masquerading is one nft table `inet <instance>-pods`; which frames
a pod may send is another, `bridge <instance>-ports` (ports.py).

From the first pod on, `SPARES` namespaces are kept that wait for theirs, wired and with an address, which is all that is
handed over; on disk they have owners of their own, which are no sandbox's: after a crash they are collected like those.

One worker thread does the blocking calls, in order: attaching is 1–2 ms, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import ipaddress
import logging
import os
import secrets
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from sampan.network import netns, nftables
from sampan.network.addresses import AddressPool
from sampan.network.errors import NetlinkError, NetworkError, NftError
from sampan.network.pods import Attachment, PodRef
from sampan.network.ports import PortGuard, group_of, hardware_address
from sampan.network.rtnetlink import Netlink, sysctl
from sampan.network.subnets import Subnets, gateway

log = logging.getLogger(__name__)

INTERFACE = "eth0"
DEFAULT_MTU = 1500
SPARES = 2
LATER = 0.005  # s from a pod's attachment to the making of spares: not while that pod starts
SPARE = (
    "spare-"  # what a spare's owner begins with; with as many bytes it is as long as a sandbox's id
)
SPARE_BYTES = 29
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


def index_of(link: str) -> int:
    """0: there is none. By ioctl, which is quicker than a message."""
    try:
        return socket.if_nametoindex(link)
    except OSError:
        return 0


def filter_bridged() -> str:
    """Let frames between ports of a bridge pass the ip and ip6 hooks of nftables. "" or what is missing."""
    names = ("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables")
    if not Path("/proc/sys", names[0]).exists():
        try:
            subprocess.run(
                ["modprobe", "br_netfilter"], capture_output=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log.info("modprobe br_netfilter: %s", error)
    refused = [name for name in names if not sysctl(name, "1")]
    return f"cannot write /proc/sys/{refused[0]}" if refused else ""


class BridgeNetwork:
    name = "bridge"

    def __init__(self, directory: Path, cidr: str, instance: str, *, follow: bool = False) -> None:
        """`follow`: `cidr` holds until another is told (`move`), else whatever was told before."""
        self.instance = instance
        self.bridge = f"{instance}0"
        self._subnets = Subnets(Path(directory) / "bridge-subnets", cidr, follow=follow)
        pool = Path(directory) / "bridge"
        self._pool = AddressPool(pool, str(self.network), self._subnets.gateways)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="pod-network")
        self._guard: PortGuard | None = PortGuard(instance, *self._subnets.merged)
        self._bridge_index = 0
        self._mtu = DEFAULT_MTU
        self._spares: list[str] = []  # owners
        self._attaching = 0  # calls that wait or are at work
        self._refill: asyncio.TimerHandle | None = None

    @property
    def network(self) -> ipaddress.IPv4Network:
        """Of the pods to come."""
        return self._subnets.current

    @property
    def gateway(self) -> str:
        return gateway(self.network)

    async def move(self, cidr: str) -> None:
        """Pods that come are in `cidr`, also after a restart with `follow`. Those that are there stay as they are."""
        await self._run(self._move, ipaddress.IPv4Network(cidr))

    async def attach(self, pod: PodRef) -> Attachment:
        self._attaching += 1
        try:
            address = self._take_spare(pod.sandbox_id)
            if address:
                return self._attachment(address)
            return await self._run(self._attach, pod.sandbox_id)
        finally:
            self._attaching -= 1
            if not self._attaching and len(self._spares) < SPARES and self._refill is None:
                self._refill = asyncio.get_running_loop().call_later(LATER, self._fill)

    async def detach(self, pod: PodRef) -> None:
        await self._run(self._detach, pod.sandbox_id)

    async def existing(self) -> dict[str, Attachment]:
        """Pods whose namespace is there. An address whose namespace is gone (reboot) is not named: attach makes it anew."""
        return {
            owner: self._attachment(address)
            for owner, address in self._pool.owners().items()
            if not owner.startswith(SPARE) and netns.is_namespace(self._path(address))
        }

    async def owners(self) -> list[str]:
        """Sandbox ids with an address on disk, whether or not the namespace is there; spares of a former process too."""
        return sorted(set(self._pool.owners()) - set(self._spares))

    async def close(self) -> None:
        """End the worker. The network itself stays for the pods that run. Idempotent."""
        if self._refill is not None:
            self._refill.cancel()
        with contextlib.suppress(RuntimeError):  # closed before
            self._worker.submit(self._drop_spares)
        self._worker.shutdown(wait=False)

    async def remove(self) -> None:
        """Take down everything of this instance: namespaces, bridge, table, addresses. Idempotent."""
        await self._run(self._remove)

    async def _run(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **_: Arguments.kwargs,
    ) -> Result:
        call = functools.partial(function, *args)
        return await asyncio.get_running_loop().run_in_executor(self._worker, call)

    # Names

    def _namespace(self, address: str) -> str:
        return f"{self.instance}-{hashlib.sha256(address.encode()).hexdigest()[:12]}"

    def _path(self, address: str) -> Path:
        return netns.DIRECTORY / self._namespace(address)

    def _veth(self, address: str) -> str:
        """15 characters are all that the kernel allows; two instances must differ."""
        digest = hashlib.sha256(f"{self.instance}/{address}".encode()).hexdigest()
        return f"veth{digest[:10]}"

    def _attachment(self, address: str) -> Attachment:
        return Attachment(str(self._path(address)), (address,), INTERFACE)

    # Work, in the worker thread

    def _attach(self, sandbox_id: str) -> Attachment:
        with Netlink() as netlink:
            self._ensure_bridge(netlink)
            address = self._pool.take(sandbox_id)
            try:
                try:
                    self._ensure_pod(netlink, address)
                except NetlinkError:  # perhaps the bridge that we remember was removed
                    self._bridge_index = 0
                    self._ensure_bridge(netlink)
                    self._ensure_pod(netlink, address)
            except BaseException:
                self._detach(sandbox_id)
                raise
        return self._attachment(address)

    def _move(self, network: ipaddress.IPv4Network) -> None:
        if network == self.network:
            return
        self._subnets.move(network)
        self._pool.move(str(network), self._subnets.gateways)
        self._drop_spares()
        self._tell_subnets()

    def _tell_subnets(self) -> None:
        """The kernel's rules and the bridge's addresses are those of the networks that there are."""
        gone = self._subnets.retire(self._pool.owners().values())
        if self._guard is not None:
            self._guard = PortGuard(self.instance, *self._subnets.merged)
        if index := index_of(self.bridge):
            with Netlink() as netlink:
                for network in gone:
                    netlink.delete_address(index, gateway(network), network.prefixlen)
                self._bridge_index = 0
                self._ensure_bridge(netlink)

    def _take_spare(self, sandbox_id: str) -> str:
        """The pod's address when it could be given a spare: one that is still wired as it was. Else "".

        It takes 0.1 ms, and is done at once: the worker may be making the next spare, which takes twenty times as long.
        """
        if len(sandbox_id) != len(SPARE) + 2 * SPARE_BYTES or sandbox_id in self._pool.owners():
            return ""
        while self._spares:
            owner = self._spares.pop(0)
            address = self._pool.owners()[owner]
            if index_of(self._veth(address)) and index_of(self.bridge) == self._bridge_index:
                return self._pool.hand_over(owner, sandbox_id)
            self._worker.submit(self._detach, owner)  # somebody has removed the bridge, or a link
        return ""

    def _prepare(self) -> None:
        """Make the spares that are missing, unless a pod waits."""
        try:
            with Netlink() as netlink:
                while len(self._spares) < SPARES and not self._attaching:
                    owner = SPARE + secrets.token_hex(SPARE_BYTES)
                    address = self._pool.take(owner)
                    try:
                        self._ensure_pod(netlink, address)
                    except BaseException:
                        self._detach(owner)
                        raise
                    self._spares.append(owner)
        except (NetworkError, OSError) as error:
            log.info("no network is kept for the next pod: %s", error)

    def _fill(self) -> None:
        self._refill = None
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._worker.submit(self._prepare)

    def _drop_spares(self) -> None:
        while self._spares:
            self._detach(self._spares.pop())

    def _ensure_pod(self, netlink: Netlink, address: str) -> None:
        if self._guard is not None:
            self._guard.admit(address)
        veth, path = self._veth(address), self._path(address)
        link = netlink.link(veth) if netns.is_namespace(path) else None
        if link is not None and netns.in_thread(lambda: self._has_address(path, address)):
            if link.master != self._bridge_index or not link.up:
                netlink.enslave(link.index, self._bridge_index)
            return
        if index_of(
            veth
        ):  # half-made by a process that was killed; asking costs less than a deletion in vain
            netlink.delete_link(veth)
        netns.delete(path.name)
        host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        subnet = self._subnets.of(address)

        def configure() -> None:
            """Inside the new namespace; the pair is made from there, with its other end sent to the host."""
            sysctl("net/ipv6/conf/default/accept_dad", "0")
            sysctl("net/ipv6/conf/default/dad_transmits", "0")
            sysctl("net/ipv4/ip_unprivileged_port_start", "0")
            own, group = hardware_address(address), group_of(address)
            with Netlink() as inside:
                inside.add_veth(INTERFACE, veth, self._mtu, 0, host, address=own, peer_group=group)
                index = inside.index(INTERFACE)
                inside.configure(index, address, subnet.prefixlen, gateway(subnet))

        try:
            netns.create_from_here(path.name, configure)
        finally:
            os.close(host)
        netlink.enslave(netlink.index(veth), self._bridge_index)

    def _has_address(self, path: Path, address: str) -> bool:
        netns.enter(path)
        with Netlink() as netlink:
            return any(found == address for _, found, _ in netlink.addresses())

    def _ensure_bridge(self, netlink: Netlink) -> None:
        if self._bridge_index:
            return
        link = netlink.link(self.bridge)
        route = netlink.default_route()
        if route is not None:
            outside = next(
                (each for each in netlink.links() if each.index == route.interface), None
            )
            self._mtu = outside.mtu if outside is not None and outside.mtu else DEFAULT_MTU
        if link is None:
            # a fixed hardware address: else the bridge takes its lowest port's, and changes it as pods come and go
            digest = hashlib.sha256(self.bridge.encode()).digest()
            try:
                netlink.add_bridge(self.bridge, self._mtu, b"\x02" + digest[:5])
            except NetlinkError as error:
                if error.errno != errno.EEXIST:  # another process was first
                    raise
        index = netlink.index(self.bridge)
        for network in self._subnets.all:
            netlink.add_address(index, gateway(network), network.prefixlen)
        netlink.set_up(index)
        sysctl("net/ipv4/ip_forward", "1")
        sysctl(f"net/ipv4/conf/{self.bridge}/proxy_arp", "1")
        sysctl(f"net/ipv4/conf/{self.bridge}/route_localnet", "1")
        sysctl(f"net/ipv6/conf/{self.bridge}/accept_dad", "0")
        if missing := filter_bridged():
            log.warning(
                "services between pods of this node, and NetworkPolicies, fail: %s", missing
            )
        self._put_tables()
        self._bridge_index = index

    def _put_tables(self) -> None:
        """In one call of nft, which takes longer to start than to work."""
        if self._guard is not None:
            try:
                nftables.run(self._table() + self._guard.script(self._pool.owners().values()))
                return
            except NftError as error:
                self._guard = None
                log.warning("pods can send frames in each other's names: %s", error)
        nftables.run(self._table())

    async def serve_address(self, address: str) -> None:
        """Put an address of the node's own (the cluster DNS) on the bridge, so that pods reach it. Idempotent."""
        await self._run(self._serve_address, address)

    def _serve_address(self, address: str) -> None:
        with Netlink() as netlink:
            self._ensure_bridge(netlink)
            netlink.add_address(self._bridge_index, address, 32)

    def _table(self) -> str:
        """Masquerade what pods send outside; and as route_localnet is on, keep 127/8 unreachable from outside
        the node (CVE-2020-8558).
        """
        table = f"inet {self.instance}-pods"
        pods = ", ".join(map(str, self._subnets.merged))
        return (
            f"table {table}\ndelete table {table}\n"
            f"table {table} {{\n"
            "  chain outside {\n"
            "    type nat hook postrouting priority srcnat; policy accept;\n"
            f"    ip saddr {{ {pods} }} ip daddr != {{ {pods}, 224.0.0.0/4 }} "
            f'oifname != "{self.bridge}" masquerade\n'
            "  }\n"
            "  chain localnet {\n"
            "    type filter hook prerouting priority raw; policy accept;\n"
            f'    iifname "{self.bridge}" ip daddr 127.0.0.0/8 drop\n'
            "  }\n"
            "}\n"
        )

    def _detach(self, sandbox_id: str) -> None:
        """The address is given back last: until then a restart finds the pod and repeats this.

        The kernel takes the pair down with the namespace, many at once and in its own time; deleting a link by request
        would wait 20–40 ms for each.
        """
        address = self._pool.owners().get(sandbox_id)
        if address is not None:
            netns.delete(self._namespace(address))
            self._pool.release(sandbox_id)
            if self._subnets.of(address) != self.network:
                self._tell_subnets()

    def _remove(self) -> None:
        self._spares.clear()
        self._pool.read_again()  # another process, which has ended, may have had spares
        veths = {self._veth(address) for address in self._pool.owners().values()}
        for sandbox_id in self._pool.owners():
            self._detach(sandbox_id)
        netns.delete_all(f"{self.instance}-")
        with Netlink() as netlink:
            bridge = netlink.link(self.bridge)
            for link in netlink.links():
                port = bridge is not None and link.master == bridge.index and link.kind == "veth"
                if port or link.name in veths:
                    netlink.delete_link(link.name)  # a process still holds its namespace
            netlink.delete_link(self.bridge)
        nftables.run(f"table inet {self.instance}-pods\ndelete table inet {self.instance}-pods\n")
        with contextlib.suppress(NftError):  # a kernel without tables of bridges has none of ours
            nftables.run(PortGuard(self.instance).removal())
        self._bridge_index = 0
