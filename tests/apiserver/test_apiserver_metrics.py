"""/metrics: what is counted, and that scrapers can read it."""

from __future__ import annotations

import asyncio
import os

import pytest
from apiserver_harness import MAPS, Harness, api, config_map
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from sampan.client.transport import Request, Response, User
from sampan.kube import errors

__all__ = ["api"]


async def scrape(api: Harness, accept: str = "") -> tuple[dict[str, Metric], str]:
    response = await api.send("GET", "/metrics", accept=accept)
    text = (await response.read()).decode()
    kind = response.headers["Content-Type"]
    reader = parse_openmetrics if "openmetrics" in kind else parse
    return {family.name: family for family in reader(text)}, kind


def value(family: Metric, name: str = "", **labels: str) -> float:
    found = [
        sample.value
        for sample in family.samples
        if sample.name == (name or family.name) and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (family.name, labels, found)
    return float(found[0])


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_requests_are_counted(api: Harness, accept: str) -> None:
    for name in ("a", "b", "c"):
        await api.call("POST", MAPS, config_map(name))
    await api.call("GET", MAPS + "/none", status=404)
    found, kind = await scrape(api, accept)
    assert kind.startswith(accept.partition(";")[0] or "text/plain")
    labels = {"verb": "POST", "resource": "configmaps", "group": "", "scope": "namespace"}
    total = found["apiserver_request"]
    assert value(total, "apiserver_request_total", code="201", **labels) == 3
    durations = found["apiserver_request_duration_seconds"]
    assert durations.type == "histogram"
    assert value(durations, "apiserver_request_duration_seconds_count", **labels) == 3
    assert value(durations, "apiserver_request_duration_seconds_bucket", le="+Inf", **labels) == 3
    assert 0 < value(durations, "apiserver_request_duration_seconds_sum", **labels) < 60
    assert (
        value(found["apiserver_storage_objects"], resource="configmaps") == 4
    )  # and one of the cluster's


async def test_the_process(api: Harness) -> None:
    found, _ = await scrape(api)
    assert value(found["process_resident_memory_bytes"]) > 10_000_000
    assert value(found["process_cpu_seconds"], "process_cpu_seconds_total") > 0
    assert value(found["process_open_fds"]) == pytest.approx(
        len(os.listdir("/proc/self/fd")), abs=3
    )
    assert value(found["process_start_time_seconds"]) > 1e9


async def test_paths_and_labels_of_strangers_do_not_fill_the_memory(api: Harness) -> None:
    for number in range(50):
        await api.send("GET", f'/no{number}"\n')
        await api.send("GET", f"/apis/g{number}/v1/things{number}")
    assert len(api.server.metrics.requests) < 10
    await scrape(api)


async def test_requests_in_flight_are_counted_while_they_run(
    api: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    user_of = api.server.access.user

    async def slow(request: Request) -> User:
        if "slow" in request.headers:
            begun.set()
            await go_on.wait()
            raise errors.unauthorized()
        return await user_of(request)

    monkeypatch.setattr(api.server.access, "user", slow)
    writing: asyncio.Task[Response] = asyncio.create_task(api.send("DELETE", MAPS + "/a", slow="1"))
    await begun.wait()
    in_flight = (await scrape(api))[0]["apiserver_current_inflight_requests"]
    assert value(in_flight, request_kind="mutating") == 1
    assert value(in_flight, request_kind="readOnly") == 1  # this one
    go_on.set()
    assert (await writing).status == 401
    assert api.server.metrics.in_flight == {"readOnly": 0, "mutating": 0}


async def test_a_cancelled_request_is_no_longer_in_flight(
    api: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def never(request: Request) -> User:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(api.server.access, "user", never)
    task = asyncio.create_task(api.send("POST", MAPS, config_map("a")))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    assert api.server.metrics.in_flight["mutating"] == 0


async def test_watches_are_counted_apart(api: Harness) -> None:
    await api.call("POST", MAPS, config_map("a"))
    events = api.watch(MAPS + "?watch=true&resourceVersion=0")
    await anext(events)
    found, _ = await scrape(api)
    running = found["apiserver_longrunning_requests"]
    assert value(running, resource="configmaps", verb="WATCH") == 1
    assert value(found["apiserver_current_inflight_requests"], request_kind="readOnly") == 1
    await events.aclose()  # type: ignore[attr-defined]
