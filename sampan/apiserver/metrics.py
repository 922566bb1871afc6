"""Metrics of the API server in Prometheus' text format, under Kubernetes' own names.

Counting must cost next to nothing on the way of a request: one dictionary look-up and two additions. Text is made only
when somebody asks for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

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
_VERBS = {
    "get": "GET",
    "list": "LIST",
    "watch": "WATCH",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
}
_OTHER = {"delete": "DELETE", "deletecollection": "DELETE", "post": "POST", "put": "PUT"}

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
        self.watches: dict[tuple[str, str, str], int] = {}
        self.gauges: dict[str, float] = {}

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

    def text(self) -> bytes:
        return "\n".join((*self._lines(), "")).encode()

    def _lines(self) -> Iterator[str]:
        name = "apiserver_request_total"
        yield f"# HELP {name} Requests by verb, resource and HTTP code."
        yield f"# TYPE {name} counter"
        for (labels, code), count in self.requests.items():
            yield f'{name}{{code="{code}",{_text(labels)}}} {count}'
        name = "apiserver_request_duration_seconds"
        yield f"# HELP {name} Response time in seconds by verb and resource."
        yield f"# TYPE {name} histogram"
        for labels, histogram in self.durations.items():
            if labels[0] == "watch":
                continue
            text, seen = _text(labels), 0
            for bound, count in zip(BUCKETS, histogram.counts, strict=False):
                seen += count
                yield f'{name}_bucket{{{text},le="{bound}"}} {seen}'
            seen += histogram.counts[-1]
            yield f'{name}_bucket{{{text},le="+Inf"}} {seen}'
            yield f"{name}_sum{{{text}}} {histogram.total:.6f}"
            yield f"{name}_count{{{text}}} {seen}"
        name = "apiserver_current_inflight_requests"
        yield f"# HELP {name} Requests that are being answered now."
        yield f"# TYPE {name} gauge"
        for kind, value in self.in_flight.items():
            yield f'{name}{{request_kind="{kind}"}} {value}'
        for name, measured in self.gauges.items():
            yield f"# TYPE {name.partition('{')[0]} gauge"
            yield f"{name} {measured:.15g}"


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


def _text(labels: Labels) -> str:
    verb, group, version, resource, subresource, scope = labels
    shown = _VERBS.get(verb) or _OTHER.get(verb) or verb.upper()
    return (
        f'component="apiserver",dry_run="",group="{group}",resource="{_quoted(resource)}",scope="{scope}",'
        f'subresource="{_quoted(subresource)}",verb="{_quoted(shown)}",version="{version}"'
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
