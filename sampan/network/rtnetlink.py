"""Links, addresses and routes over raw rtnetlink (man 7 rtnetlink), a few system calls each.

pyroute2 does all this and costs 27 MB and 10 ms per pod; this is the part that pods need. A `Netlink` belongs to the network
namespace of the thread that made it. Requests are answered by the kernel at once, so blocking calls are used.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from sampan.network.errors import NetlinkError
from sampan.network.netlink import (
    NLA_F_NESTED,
    NLM_F_DUMP,
    NetlinkSocket,
    attribute,
    attributes,
)

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/veth.h>
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_NET_NS_FD, IFLA_PROTINFO, IFLA_GROUP = 28, 12, 27
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_BRPORT_MODE = 4  # hairpin
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 4, 5, 7
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_LINK, RTN_UNICAST = 254, 3, 253, 1
IFF_UP = 1
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    up: bool
    mtu: int
    master: int
    kind: str


@dataclass(frozen=True, slots=True)
class Route:
    interface: int
    gateway: str


class Netlink(NetlinkSocket):
    """A socket in the present network namespace. Methods raise NetlinkError with the kernel's errno."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE)

    # Links

    def links(self) -> list[Link]:
        answer = self.request(
            "list links", RTM_GETLINK, NLM_F_DUMP, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        )
        return [self._read_link(body) for _, body in answer]

    def link(self, name: str) -> Link | None:
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name)
        try:
            answer = self.request(f"get link {name}", RTM_GETLINK, 0, body)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return self._read_link(answer[0][1]) if answer else None

    @staticmethod
    def _read_link(body: bytes) -> Link:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        found = attributes(body[16:])
        info = attributes(found.get(IFLA_LINKINFO, b""))
        return Link(
            index,
            found.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(),
            bool(flags & IFF_UP),
            int.from_bytes(found.get(IFLA_MTU, b""), "little"),
            int.from_bytes(found.get(IFLA_MASTER, b""), "little"),
            info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        )

    @staticmethod
    def index(name: str) -> int:
        """By ioctl: a link message is 1.5 KB, of which this is four bytes."""
        try:
            return socket.if_nametoindex(name)
        except OSError as error:
            raise NetlinkError(f"get link {name}", error.errno or errno.ENODEV) from None

    def add_bridge(self, name: str, mtu: int, address: bytes) -> None:
        info = attribute(IFLA_LINKINFO | NLA_F_NESTED, attribute(IFLA_INFO_KIND, b"bridge"))
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP)
        body += attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, mtu)
        body += attribute(IFLA_ADDRESS, address) + info
        self.request(f"add bridge {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)

    def add_veth(
        self,
        name: str,
        peer: str,
        mtu: int,
        master: int,
        peer_namespace: int | None = None,
        *,
        address: bytes = b"",
        peer_group: int = 0,
    ) -> None:
        """`name` here and up (a port of bridge `master`, if not 0); `peer` in the namespace of a descriptor.

        `address` is the hardware address of `name`, else the kernel's choice. Each end has one queue and says so: else the
        kernel makes one for each processor, takes all but one away again, and waits for an RCU grace period to do it.
        """
        queues = attribute(IFLA_NUM_TX_QUEUES, 1) + attribute(IFLA_NUM_RX_QUEUES, 1)
        inner = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        inner += attribute(IFLA_IFNAME, peer) + attribute(IFLA_MTU, mtu)
        inner += attribute(IFLA_GROUP, peer_group) + queues
        if peer_namespace is not None:
            inner += attribute(IFLA_NET_NS_FD, peer_namespace)
        data = attribute(IFLA_INFO_DATA | NLA_F_NESTED, attribute(VETH_INFO_PEER, inner))
        info = attribute(IFLA_LINKINFO | NLA_F_NESTED, attribute(IFLA_INFO_KIND, b"veth") + data)
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, IFF_UP, IFF_UP)
        body += attribute(IFLA_IFNAME, name) + attribute(IFLA_MTU, mtu) + queues
        if address:
            body += attribute(IFLA_ADDRESS, address)
        if master:
            body += attribute(IFLA_MASTER, master)
        self.request(f"add veth {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + info)

    def set_up(self, index: int) -> None:
        self.request(*_up(index))

    def configure(self, index: int, address: str, prefix: int, gateway: str) -> None:
        """A pod's own namespace: loopback and link `index` up, the address on it, the default route over it."""
        links = _up(1), _up(index)  # lo is always the first link
        address_and_route = _address(index, address, prefix), _route("0.0.0.0/0", index, gateway)
        self.request_all((*links, *address_and_route))

    def enslave(self, index: int, master: int) -> None:
        """Make a link a port of bridge `master`, set it up, and as `set_hairpin`."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, index, IFF_UP, IFF_UP)
        body += attribute(IFLA_MASTER, master)
        joined = f"add link {index} to bridge", RTM_NEWLINK, 0, body
        self.request_all((joined, _hairpin(index)))

    def set_hairpin(self, index: int) -> None:
        """Let a bridge port send a frame back where it came from: a pod that reaches itself through a service."""
        self.request(*_hairpin(index))

    def delete_link(self, name: str) -> bool:
        """False when there is none."""
        body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(IFLA_IFNAME, name)
        try:
            self.request(f"delete link {name}", RTM_DELLINK, 0, body)
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        return True

    # Addresses and routes

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Also when it is there already."""
        self.request(*_address(index, address, prefix))

    def delete_address(self, index: int, address: str, prefix: int) -> bool:
        """False when it was not there."""
        what, _, _, body = _address(index, address, prefix)
        try:
            self.request(what.replace("add", "delete"), RTM_DELADDR, 0, body)
        except NetlinkError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
        return True

    def addresses(self) -> Iterator[tuple[int, str, int]]:
        """(interface index, IPv4 address, prefix length)."""
        body = _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)
        for _, answer in self.request("list addresses", RTM_GETADDR, NLM_F_DUMP, body):
            _, prefix, _, _, index = _ADDRESS.unpack_from(answer)
            local = attributes(answer[8:]).get(IFA_LOCAL)
            if local is not None:
                yield index, socket.inet_ntoa(local), prefix

    def add_route(self, destination: str, index: int, gateway: str = "") -> None:
        """`destination` is a network in CIDR form. An existing route to it is replaced."""
        self.request(*_route(destination, index, gateway))

    def default_route(self) -> Route | None:
        """The IPv4 default route of the main table, the first one when there are several."""
        body = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        for _, answer in self.request("list routes", RTM_GETROUTE, NLM_F_DUMP, body):
            _, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(answer)
            if prefix or table != RT_TABLE_MAIN or kind != RTN_UNICAST:
                continue
            found = attributes(answer[12:])
            gateway = found.get(RTA_GATEWAY)
            return Route(
                int.from_bytes(found.get(RTA_OIF, b""), "little"),
                socket.inet_ntoa(gateway) if gateway else "",
            )
        return None


Request = tuple[str, int, int, bytes]  # what for, type, flags, body


def _up(index: int) -> Request:
    return f"set link {index} up", RTM_NEWLINK, 0, _LINK.pack(0, 0, index, IFF_UP, IFF_UP)


def _hairpin(index: int) -> Request:
    port = attribute(IFLA_PROTINFO | NLA_F_NESTED, attribute(IFLA_BRPORT_MODE, b"\1"))
    body = _LINK.pack(socket.AF_BRIDGE, 0, index, 0, 0) + port
    return f"set hairpin on link {index}", RTM_SETLINK, 0, body


def _address(index: int, address: str, prefix: int) -> Request:
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = _ADDRESS.pack(family, prefix, 0, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    return f"add address {address}/{prefix}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body


def _route(destination: str, index: int, gateway: str) -> Request:
    network = ipaddress.ip_network(destination)
    scope = 0 if gateway else RT_SCOPE_LINK
    kind = (RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST)
    body = _ROUTE.pack(socket.AF_INET, network.prefixlen, 0, 0, *kind, 0)
    if network.prefixlen:
        body += attribute(RTA_DST, network.network_address.packed)
    if gateway:
        body += attribute(RTA_GATEWAY, socket.inet_aton(gateway))
    body += attribute(RTA_OIF, index)
    return f"add route to {destination}", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body


def sysctl(path: str, value: str) -> bool:
    """Write /proc/sys/<path> of the present namespace. False when that is not possible."""
    try:
        fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, value.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
