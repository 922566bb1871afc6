"""What the API server counts about its requests.

Counting must cost next to nothing on the way of a request: one dictionary look-up and two additions. What a scraper reads
is made of it in `exposition.py`, when one asks.
"""

from __future__ import annotations

from bisect import bisect_left

from sampan.apiserver.routes import RequestInfo

BUCKETS = (
    0.005,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
    1.25,
    1.5,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    15,
    20,
    30,
    45,
    60,
)

Labels = tuple[str, str, str, str, str, str]  # verb, group, version, resource, subresource, scope


class Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds


class Metrics:
    def __init__(self) -> None:
        self.requests: dict[tuple[Labels, int], int] = {}
        self.durations: dict[Labels, Histogram] = {}
        self.in_flight = {"readOnly": 0, "mutating": 0}

    def observe(self, info: RequestInfo, code: int, seconds: float) -> None:
        if info.is_resource:
            scope = "resource" if info.name else "namespace" if info.namespace else "cluster"
            labels = (info.verb, info.group, info.version, info.resource, info.subresource, scope)
        else:
            # Paths are the client's: counted together, or a scanner would fill the memory.
            labels = (info.verb, "", "", "", info.path if info.path in _PATHS else "", "")
        requests = self.requests
        key = (labels, code)
        count = requests.get(key)
        if count is None and (code == 404 or len(requests) > 5000):
            labels = (info.verb, "", "", "", "", "")
            key = (labels, code)
            count = requests.get(key)
        requests[key] = (count or 0) + 1
        histogram = self.durations.get(labels)
        if histogram is None:
            histogram = self.durations[labels] = Histogram()
        histogram.observe(seconds)


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
