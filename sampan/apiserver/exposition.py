"""`/metrics`: the counters of this server in the form that the scraper asks for, written by prometheus-client.

Imported at the first scrape: the library takes 4 MB and a tenth of a second, and most small clusters are never scraped.
Nothing is kept here; each scrape reads `metrics.Metrics`, admission's `Measures`, fairness, the watch cache, the work queues and /proc.
Names, labels and buckets are kube-apiserver's, whose dashboards and alerts (kubernetes-mixin) then work unchanged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

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

from sampan.apiserver.health import Health
from sampan.apiserver.metrics import Histogram, Labels
from sampan.client.workqueue import WorkQueue, queues

if TYPE_CHECKING:
    from sampan.apiserver.server import APIServer

REQUEST = ("verb", "group", "version", "resource", "subresource", "scope")
DRY_RUN = (*REQUEST, "dry_run", "component")
ENDPOINT = (*REQUEST, "component")
KIND = ("group", "version", "resource")
VERBS = {"create": "POST", "update": "PUT", "deletecollection": "DELETE", "head": "GET"}
KNOWN = {"APPLY", "CONNECT", "DELETE", "GET", "LIST", "PATCH", "POST", "PUT", "WATCH"}
STREAMS = {"attach", "exec", "log", "portforward", "proxy"}
STEP = ("type", "operation", "rejected")
PLUGIN = ("name", *STEP)
CONDITION = ("name", "kind", "type", "operation")
FLOW = ("flow_schema", "priority_level")

Rows = Iterable[tuple[tuple[str, ...], float]]
Histograms = Iterable[tuple[tuple[str, ...], Histogram]]


def counter(name: str, help_: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = CounterMetricFamily(name, help_, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def gauge(name: str, help_: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    family = GaugeMetricFamily(name, help_, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def histogram(name: str, help_: str, labels: tuple[str, ...], rows: Histograms) -> Metric:
    family = HistogramMetricFamily(name, help_, labels=labels)
    for values, found in rows:
        bounds = [*map(floatToGoString, found.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(found.counts), strict=True))
        family.add_metric(values, buckets, found.total)
    return family


def endpoint(labels: Labels) -> tuple[str, ...]:
    """Labels as the requests' metrics show them, without dry_run."""
    verb, group, version, resource, subresource, scope, _ = labels
    shown = VERBS.get(verb) or verb.upper()
    if resource and subresource in STREAMS:
        shown = "CONNECT"
    if shown not in KNOWN:
        shown = "other"
    return (shown, group, version, resource, subresource, scope, "apiserver")


def with_dry_run(labels: Labels) -> tuple[str, ...]:
    *rest, component = endpoint(labels)
    return (*rest, labels[-1], component)


class ServerCollector(Collector):
    def __init__(self, server: APIServer) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._watches()
        yield from self._admission()
        yield from self._store()
        yield from self._levels()
        yield from self._process()

    def _requests(self) -> Iterator[Metric]:
        metrics = self.server.metrics
        series = list(metrics.requests.items())
        yield counter(
            "apiserver_request",
            "Requests by verb, resource and HTTP code.",
            (*DRY_RUN, "code"),
            (
                ((*with_dry_run(labels), str(code)), count)
                for labels, each in series
                for code, count in each.codes.items()
            ),
        )
        ended = [each for each in series if each[0][0] != "watch"]
        yield histogram(
            "apiserver_request_duration_seconds",
            "Response time in seconds by verb and resource.",
            DRY_RUN,
            ((with_dry_run(labels), each.durations) for labels, each in ended),
        )
        yield histogram(
            "apiserver_request_sli_duration_seconds",
            "Response time in seconds without the time in queues and for webhooks.",
            ENDPOINT,
            ((endpoint(labels), each.own or each.durations) for labels, each in ended if not labels[-1]),
        )  # fmt: skip
        yield histogram(
            "apiserver_response_sizes",
            "Bytes of answers to reads.",
            ENDPOINT,
            ((endpoint(labels), each.sizes) for labels, each in series if each.sizes is not None),
        )
        yield counter(
            "apiserver_request_terminations",
            "Requests that the server refused or gave up to protect itself.",
            (*ENDPOINT, "code"),
            (((*endpoint(each), str(code)), n) for (each, code), n in metrics.terminated.items()),
        )
        deprecated = {
            (*labels[1:5], "")
            for labels, _ in series
            if (row := self.server.table.rows.get(labels[1:4])) is not None and row.deprecated
        }
        yield gauge(
            "apiserver_requested_deprecated_apis",
            "Deprecated APIs that have been requested.",
            (*KIND, "subresource", "removed_release"),
            ((labels, 1) for labels in deprecated),
        )
        yield gauge(
            "apiserver_current_inflight_requests",
            "Requests that are being answered now, without watches and other streams.",
            ("request_kind",),
            (((kind,), value) for kind, value in metrics.in_flight.items()),
        )
        host = f"localhost:{self.server.port}"
        yield counter(
            "rest_client_requests",
            "Requests of this process to its own API, by code, method and host.",
            ("code", "host", "method"),
            (((str(code), host, method), n) for (method, code), n in metrics.own.items()),
        )

    def _watches(self) -> Iterator[Metric]:
        watches = list(self.server.metrics.watches.items())
        yield gauge(
            "apiserver_longrunning_requests",
            "Watches by kind.",
            ENDPOINT,
            ((endpoint(labels), each.active) for labels, each in watches),
        )
        events: dict[tuple[str, ...], int] = {}
        for labels, each in watches:
            events[labels[1:4]] = events.get(labels[1:4], 0) + each.events
        yield counter("apiserver_watch_events", "Events told to watches.", KIND, events.items())

    def _admission(self) -> Iterator[Metric]:
        measures = self.server.access.lookup.measures
        labels: tuple[str, ...]
        prefix = "apiserver_admission_"
        for name, help_, labels, found in (
            ("step_admission", "a phase of admission", STEP, measures.steps),
            ("controller_admission", "an admission plug-in", PLUGIN, measures.plugins),
            ("webhook_admission", "an admission webhook", PLUGIN, measures.webhooks),
        ):
            seen = ((each, rows) for each, rows in found.items() if any(rows.counts))
            yield histogram(
                f"{prefix}{name}_duration_seconds", f"Seconds of {help_}.", labels, seen
            )
        yield histogram(
            f"{prefix}match_condition_evaluation_seconds",
            "Seconds for the match conditions of a webhook or policy.",
            CONDITION,
            measures.conditions.items(),
        )
        for name, help_, labels, counts in (
            ("webhook_request", "Calls of webhooks.", (*PLUGIN[:3], "code", "rejected"),
             measures.webhook_requests),
            ("match_condition_evaluation_errors", "Match conditions with errors.", CONDITION,
             measures.condition_errors),
            ("match_condition_exclusions", "Requests that match conditions left out.", CONDITION,
             measures.condition_exclusions),
        ):  # fmt: skip
            yield counter(f"{prefix}{name}", help_, labels, counts.items())
        # Two counters whose names do not end in _total, which the library's own kind of counter would add.
        for name, help_, labels, counts in (
            ("webhook_rejection_count", "Requests that webhooks rejected.",
             (*PLUGIN[:3], "error_type", "rejection_code"), measures.webhook_rejections),
            ("webhook_fail_open_count", "Calls that failed and were let pass.", PLUGIN[:2],
             measures.webhook_fail_open),
        ):  # fmt: skip
            yield gauge(f"{prefix}{name}", help_, labels, counts.items())
        policy = ("policy", "policy_binding", "error_type")
        for name, labels, found in (
            ("validating", (*policy, "enforcement_action"), measures.validating),
            ("mutating", policy, measures.mutating),
        ):
            start = f"apiserver_{name}_admission_policy_check"
            totals = ((each, sum(rows.counts)) for each, rows in found.items())
            yield counter(start, "Checks of policies.", labels, totals)
            yield histogram(
                f"{start}_duration_seconds", "Seconds of an expression.", labels, found.items()
            )

    def _store(self) -> Iterator[Metric]:
        caches = [
            ("" if group == "core" else group, plural, len(cache.entries))
            for storage, cache in self.server.caches.caches.items()
            for group, _, plural in (storage.partition("/"),)
        ]
        yield gauge(
            "apiserver_storage_objects",
            "Stored objects by kind.",
            ("resource",),
            (((f"{plural}.{group}" if group else plural,), count) for group, plural, count in caches),
        )  # fmt: skip
        yield gauge(
            "apiserver_resource_objects",
            "Stored objects by kind.",
            ("group", "resource"),
            (((group, plural), count) for group, plural, count in caches),
        )
        if (size := self.server.store.size) is not None:
            yield gauge(
                "apiserver_storage_size_bytes",
                "Bytes that the database takes on disk.",
                ("storage_cluster_id",),
                [(("etcd-0",), size)],
            )
        yield gauge(
            "aggregator_unavailable_apiservice",
            "Which APIServices cannot be served.",
            ("name",),
            (
                ((each.remote.name,), int(not each.available))
                for each in self.server.aggregator.remotes.values()
            ),
        )

    def _levels(self) -> Iterator[Metric]:
        """Priority and fairness, by FlowSchema and level."""
        fairness = self.server.fairness
        prefix = "apiserver_flowcontrol_"
        for name in ("nominal_limit_seats", "current_limit_seats"):
            yield gauge(
                f"{prefix}{name}",
                "Seats of a level.",
                FLOW[1:],
                (((each.name,), each.seats) for each in fairness.levels.values() if not each.exempt),
            )  # fmt: skip
        flows = list(fairness.counts.items())
        for name, attribute, help_ in (
            ("current_executing_requests", "executing", "Requests that have a seat."),
            ("current_executing_seats", "seats", "Seats that are taken."),
            ("current_inqueue_requests", "waiting", "Requests that wait for a seat."),
        ):
            rows = ((labels, getattr(each, attribute)) for labels, each in flows)
            yield gauge(f"{prefix}{name}", help_, FLOW, rows)
        yield counter(
            f"{prefix}dispatched_requests",
            "Requests that were carried out.",
            FLOW,
            ((labels, each.dispatched) for labels, each in flows),
        )
        yield counter(
            f"{prefix}rejected_requests",
            "Requests answered with 429.",
            (*FLOW, "reason"),
            (
                ((*labels, reason), count)
                for labels, each in flows
                for reason, count in each.rejected.items()
            ),
        )
        yield histogram(
            f"{prefix}request_wait_duration_seconds",
            "Seconds in a queue, of requests that had to wait.",
            (*FLOW, "execute"),
            (
                ((*labels, "true" if let_in else "false"), waited)
                for labels, each in flows
                for let_in, waited in each.waited.items()
            ),
        )

    def _process(self) -> Iterator[Metric]:
        from sampan.apiserver.pages import version

        yield gauge(
            "kubernetes_build_info",
            "What this server is.",
            tuple(BUILD),
            [(tuple(str(version()[key]) for key in BUILD.values()), 1)],
        )
        yield histogram(
            "apiserver_client_certificate_expiration_seconds",
            "For how long the certificates of clients are good when they connect.",
            (),
            [((), self.server.metrics.certificates)],
        )
        # A controller that lost its lead and got it again has two queues until the first is collected.
        names: defaultdict[tuple[str], list[WorkQueue[Any]]] = defaultdict(list)
        for each in queues:
            if each.name:
                names[each.name,].append(each)
        for name, attribute, help_ in (
            ("adds", "adds", "Keys added to a controller's queue."),
            ("retries", "retries", "Keys added again after a failure."),
        ):
            rows = (
                (key, sum(getattr(each, attribute) for each in same)) for key, same in names.items()
            )
            yield counter(f"workqueue_{name}", help_, ("name",), rows)
        depths = ((key, sum(map(len, same))) for key, same in names.items())
        yield gauge("workqueue_depth", "Keys that wait to be handled.", ("name",), depths)


class HealthCollector(Collector):
    """What `/metrics/slis` tells: the health checks (KEP-3466)."""

    def __init__(self, health: Health) -> None:
        self.health = health

    def collect(self) -> Iterator[Metric]:
        counts = list(self.health.counts.items())
        yield gauge(
            "kubernetes_healthcheck",
            "1 where a check is passed.",
            ("name", "type"),
            (
                ((name, kind), int(not problem))
                for kind in ("healthz", "livez", "readyz")
                for name, problem in self.health.checks(kind).items()
            ),
        )
        yield counter("kubernetes_healthchecks", "Checks made.", ("name", "type", "status"), counts)


BUILD = {
    "build_date": "buildDate",
    "compiler": "compiler",
    "git_commit": "gitCommit",
    "git_tree_state": "gitTreeState",
    "git_version": "gitVersion",
    "go_version": "goVersion",
    "major": "major",
    "minor": "minor",
    "platform": "platform",
}


def expose(server: APIServer, accept: str) -> tuple[bytes, str]:
    """(document, its content type), in the format that the scraper's Accept header prefers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ServerCollector(server))
    registry.register(HealthCollector(server.health))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return written(registry, accept)


def expose_slis(server: APIServer, accept: str) -> tuple[bytes, str]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HealthCollector(server.health))
    return written(registry, accept)


def written(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
