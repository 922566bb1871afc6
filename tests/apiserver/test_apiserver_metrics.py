"""/metrics: what is counted, and that scrapers can read it."""

from __future__ import annotations

import asyncio
import os

import pytest
from apiserver_harness import MAPS, Harness, api, config_map
from metrics_harness import scrape, value

from sampan.apiserver.routes import parse as parse_path
from sampan.client.transport import Request, Response, User
from sampan.client.workqueue import WorkQueue
from sampan.kube import errors

__all__ = ["api"]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
async def test_requests_are_counted(api: Harness, accept: str) -> None:
    for name in ("a", "b", "c"):
        await api.call("POST", MAPS, config_map(name))
    await api.call("GET", MAPS + "/none", status=404)
    found, kind = await scrape(api, accept)
    assert kind.startswith(accept.partition(";")[0] or "text/plain")
    labels = {"verb": "POST", "resource": "configmaps", "group": "", "scope": "resource"}
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


async def test_two_queues_of_one_name_are_told_as_one(api: Harness) -> None:
    twice = [WorkQueue[str](name="twice") for _ in range(2)]
    for queue in twice:
        queue.add("key")
    found, _ = await scrape(api, "application/openmetrics-text; version=1.0.0")
    assert value(found["workqueue_adds"], "workqueue_adds_total", name="twice") == 2
    assert value(found["workqueue_depth"], name="twice") == 2


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
    labels = {"group": "", "version": "v1", "resource": "configmaps"}
    assert value(running, verb="WATCH", scope="namespace", **labels) == 1
    told = found["apiserver_watch_events"]
    assert value(told, "apiserver_watch_events_total", **labels) == 1
    assert value(found["apiserver_current_inflight_requests"], request_kind="readOnly") == 1
    await events.aclose()  # type: ignore[attr-defined]
    found, _ = await scrape(api)
    assert value(found["apiserver_longrunning_requests"], resource="configmaps") == 0


async def test_requests_are_told_apart_as_kubernetes_does(api: Harness) -> None:
    await api.call("POST", MAPS + "?dryRun=All", config_map("a"))
    await api.apply(MAPS + "/a", {**config_map("a")})
    await api.patch("merge", MAPS + "/a", {"data": {"c": "d"}})
    await api.call("GET", MAPS)
    await api.call("GET", "/api/v1/namespaces/default/endpoints")
    await api.send("FROB", MAPS + "/a")
    found, _ = await scrape(api)
    total = found["apiserver_request"]
    for labels in (
        {"verb": "POST", "dry_run": "All", "code": "201"},
        {"verb": "APPLY", "dry_run": "", "code": "201"},
        {"verb": "PATCH", "code": "200"},
        {"verb": "LIST", "scope": "namespace", "code": "200"},
        {"verb": "other", "code": "405"},
    ):
        assert value(total, "apiserver_request_total", resource="configmaps", **labels) == 1
    sizes = found["apiserver_response_sizes"]
    count = "apiserver_response_sizes_count"
    assert value(sizes, count, verb="LIST", resource="configmaps") == 1
    assert not [each for each in sizes.samples if each.labels["verb"] == "POST"]
    own = found["apiserver_request_sli_duration_seconds"].samples
    assert not [each for each in own if "dry_run" in each.labels]
    [old] = found["apiserver_requested_deprecated_apis"].samples
    assert (old.labels["resource"], old.value) == ("endpoints", 1)


async def test_time_spent_waiting_is_not_the_servers_own(api: Harness) -> None:
    info = parse_path("GET", MAPS + "/a", [])
    metrics = api.server.metrics
    metrics.observe(info, 200, 0.01)
    metrics.observe(info, 200, 3.0, waiting=2.99)
    metrics.observe(info, 200, 0.01)
    found, _ = await scrape(api)
    labels = {"resource": "configmaps", "verb": "GET", "le": "0.05"}
    whole = found["apiserver_request_duration_seconds"]
    assert value(whole, "apiserver_request_duration_seconds_bucket", **labels) == 2
    own = found["apiserver_request_sli_duration_seconds"]
    assert value(own, "apiserver_request_sli_duration_seconds_bucket", **labels) == 3


async def test_admission_is_measured(api: Harness) -> None:
    prefix = "apiserver_admission_"
    plugin = f"{prefix}controller_admission_duration_seconds"
    step = f"{prefix}step_admission_duration_seconds"
    lifecycle = {"name": "NamespaceLifecycle", "type": "admit", "operation": "CREATE"}

    async def counted() -> list[float]:
        found, _ = await scrape(api)
        return [
            value(found[plugin], f"{plugin}_count", rejected="false", **lifecycle),
            value(found[step], f"{step}_count", type="admit", operation="CREATE", rejected="false"),
            value(
                found[step], f"{step}_count", type="validate", operation="CREATE", rejected="false"
            ),
        ]

    await api.call("POST", MAPS, config_map("first"))
    before = await counted()
    await api.call("POST", MAPS, config_map("a"))
    assert [each - 1 for each in await counted()] == before
    await api.call("POST", MAPS.replace("default", "nowhere"), config_map("a"), 404)
    assert [each - 1 for each in await counted()] == before
    found, _ = await scrape(api)
    assert value(found[plugin], f"{plugin}_count", rejected="true", **lifecycle) == 1
    assert value(found[step], f"{step}_count", type="admit", rejected="true") == 1


async def test_what_dashboards_ask_for(api: Harness) -> None:
    found, _ = await scrape(api)
    build = found["kubernetes_build_info"].samples[0].labels
    assert (build["major"], build["minor"]) == ("1", "36")
    assert value(found["kubernetes_healthcheck"], name="ping", type="livez") == 1
    assert value(found["apiserver_resource_objects"], group="", resource="configmaps") == 1
    assert value(found["apiserver_storage_size_bytes"]) > 0
    assert found["apiserver_flowcontrol_nominal_limit_seats"].samples
    for name in (
        "apiserver_request_terminations",
        "apiserver_flowcontrol_rejected_requests",
        "apiserver_admission_webhook_request",
        "apiserver_admission_webhook_rejection_count",
        "apiserver_validating_admission_policy_check",
        "aggregator_unavailable_apiservice",
        "rest_client_requests",
        "workqueue_depth",
    ):
        assert name in found, name
