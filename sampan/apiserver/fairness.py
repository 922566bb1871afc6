"""Fairness under overload: so many requests of a priority level at once, and then each flow in its turn.

Behind authentication, each request is put under a FlowSchema and so into a priority level (`flowschemas`; `flowcontrol` follows
the stored objects). A level has seats by its share of all. When they are taken a request waits in the queue of its
flow; queues are served in turn, so a flow with a thousand requests waiting delays another's by one. A queue that is full or a
wait that is too long is 429 with Retry-After. Watches and streams take no seat, and neither do `system:masters` and probes.

Kubernetes deals flows onto a fixed number of queues by shuffle sharding, to bound their number; here a flow has a queue of its
own while something of it waits, and their sum is bounded by what the level's queues could hold. Levels keep their nominal
share: none is lent. A list takes a seat for every hundred objects, up to ten; everything else takes one.

Idle, this costs a dictionary look-up and two additions; nothing is awaited.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from sampan.apiserver import flowschemas
from sampan.apiserver.flowschemas import CATCH_ALL, EXEMPT, Schema
from sampan.apiserver.metrics import Histogram
from sampan.apiserver.present import JSON_HEADERS, respond_error
from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, Response, User
from sampan.kube.errors import ApiError

WAIT = 0.25  # of the request's own time limit may be spent in a queue
WAITING_BYTES = 64 << 20  # of bodies in all queues together
REMEMBERED = 4096  # classifications
OBJECTS_PER_SEAT = 100
WIDEST = 10  # seats
RETRY_AFTER = "1"  # seconds
WAITED = (0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)
SCHEMA_HEADER = "X-Kubernetes-PF-FlowSchema-UID"
LEVEL_HEADER = "X-Kubernetes-PF-PriorityLevel-UID"
STREAMS = frozenset({"attach", "exec", "log", "portforward", "proxy"})

Object = dict[str, Any]


class TooMany(Exception):
    """The request is refused: `reason` is queue-full, concurrency-limit, or time-out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Place:
    """One request's place in a queue; `turn` is done when its seats are taken for it."""

    __slots__ = ("turn", "width")

    def __init__(self, width: int) -> None:
        self.width = width
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Counts:
    """What requests of one FlowSchema did in one level."""

    __slots__ = ("dispatched", "executing", "rejected", "seats", "waited", "waiting")

    def __init__(self) -> None:
        self.executing = 0
        self.seats = 0
        self.waiting = 0
        self.dispatched = 0
        self.rejected: dict[str, int] = {}
        # Of those that had to wait: (let in or not) → seconds.
        self.waited = {True: Histogram(WAITED), False: Histogram(WAITED)}


class Level:
    """One priority level: its seats, and the queues of its flows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uid = ""
        self.exempt = name == EXEMPT
        self.seats = 1
        self.queue_length = 0  # of one flow; 0: what is too much is refused at once
        self.capacity = 0  # of all flows together
        self.executing = 0
        self.waiting = 0
        self._queues: dict[str, deque[Place]] = {}
        self._turns: deque[str] = deque()  # flows of which something waits

    def configure(self, obj: Object, seats: int) -> None:
        spec = obj["spec"]
        self.uid = obj["metadata"].get("uid", "")
        self.exempt = spec.get("type") == "Exempt"
        self.seats = max(1, seats)
        response = (spec.get("limited") or {}).get("limitResponse") or {}
        queuing = response.get("queuing") or {}
        queues = response.get("type") == "Queue"
        self.queue_length = queuing.get("queueLengthLimit", 50) if queues else 0
        # What one flow could use of the level's queues, and what all could.
        self.capacity = self.queue_length * queuing.get("queues", 64) if queues else 0
        self.queue_length *= queuing.get("handSize", 8) if queues else 1
        self._dispatch()

    def take(self, width: int = 1) -> bool:
        """So many seats, if they are free and nobody waits for them."""
        if not self.waiting and (self.executing + width <= self.seats or not self.executing):
            self.executing += width
            return True
        return False

    async def wait(self, flow: str, patience: float, width: int = 1) -> None:
        """Return with so many seats. Raises TooMany."""
        queue = self._queues.get(flow)
        if not self.queue_length:
            raise TooMany("concurrency-limit")
        if self.waiting >= self.capacity or len(queue or ()) >= self.queue_length:
            raise TooMany("queue-full")
        if queue is None:
            queue = self._queues[flow] = deque()
            self._turns.append(flow)
        place = Place(width)
        queue.append(place)
        self.waiting += 1
        try:
            async with asyncio.timeout(patience):
                await place.turn
        except BaseException as error:
            if place.turn.done() and not place.turn.cancelled():
                self.release(width)  # it was given and cannot be used
            else:
                self._leave(flow, queue, place)
            if isinstance(error, TimeoutError):
                raise TooMany("time-out") from None
            raise

    def _leave(self, flow: str, queue: deque[Place], place: Place) -> None:
        if place not in queue:
            return  # `_dispatch` came upon it first
        queue.remove(place)
        self.waiting -= 1
        if not queue:
            del self._queues[flow]
            self._turns.remove(flow)

    def release(self, width: int = 1) -> None:
        self.executing -= width
        if self.waiting:
            self._dispatch()

    def _dispatch(self) -> None:
        """Give free seats away, to one request of each flow in turn. What is wider than the level runs alone."""
        while self._turns:
            queue = self._queues[self._turns[0]]
            width = queue[0].width
            if self.executing and self.executing + width > self.seats:
                return
            flow = self._turns.popleft()
            place = queue.popleft()
            self.waiting -= 1
            if queue:
                self._turns.append(flow)
            else:
                del self._queues[flow]
            if not place.turn.done():  # else its request was cancelled in this very step
                self.executing += width
                place.turn.set_result(None)


class Fairness:
    """The levels and schemas that hold now. Until the objects have been read, those are the defaults."""

    def __init__(
        self,
        seats: int,
        request_timeout: float,
        count: Callable[[RequestInfo], int] = lambda info: 0,
    ) -> None:
        self.total = seats
        self.count = count  # objects that a list has to look through
        self.patience = request_timeout * WAIT
        self.levels: dict[str, Level] = {}
        self.schemas: list[Schema] = []
        self.waiting = 0  # requests in all queues
        self.waiting_bytes = 0
        self.counts: dict[tuple[str, str], Counts] = {}  # by FlowSchema and level
        self.terminate: Callable[[RequestInfo, int], None] = lambda info, code: None
        self._known: dict[tuple[Any, ...], tuple[Schema, Level, Counts]] = {}
        self._plain: dict[tuple[str, str], dict[str, str]] = {}
        self.configure(flowschemas.default_levels(), flowschemas.default_schemas())

    def configure(self, levels: list[Object], schemas: list[Object]) -> None:
        shares = {each["metadata"]["name"]: shares_of(each) for each in levels}
        total = sum(shares.values()) or 1
        kept: dict[str, Level] = {}
        for obj in levels:
            name = obj["metadata"]["name"]
            # A level that stays keeps its seats and queues.
            level = kept[name] = self.levels.get(name) or Level(name)
            level.configure(obj, math.ceil(self.total * shares[name] / total))
        for name in (EXEMPT, CATCH_ALL):  # they hold even while somebody has deleted them
            kept.setdefault(name, self.levels.get(name) or Level(name))
        self.levels = kept
        self.schemas = flowschemas.ordered(
            schema for schema in map(Schema.of, schemas) if schema.level in kept
        )
        self._known.clear()
        self._plain.clear()

    def classify(self, user: User, info: RequestInfo) -> tuple[Schema, Level, Counts]:
        path = "" if info.is_resource else info.path
        key = (user, info.verb, info.group, info.resource, info.subresource, info.namespace, path)
        found = self._known.get(key)
        if found is None:
            schema = flowschemas.match(self.schemas, user, info)
            if schema is None:
                schema = Schema(CATCH_ALL, "", CATCH_ALL, 10000, flowschemas.USER, [])
            counts = self.counts.setdefault((schema.name, schema.level), Counts())
            found = schema, self.levels[schema.level], counts
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    async def run(
        self,
        request: Request,
        user: User,
        info: RequestInfo,
        work: Callable[[Request, User, RequestInfo], Awaitable[Response]],
    ) -> Response:
        """The answer of `work`, when its turn has come; 429 when it does not come."""
        if not request.remote:
            return await work(request, user, info)  # a part of this process
        schema, level, counts = self.classify(user, info)
        counts.dispatched += 1
        if level.exempt or info.verb == "watch" or info.subresource in STREAMS:
            response = await answered(work(request, user, info))
        else:
            width = self.width(request, info) if info.verb == "list" else 1
            if not level.take(width):
                try:
                    await self._wait(level, counts, schema.flow(user, info), request, width)
                except TooMany as error:
                    counts.dispatched -= 1
                    counts.rejected[error.reason] = counts.rejected.get(error.reason, 0) + 1
                    self.terminate(info, 429)
                    return self._marked(refusal(), schema, level)
            counts.executing += 1
            counts.seats += width
            try:
                response = await answered(work(request, user, info))
            finally:
                counts.executing -= 1
                counts.seats -= width
                level.release(width)
        return self._marked(response, schema, level)

    def width(self, request: Request, info: RequestInfo) -> int:
        """Seats of a list, by the number of objects that it is about (as Kubernetes estimates work)."""
        count = self.count(info)
        limit = request.param("limit") if request.query else ""
        if limit.isdecimal() and 0 < int(limit) < count:
            count = int(limit)
        return min(max(1, math.ceil(count / OBJECTS_PER_SEAT)), WIDEST)

    async def _wait(
        self, level: Level, counts: Counts, flow: str, request: Request, width: int
    ) -> None:
        size = len(request.body)
        if self.waiting_bytes + size > WAITING_BYTES:
            raise TooMany("queue-full")
        self.waiting += 1
        counts.waiting += 1
        self.waiting_bytes += size
        since, let_in = time.perf_counter(), False
        try:
            await level.wait(flow, self.patience, width)
            let_in = True
        finally:
            self.waiting -= 1
            counts.waiting -= 1
            self.waiting_bytes -= size
            waited = time.perf_counter() - since
            request.waited += waited
            counts.waited[let_in].observe(waited)

    def _marked(self, response: Response, schema: Schema, level: Level) -> Response:
        if response.headers is JSON_HEADERS:
            response.headers = self._plain_headers(schema, level)
        else:
            response.headers = {**response.headers, **marks(schema, level)}
        return response

    def at_once(self, user: User, info: RequestInfo) -> dict[str, str]:
        """Headers of an answer in JSON that is given without a turn; it is counted, and never waits or holds a seat."""
        schema, level, counts = self.classify(user, info)
        counts.dispatched += 1
        return self._plain_headers(schema, level)

    def _plain_headers(self, schema: Schema, level: Level) -> dict[str, str]:
        key = (schema.uid, level.uid)
        found = self._plain.get(key)
        if found is None:
            found = self._plain[key] = {**JSON_HEADERS, **marks(schema, level)}
        return found


def marks(schema: Schema, level: Level) -> dict[str, str]:
    return {SCHEMA_HEADER: schema.uid, LEVEL_HEADER: level.uid}


async def answered(work: Awaitable[Response]) -> Response:
    """An error's answer carries the headers too."""
    try:
        return await work
    except ApiError as error:
        return respond_error(error)


def shares_of(level: Object) -> int:
    spec = level["spec"]
    part = spec.get("exempt" if spec.get("type") == "Exempt" else "limited") or {}
    default = 0 if spec.get("type") == "Exempt" else 30
    shares = part.get("nominalConcurrencyShares")
    return int(default if shares is None else shares)


def refusal() -> Response:
    """As Kubernetes words it: plain text, which clients know by status and header."""
    headers = {
        "Content-Type": "text/plain; charset=utf-8",
        "Retry-After": RETRY_AFTER,
        "X-Content-Type-Options": "nosniff",
    }
    return Response(429, headers, b"Too many requests, please try again later.\n")
