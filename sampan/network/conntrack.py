"""Flows that the kernel remembers (conntrack), over raw ctnetlink: those to an endpoint that is gone are forgotten.

A UDP flow has no end that the kernel sees: while its client goes on sending, it is translated to the endpoint that it began
with, which may be a pod that left long ago. Forgotten, its next packet meets the service anew. TCP ends by itself.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from typing import NamedTuple

from sampan.network.errors import NetlinkError
from sampan.network.netlink import (
    NLA_F_NESTED,
    NLM_F_DUMP,
    NetlinkSocket,
    attribute,
    attributes,
)
from sampan.network.services import Endpoint

# <linux/netfilter/nfnetlink.h>, <linux/netfilter/nfnetlink_conntrack.h>
NETLINK_NETFILTER = 12
CTNETLINK = 1 << 8
GET, DELETE = CTNETLINK | 1, CTNETLINK | 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID = 1, 2, 12
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST = 1, 2
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
_HEAD = struct.pack("=BBH", socket.AF_INET, 0, 0)


class Tuple(NamedTuple):
    """One direction of a flow."""

    protocol: int
    source: Endpoint
    target: Endpoint


def read_tuple(data: bytes) -> Tuple:
    found = attributes(data)
    ip, proto = attributes(found[CTA_TUPLE_IP]), attributes(found[CTA_TUPLE_PROTO])

    def end(address: int, port: int) -> Endpoint:
        number = int.from_bytes(proto.get(port, b""), "big")
        return Endpoint(socket.inet_ntoa(ip[address]), number)

    return Tuple(
        proto[CTA_PROTO_NUM][0],
        end(CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT),
        end(CTA_IP_V4_DST, CTA_PROTO_DST_PORT),
    )


def forget_udp(gone: Collection[Endpoint]) -> int:
    """Forget the UDP flows that are translated to these; how many there were. Raises NetlinkError."""
    count = 0
    with NetlinkSocket(NETLINK_NETFILTER) as kernel:
        for _, body in kernel.request("list flows", GET, NLM_F_DUMP, _HEAD):
            found = attributes(body[len(_HEAD) :])
            asked, answer = (read_tuple(found[kind]) for kind in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
            if asked.protocol != socket.IPPROTO_UDP or asked.target == answer.source:
                continue
            if answer.source not in gone:
                continue
            which = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, found[CTA_TUPLE_ORIG])
            which += attribute(CTA_ID, found[CTA_ID])
            try:
                kernel.request("forget a flow", DELETE, 0, _HEAD + which)
                count += 1
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # it has just ended
                    raise
    return count
