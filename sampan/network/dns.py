"""Cluster DNS: answers for the cluster's domain from a `Zone`, everything else asked of the host's resolvers.

UDP and TCP (RFC 1035, 7766). An answer too long for the asker's buffer is truncated, and the asker comes back over TCP. What is
not DNS is dropped without a word. Forwarded answers are passed on as bytes and kept for their TTL, failures for seconds. Own
addresses are never asked, so a host whose resolv.conf names us makes no loop.

dnslib parses and packs; it is imported when a server starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sampan.network.zone import SCHEMA_VERSION, Zone

if TYPE_CHECKING:
    from dnslib import DNSRecord

log = logging.getLogger(__name__)

TTL = 5
UDP_SIZE = 512
MAX_UDP_SIZE = 1232  # DNS flag day 2020: no fragments
UPSTREAM_TIMEOUT = 2.0  # seconds for one attempt
TCP_IDLE = 10.0
CACHE_ENTRIES, CACHE_TTL, NEGATIVE_TTL = 2000, 30.0, 3.0
IN_FLIGHT = 500  # forwarded questions at once
Server = tuple[str, int]
SUFFIX4 = ".in-addr.arpa"


@dataclass(frozen=True, slots=True)
class Upstream:
    address: str
    port: int = 53


def answer(request: DNSRecord, zone: Zone) -> DNSRecord | None:
    """The reply from the zone; None when the question is not ours. Pure."""
    from dnslib import QTYPE, RCODE

    question = request.questions[0]
    name = str(question.qname).lower().rstrip(".")
    kind = QTYPE.get(question.qtype)
    reply = request.reply(ra=1, aa=1)
    if name.endswith(SUFFIX4):
        address = ".".join(reversed(name.removesuffix(SUFFIX4).split(".")))
        target = zone.ptr.get(address)
        if target is None:
            return None
        if kind in ("PTR", "ANY"):
            _add(reply, question.qname, "PTR", target)
        else:
            _add_soa(reply, zone)
        return reply
    if name != zone.domain and not name.endswith(f".{zone.domain}"):
        return None
    if kind in ("AXFR", "IXFR"):
        reply.header.rcode = RCODE.REFUSED
        return reply
    found = _fill(reply, question.qname, name, kind, zone)
    if not reply.rr:
        if not found:
            reply.header.rcode = RCODE.NXDOMAIN
        _add_soa(reply, zone)
    return reply


def _fill(reply: Any, owner: Any, name: str, kind: str, zone: Zone) -> bool:
    """Add what the zone has; is there such a name at all?"""
    if name == f"dns-version.{zone.domain}":
        if kind in ("TXT", "ANY"):
            _add(reply, owner, "TXT", SCHEMA_VERSION)
        return True
    if name == zone.domain and kind in ("SOA", "ANY", "NS"):
        if kind == "NS":
            _add(reply, owner, "NS", f"ns.dns.{zone.domain}")
        else:
            reply.add_answer(_soa(zone))
        return True
    if name in zone.cname:
        _add(reply, owner, "CNAME", zone.cname[name])
        target = zone.cname[name]
        for address in zone.a.get(target, []) if kind in ("A", "ANY") else ():
            _add(reply, target, "A", address)
        return True
    if kind in ("A", "ANY"):
        addresses = list(zone.a.get(name, []))
        pod = zone.pod_address(name)
        if pod is not None:
            addresses.append(pod)
        random.shuffle(addresses)
        for address in addresses:
            _add(reply, owner, "A", address)
    if kind in ("SRV", "ANY"):
        targets: set[str] = set()
        for record in zone.srv.get(name, []):
            _add(reply, owner, "SRV", record)
            targets.add(record.target)
        for target in sorted(targets):
            for address in zone.a.get(target, []):
                _add(reply, target, "A", address, additional=True)
    return name in zone.exists or zone.pod_address(name) is not None


def _add(reply: Any, owner: Any, kind: str, value: Any, *, additional: bool = False) -> None:
    import dnslib

    data = {
        "A": dnslib.A,
        "PTR": dnslib.PTR,
        "CNAME": dnslib.CNAME,
        "NS": dnslib.NS,
        "TXT": dnslib.TXT,
        "SRV": lambda srv: dnslib.SRV(0, srv.weight, srv.port, srv.target),
    }[kind](value)
    record = dnslib.RR(owner, getattr(dnslib.QTYPE, kind), ttl=TTL, rdata=data)
    if additional:
        reply.add_ar(record)
    else:
        reply.add_answer(record)


def _soa(zone: Zone) -> Any:
    import dnslib

    times = (1, 7200, 1800, 86400, TTL)  # the last is the negative TTL (RFC 2308)
    data = dnslib.SOA(f"ns.dns.{zone.domain}", f"hostmaster.{zone.domain}", times)
    return dnslib.RR(zone.domain, dnslib.QTYPE.SOA, ttl=TTL, rdata=data)


def _add_soa(reply: Any, zone: Zone) -> None:
    reply.add_auth(_soa(zone))


class DNSServer:
    def __init__(
        self,
        addresses: Iterable[str],
        port: int,
        zone: Callable[[], Zone],
        upstreams: Sequence[Upstream] | None = None,
    ) -> None:
        """`zone` is asked at each question: it returns the present zone. `upstreams` None: the host's resolv.conf."""
        self.addresses, self.port, self._zone = tuple(addresses), port, zone
        self._given = upstreams
        self.upstreams: tuple[Upstream, ...] = ()
        self._udp: list[asyncio.DatagramTransport] = []
        self._tcp: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._cache: dict[tuple[str, int, int], tuple[float, bytes]] = {}
        self.bound: list[Server] = []  # where it answers: also tells the port when 0 was asked

    async def start(self) -> None:
        """Answers on every address on return. Raises OSError naming the one that could not be bound."""
        import dnslib  # noqa: F401 - paid here, not at the first question

        for address in self.addresses:
            try:
                await self._bind(address)
            except OSError as error:
                await self.close()
                message = f"DNS on {address}:{self.port}: {os.strerror(error.errno or 0)}"
                raise OSError(error.errno, message) from None
        own = {address for address, _ in self.bound}
        if self._given is None:
            from sampan.network.resolv import read_host

            chosen = tuple(Upstream(server) for server in read_host().nameservers)
        else:
            chosen = tuple(self._given)
        self.upstreams = tuple(
            upstream
            for upstream in chosen
            if (upstream.address, upstream.port) not in self.bound
            and not (upstream.address in own and upstream.port == 53)
        )

    async def _bind(self, address: str) -> None:
        """UDP and TCP at one port. The port that the kernel chooses (0) for one may be taken for the other: try again."""
        loop = asyncio.get_running_loop()
        attempts = 1 if self.port else 20
        while True:
            attempts -= 1
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _UDPServer(self), local_addr=(address, self.port)
            )
            port = transport.get_extra_info("sockname")[1]
            try:
                server = await asyncio.start_server(self._serve_tcp, address, port)
            except OSError:
                transport.close()
                if not attempts:
                    raise
                continue
            self._udp.append(transport)
            self._tcp.append(server)
            self.bound.append((address, port))
            return

    async def close(self) -> None:
        """Idempotent."""
        for transport in self._udp:
            transport.close()
        for server in self._tcp:
            server.close()
        self._udp, self._tcp, self.bound = [], [], []
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports let go of their sockets in the loop's next turn

    # One question

    def local(self, data: bytes) -> tuple[DNSRecord | None, bytes | None]:
        """(parsed request to forward, None), (None, reply), or (None, None) for what deserves no answer."""
        import dnslib

        try:
            request = dnslib.DNSRecord.parse(data)
        except Exception:  # whatever a stranger's bytes make dnslib raise
            return None, None
        if request.header.qr:
            return None, None  # an answer: replying to those makes storms
        reply = None
        if request.header.opcode != 0:
            reply = request.reply()
            reply.header.rcode = dnslib.RCODE.NOTIMP
        elif len(request.questions) != 1:
            reply = request.reply()
            reply.header.rcode = dnslib.RCODE.FORMERR
        else:
            try:
                reply = answer(request, self._zone())
            except (UnicodeError, dnslib.DNSError, ValueError):
                reply = request.reply()
                reply.header.rcode = dnslib.RCODE.FORMERR
        if reply is None or self._leads_outside(reply):
            return request, None
        return None, bytes(reply.pack())

    def _leads_outside(self, reply: Any) -> bool:
        """An ExternalName's alias: stub resolvers want its addresses in the same answer."""
        import dnslib

        return (
            len(reply.rr) == 1
            and reply.rr[0].rtype == dnslib.QTYPE.CNAME
            and reply.q.qtype in (dnslib.QTYPE.A, dnslib.QTYPE.AAAA)
            and not str(reply.rr[0].rdata.label).rstrip(".").endswith(self._zone().domain)
        )

    async def resolve(self, data: bytes, request: DNSRecord, *, tcp: bool) -> bytes | None:
        """What `local` could not answer: forwarded, behind an alias of ours if there is one."""
        alias = answer(request, self._zone())
        if alias is None:
            return await self.forward(data, request, tcp=tcp)
        import dnslib

        question = dnslib.DNSQuestion(str(alias.rr[0].rdata.label), request.q.qtype)
        inner = dnslib.DNSRecord(request.header, questions=[question])
        raw = await self.forward(bytes(inner.pack()), inner, tcp=True)
        if raw is not None:
            found = dnslib.DNSRecord.parse(raw)
            alias.header.rcode = found.header.rcode
            for record in found.rr:
                alias.add_answer(record)
        return bytes(alias.pack())

    async def forward(self, data: bytes, request: DNSRecord, *, tcp: bool) -> bytes | None:
        """The first upstream's answer, as it came; SERVFAIL when none answers."""
        import dnslib

        question = request.questions[0]
        key = (str(question.qname).lower(), question.qtype, request.header.rd + 2 * int(tcp))
        now = time.monotonic()
        cached = self._cache.get(key)
        if cached is not None and cached[0] > now:
            return data[:2] + cached[1][2:]
        for upstream in self.upstreams:
            try:
                async with asyncio.timeout(UPSTREAM_TIMEOUT):
                    raw = await (_ask_tcp if tcp else _ask_udp)(upstream, data)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.debug("upstream %s: %r", upstream.address, error)
                continue
            self._remember(key, raw, now)
            return raw
        reply = request.reply()
        reply.header.rcode = dnslib.RCODE.SERVFAIL
        if not self.upstreams:  # on an island there are no outside names: searching goes on at once
            reply.header.rcode = dnslib.RCODE.NXDOMAIN
        packed = bytes(reply.pack())
        if self.upstreams:
            self._keep(key, now + NEGATIVE_TTL, packed)
        return packed

    def _remember(self, key: tuple[str, int, int], raw: bytes, now: float) -> None:
        """Answers are kept as bytes, for a time short enough that their TTL need not be counted down."""
        import dnslib

        try:
            parsed = dnslib.DNSRecord.parse(raw)
        except Exception:
            return
        if parsed.header.tc:
            return
        if parsed.rr:
            ttl = min(*(record.ttl for record in parsed.rr), CACHE_TTL)
        else:
            ttl = NEGATIVE_TTL
        if ttl > 0:
            self._keep(key, now + ttl, raw)

    def _keep(self, key: tuple[str, int, int], until: float, raw: bytes) -> None:
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        self._cache[key] = (until, raw)

    # Transports

    def received(self, data: bytes, client: Any, transport: asyncio.DatagramTransport) -> None:
        request, reply = self.local(data)
        if reply is not None:
            transport.sendto(fit(reply, data), client)
        elif request is not None and len(self._tasks) < IN_FLIGHT:
            self._own(self._forward_udp(data, request, client, transport))

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("dns: answering failed", exc_info=task.exception())

    async def _forward_udp(
        self,
        data: bytes,
        request: DNSRecord,
        client: Any,
        transport: asyncio.DatagramTransport,
    ) -> None:
        reply = await self.resolve(data, request, tcp=False)
        if reply is not None and not transport.is_closing():
            transport.sendto(fit(reply, data), client)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                request, reply = self.local(data)
                if request is not None:
                    reply = await self.resolve(data, request, tcp=True)
                if reply is None:
                    break
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


class _UDPServer(asyncio.DatagramProtocol):
    def __init__(self, server: DNSServer) -> None:
        self.server = server
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.transport is not None:
            self.server.received(data, addr, self.transport)


def _edns_size(request: bytes) -> int:
    import dnslib

    try:
        parsed = dnslib.DNSRecord.parse(request)
    except Exception:
        return UDP_SIZE
    for record in parsed.ar:
        if record.rtype == dnslib.QTYPE.OPT:
            return max(UDP_SIZE, min(record.rclass, MAX_UDP_SIZE))
    return UDP_SIZE


def fit(reply: bytes, request: bytes) -> bytes:
    """The reply, or its head with the truncation bit when it is longer than the asker takes over UDP."""
    if len(reply) <= UDP_SIZE or len(reply) <= _edns_size(request):
        return reply
    import dnslib

    try:
        parsed = dnslib.DNSRecord.parse(reply)
    except Exception:
        return reply[:2] + b"\x83\x82" + reply[4:12]
    return bytes(parsed.truncate().pack())


class _Asking(asyncio.DatagramProtocol):
    def __init__(self, identity: bytes, answered: asyncio.Future[bytes]) -> None:
        self.identity, self.answered = identity, answered

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data[:2] == self.identity and len(data) >= 12 and not self.answered.done():
            self.answered.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc)


async def _ask_udp(upstream: Upstream, data: bytes) -> bytes:
    """A socket for each question: its random port is half of what protects from forged answers (RFC 5452)."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    identity = random.SystemRandom().randbytes(2)
    transport, _ = await loop.create_datagram_endpoint(
        lambda: _Asking(identity, answered),
        remote_addr=(upstream.address, upstream.port),
        family=socket.AF_INET6 if ":" in upstream.address else socket.AF_INET,
    )
    try:
        transport.sendto(identity + data[2:])
        return data[:2] + (await answered)[2:]
    finally:
        transport.close()


async def _ask_tcp(upstream: Upstream, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(upstream.address, upstream.port)
    try:
        writer.write(len(data).to_bytes(2, "big") + data)
        await writer.drain()
        return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    finally:
        writer.close()
