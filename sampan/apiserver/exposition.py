"""`/metrics`: the counters of this server in the form that the scraper asks for, written by prometheus-client.

Imported at the first scrape: the library takes 4 MB and a tenth of a second, and most small clusters are never scraped.
Nothing is kept here; each scrape reads `metrics.Metrics`, the watch cache and /proc. Names and labels are kube-apiserver's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sampan.apiserver.metrics import BUCKETS, Labels
from sampan.apiserver.watchcache import Watcher

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

LABELS = ("verb", "group", "version", "resource", "subresource", "scope", "component", "dry_run")
VERBS = {
    "create": "POST",
    "update": "PUT",
    "deletecollection": "DELETE",
}
BOUNDS = [*(floatToGoString(bound) for bound in BUCKETS), "+Inf"]


class ServerCollector(Collector):
    def __init__(self, server: APIServer) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        metrics = self.server.metrics
        requests = CounterMetricFamily(
            "apiserver_request",
            "Requests by verb, resource and HTTP code.",
            labels=(*LABELS, "code"),
        )
        for (labels, code), count in metrics.requests.items():
            requests.add_metric((*shown(labels), str(code)), count)
        yield requests
        durations = HistogramMetricFamily(
            "apiserver_request_duration_seconds",
            "Response time in seconds by verb and resource.",
            labels=LABELS,
        )
        for labels, histogram in metrics.durations.items():
            if labels[0] != "watch":
                counts = zip(BOUNDS, accumulate(histogram.counts), strict=True)
                durations.add_metric(shown(labels), list(counts), histogram.total)
        yield durations
        in_flight = GaugeMetricFamily(
            "apiserver_current_inflight_requests",
            "Requests that are being answered now, without watches and other streams.",
            labels=("request_kind",),
        )
        for kind, value in metrics.in_flight.items():
            in_flight.add_metric((kind,), value)
        yield in_flight
        yield from self._caches()
        yield from self._levels()

    def _caches(self) -> Iterator[Metric]:
        objects = GaugeMetricFamily(
            "apiserver_storage_objects", "Stored objects by kind.", labels=("resource",)
        )
        watches = GaugeMetricFamily(
            "apiserver_longrunning_requests", "Watches by kind.", labels=("verb", "resource")
        )
        for storage, cache in self.server.caches.caches.items():
            group, _, plural = storage.partition("/")
            name = plural if group == "core" else f"{plural}.{group}"
            objects.add_metric((name,), len(cache.entries))
            watching = sum(isinstance(each, Watcher) for each in cache.watchers)
            watches.add_metric(("WATCH", name), watching)
        yield objects
        yield watches

    def _levels(self) -> Iterator[Metric]:
        """Priority and fairness, by level."""
        prefix, labels = "apiserver_flowcontrol_", ("priority_level",)
        seats = GaugeMetricFamily(f"{prefix}nominal_limit_seats", "Seats.", labels=labels)
        executing = GaugeMetricFamily(
            f"{prefix}current_executing_requests", "Requests that have a seat.", labels=labels
        )
        waiting = GaugeMetricFamily(
            f"{prefix}current_inqueue_requests", "Requests that wait for one.", labels=labels
        )
        rejected = CounterMetricFamily(
            f"{prefix}rejected_requests", "Requests answered with 429.", labels=(*labels, "reason")
        )
        for level in self.server.fairness.levels.values():
            if level.exempt:
                continue
            seats.add_metric((level.name,), level.seats)
            executing.add_metric((level.name,), level.executing)
            waiting.add_metric((level.name,), level.waiting)
            for reason, count in level.rejected.items():
                rejected.add_metric((level.name, reason), count)
        yield from (seats, executing, waiting, rejected)


def shown(labels: Labels) -> tuple[str, ...]:
    verb, *rest = labels
    return (VERBS.get(verb) or verb.upper(), *rest, "apiserver", "")


def expose(server: APIServer, accept: str) -> tuple[bytes, str]:
    """(document, its content type), in the format that the scraper's Accept header prefers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
