"""What the API server counts about its requests.

Counting must cost next to nothing on the way of a request: one dictionary look-up and a few additions. What a scraper reads
is made of it in `exposition.py`, when one asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, Response

BUCKETS = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60,
)  # fmt: skip
READS = ("get", "list")
APPLY = "application/apply-patch+"
HOUR, DAY = 3600.0, 86400.0
LEFT = (
    0.0,
    HOUR / 2,
    *(HOUR * n for n in (1, 2, 6, 12)),
    *(DAY * n for n in (1, 2, 4, 7, 30, 90, 180, 360)),
)
SIZES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)

# verb, group, version, resource, subresource, scope, dry run
Labels = tuple[str, str, str, str, str, str, str]


class Histogram:
    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Histograms(dict[tuple[str, ...], Histogram]):
    """By labels; made when first asked for."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self.bounds = bounds

    def __missing__(self, labels: tuple[str, ...]) -> Histogram:
        made = self[labels] = Histogram(self.bounds)
        return made


class Series:
    """Requests of one kind. `own` is set once one of them has waited: durations without the waiting."""

    __slots__ = ("codes", "durations", "own", "sizes")

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.durations = Histogram(BUCKETS)
        self.own: Histogram | None = None
        self.sizes: Histogram | None = None  # of answers that are read

    def waited(self, seconds: float, waiting: float) -> None:
        """One of the requests spent that much of its time in a queue or for webhooks."""
        own = self.own
        if own is None:
            own = self.own = Histogram(BUCKETS)
            own.counts = list(self.durations.counts)
            own.total = self.durations.total
        own.observe(max(seconds - waiting, 0.0))


class Watching:
    """Watches of one kind: how many there are, how many events they were told."""

    __slots__ = ("active", "events")

    def __init__(self) -> None:
        self.active = 0
        self.events = 0


class Metrics:
    def __init__(self) -> None:
        self.requests: dict[Labels, Series] = {}
        self.terminated: Counter[tuple[Labels, int]] = Counter()  # refused or given up on
        self.own: Counter[tuple[str, int]] = Counter()  # of this process to itself: method, code
        self.watches: dict[Labels, Watching] = {}
        self.in_flight = {"readOnly": 0, "mutating": 0}
        self.certificates = Histogram(LEFT)  # seconds that clients' are good for, once a connection

    def observe(
        self,
        info: RequestInfo,
        code: int,
        seconds: float,
        size: int = -1,
        verb: str = "",
        dry_run: str = "",
        waiting: float = 0.0,
    ) -> None:
        """`size` of an answer, -1 where it does not count; `verb` as it is to be shown."""
        labels = labels_of(info, verb, dry_run)
        series = self.requests.get(labels)
        if series is None:
            if code == 404 or len(self.requests) > 5000:
                labels = (labels[0], "", "", "", "", "", "")
            series = self.requests.get(labels)
            if series is None:
                series = self.requests[labels] = Series()
        codes = series.codes
        codes[code] = codes.get(code, 0) + 1
        if waiting or series.own is not None:
            series.waited(seconds, waiting)
        series.durations.observe(seconds)
        if size >= 0:
            if series.sizes is None:
                series.sizes = Histogram(SIZES)
            series.sizes.observe(size)

    def count(
        self, request: Request, info: RequestInfo, response: Response, seconds: float
    ) -> None:
        """One request and its answer."""
        verb, body, dry_run = info.verb, response.body, ""
        size = len(body) if verb in READS and type(body) is bytes else -1
        if request.query and (asked := request.param("dryRun")):
            dry_run = asked if asked == "All" else "invalid"
        if verb == "patch" and request.headers.get("content-type", "").startswith(APPLY):
            verb = "apply"
        if not request.remote:
            self.own[request.method, response.status] += 1
        self.observe(info, response.status, seconds, size, verb, dry_run, request.waited)

    def terminate(self, info: RequestInfo, code: int) -> None:
        """The server refused a request (429) or gave it up (504) to protect itself."""
        self.terminated[labels_of(info), code] += 1

    def watch(self, info: RequestInfo) -> Watching:
        labels = labels_of(info)
        found = self.watches.get(labels)
        if found is None:
            found = self.watches[labels] = Watching()
        return found


def labels_of(info: RequestInfo, verb: str = "", dry_run: str = "") -> Labels:
    if not info.is_resource:
        # Paths are the client's: counted together, or a scanner would fill the memory.
        return (info.verb, "", "", "", info.path if info.path in _PATHS else "", "", "")
    if info.name or info.verb == "create":
        scope = "resource"
    else:
        scope = "namespace" if info.namespace else "cluster"
    return (
        verb or info.verb, info.group, info.version, info.resource, info.subresource, scope, dry_run,
    )  # fmt: skip


_PATHS = frozenset(
    {
        "/healthz",
        "/livez",
        "/readyz",
        "/version",
        "/metrics",
        "/api",
        "/apis",
        "/openapi/v2",
        "/openapi/v3",
    }
)
