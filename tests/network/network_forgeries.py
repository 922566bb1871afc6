"""Frames that a pod with CAP_NET_RAW sends in somebody else's name, and what of them arrives at another pod's card."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from sampan.network import netns
from sampan.network.pods import Attachment
from sampan.network.ports import hardware_address

BROADCAST, EVERYBODY = b"\xff" * 6, "255.255.255.255"
ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_VLAN, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x8100, 0x86DD
HONEST = "honest"
MARK = b"forgery: "
TAG = struct.pack("!HH", 1, ETH_P_ARP)  # the rest of an 802.1Q header


def arp(card: bytes, address: str) -> bytes:
    """A gratuitous answer: `address` is at `card`."""
    place = card + socket.inet_aton(address)
    return struct.pack("!HHBBH", 1, ETH_P_IP, 6, 4, 2) + place + place


def packet(source: str, text: bytes) -> bytes:
    udp = struct.pack("!HHHH", 9, 9, 8 + len(text), 0) + text
    ends = socket.inet_aton(source) + socket.inet_aton(EVERYBODY)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + ends
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + udp


def packet6(card: bytes, text: bytes) -> bytes:
    """From the link-local address that the kernel makes of `card` to every node."""
    own = bytes([card[0] ^ 2]) + card[1:3] + b"\xff\xfe" + card[3:]
    ends = b"\xfe\x80" + bytes(6) + own + b"\xff\x02" + bytes(13) + b"\x01"
    return struct.pack("!IHBB", 6 << 28, len(text), 59, 1) + ends + text


def frames(own: str, neighbour: str, gateway: str) -> dict[str, bytes]:
    """By what is wrong with it; the last one is honest. Each holds its own name, where no one cuts it off."""
    card, other = hardware_address(own), hardware_address(neighbour)

    def claim(of: bytes, address: str) -> Callable[[bytes], bytes]:
        return lambda text: arp(of, address) + text

    def say(text: bytes) -> bytes:
        return packet(neighbour, text)

    bodies: dict[str, tuple[bytes, int, Callable[[bytes], bytes]]] = {
        "the neighbour's address in ARP": (card, ETH_P_ARP, claim(card, neighbour)),
        "the gateway's address in ARP": (card, ETH_P_ARP, claim(card, gateway)),
        "the neighbour's card in ARP": (card, ETH_P_ARP, claim(other, own)),
        "the neighbour's card on the frame": (other, ETH_P_ARP, claim(card, own)),
        "nobody's card": (b"\x02" * 6, ETH_P_ARP, claim(b"\x02" * 6, own)),
        "the neighbour's address": (card, ETH_P_IP, say),
        "both of the neighbour's": (other, ETH_P_IP, say),
        "a tag before it": (card, ETH_P_VLAN, lambda text: TAG + claim(other, own)(text)),
        "another protocol": (card, ETH_P_IPV6, lambda text: packet6(card, text)),
        HONEST: (card, ETH_P_ARP, claim(card, own)),
    }
    return {
        name: BROADCAST + source + struct.pack("!H", protocol) + body(MARK + name.encode())
        for name, (source, protocol, body) in bodies.items()
    }


def arrived(forger: Attachment, neighbour: Attachment, gateway: str) -> list[str]:
    """Which of the frames reach the neighbour, in their order. A port keeps it, so the honest one is the end."""

    def door() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.bind(("eth0", ETH_P_ALL))
        opened.settimeout(5)
        return opened

    def inside(place: Attachment) -> socket.socket:
        def enter() -> socket.socket:
            netns.enter(place.namespace or "")
            return door()

        return netns.in_thread(enter)

    seen: list[str] = []
    with inside(neighbour) as listening, inside(forger) as sending:
        for frame in frames(forger.addresses[0], neighbour.addresses[0], gateway).values():
            sending.send(frame)
        while HONEST not in seen:
            _, mark, name = listening.recv(65536).partition(MARK)
            if mark:
                seen.append(name.decode())
    return seen
