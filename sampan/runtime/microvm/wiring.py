"""The pod's network moves into the guest: a tap device in the pod's namespace, and traffic control that joins it to eth0.

    bridge ── veth ── eth0 ⇄ (tc ingress, redirect) ⇄ tap ── QEMU ── eth0 of the guest, with the pod's address and MAC

eth0 gives up its address, so nothing of the host answers in the guest's stead. From the guest only frames with the pod's
own MAC and address go on (IPv4, and ARP that speaks for itself): what is forged ends in a namespace without addresses.

The tap is made in the VMM's own, empty namespace, so a warm machine has one before it has a pod, and is moved later.
Messages: rtnetlink(7), <linux/pkt_sched.h>, <linux/pkt_cls.h>, <linux/tc_act/tc_mirred.h>.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from sampan.network.netlink import attribute
from sampan.network.netns import enter
from sampan.network.rtnetlink import Netlink, sysctl

TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
TAP = "tap0"
RTM_NEWLINK, RTM_NEWQDISC, RTM_NEWTFILTER = 16, 36, 44
NLM_F_CREATE, NLM_F_EXCL = 0x400, 0x200
NLA_F_NESTED = 0x8000
IFLA_NET_NS_FD = 28
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
INGRESS, INGRESS_PARENT = 0xFFFF0000, 0xFFFFFFF1
TERMINAL, STOLEN, EGRESS_REDIRECT = 1, 4, 1
ETH_P_ALL, ETH_P_IP, ETH_P_ARP = 0x0003, 0x0800, 0x0806
SIOCGIFHWADDR, SIOCGIFMTU = 0x8927, 0x8921
_LINK = struct.Struct("=BxHiII")
_TC = struct.Struct("=BxxxiIII")


@dataclass(frozen=True, slots=True)
class Identity:
    """What the guest's card has to be."""

    mac: bytes
    address: str
    prefix: int
    gateway: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Match:
    """Four bytes at an offset from the network header (the frame's own header lies before it)."""

    offset: int
    value: int
    mask: int = 0xFFFFFFFF


def open_tap(descriptor: int) -> None:
    """Make a tap in the calling thread's namespace; `descriptor`, open already, becomes it."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI))
        os.dup2(tun, descriptor, inheritable=False)
    finally:
        os.close(tun)


def keep_tap(uid: int) -> None:
    """Make a tap in the calling thread's namespace that stays without a holder: for a VMM that opens it by its name.

    The user may open it without CAP_NET_ADMIN. It is up, which Cloud Hypervisor would else make it: that takes the capability.
    """
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), IFF_TAP | IFF_NO_PI))
        fcntl.ioctl(tun, TUNSETOWNER, uid)
        fcntl.ioctl(tun, TUNSETPERSIST, 1)
    finally:
        os.close(tun)
    with Wiring() as netlink:
        netlink.set_up(netlink.index(TAP))


class Wiring(Netlink):
    """rtnetlink with what a machine's network takes besides."""

    def __enter__(self) -> Wiring:
        return self

    def move(self, name: str, namespace: int) -> None:
        body = _LINK.pack(socket.AF_UNSPEC, 0, self.index(name), 0, 0)
        body += attribute(IFLA_NET_NS_FD, namespace)
        self.request(f"move {name}", RTM_NEWLINK, 0, body)

    def add_ingress(self, index: int) -> None:
        body = _TC.pack(socket.AF_UNSPEC, index, INGRESS, INGRESS_PARENT, 0)
        body += attribute(TCA_KIND, "ingress")
        self.request("add ingress", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)

    def redirect(
        self, index: int, to: int, protocol: int, order: int, matches: tuple[Match, ...]
    ) -> None:
        """What arrives on `index` and matches all leaves by `to`."""
        info = order << 16 | socket.htons(protocol)
        body = _TC.pack(socket.AF_UNSPEC, index, 0, INGRESS, info) + attribute(TCA_KIND, "u32")
        parameters = struct.pack("=IIiiiiI", 0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to)
        action = attribute(TCA_ACT_KIND, "mirred")
        action += attribute(TCA_ACT_OPTIONS | NLA_F_NESTED, attribute(TCA_MIRRED_PARMS, parameters))
        options = attribute(TCA_U32_SEL, selector(matches))
        options += attribute(TCA_U32_ACT | NLA_F_NESTED, attribute(1 | NLA_F_NESTED, action))
        body += attribute(TCA_OPTIONS | NLA_F_NESTED, options)
        self.request("add filter", RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)


def selector(matches: tuple[Match, ...]) -> bytes:
    """struct tc_u32_sel."""
    keys = matches or (Match(0, 0, 0),)
    head = struct.pack("=BBBxHHhhI", TERMINAL, 0, len(keys), 0, 0, 0, 0, 0)
    return head + b"".join(
        struct.pack(">II", key.mask, key.value & key.mask) + struct.pack("=ii", key.offset, 0)
        for key in keys
    )


def own_frames(identity: Identity) -> dict[int, tuple[Match, ...]]:
    """By Ethernet protocol, what a frame of this guest's own looks like."""
    mac, address = identity.mac, socket.inet_aton(identity.address)
    source = (
        Match(-8, int.from_bytes(mac[:4], "big")),
        Match(-4, int.from_bytes(mac[4:] + b"\0\0", "big"), 0xFFFF0000),
    )
    return {
        ETH_P_IP: (*source, Match(12, int.from_bytes(address, "big"))),
        ETH_P_ARP: (
            *source,
            Match(8, int.from_bytes(mac[:4], "big")),
            Match(12, int.from_bytes(mac[4:] + address[:2], "big")),
            Match(16, int.from_bytes(address[2:] + b"\0\0", "big"), 0xFFFF0000),
        ),
    }


def connect(pod: str, machine: str, interface: str) -> Identity:
    """Join the tap in the namespace `machine` to `interface` in `pod`. Runs in a thread of its own; not idempotent."""
    own = os.open(pod, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(machine)
        with Wiring() as netlink:
            netlink.move(TAP, own)
    finally:
        os.close(own)
    enter(pod)
    sysctl(f"net/ipv6/conf/{TAP}/disable_ipv6", "1")
    with Wiring() as netlink:
        eth, tap = netlink.index(interface), netlink.index(TAP)
        identity = read_identity(netlink, interface, eth)
        netlink.delete_address(eth, identity.address, identity.prefix)
        for index in (eth, tap):
            netlink.add_ingress(index)
        netlink.redirect(eth, tap, ETH_P_ALL, 1, ())
        for order, (protocol, matches) in enumerate(own_frames(identity).items(), 1):
            netlink.redirect(tap, eth, protocol, order, matches)
        netlink.set_up(tap)
    return identity


def read_identity(netlink: Netlink, interface: str, index: int) -> Identity:
    route = netlink.default_route()
    found = next((each for each in netlink.addresses() if each[0] == index), None)
    if found is None:
        raise OSError(f"{interface} has no address to give to the guest")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("40s", interface.encode())
        mac = fcntl.ioctl(asking, SIOCGIFHWADDR, request)[18:24]
        mtu = struct.unpack_from("i", fcntl.ioctl(asking, SIOCGIFMTU, request), 16)[0]
    return Identity(mac, found[1], found[2], route.gateway if route else "", mtu)
