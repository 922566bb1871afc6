"""Health checks: the names that monitoring looks for, and what becomes of them when a part of the server ends."""

from __future__ import annotations

import asyncio

import pytest
from apiserver_harness import Harness, api
from metrics_harness import scrape, value

from sampan.client.transport import Response

__all__ = ["api"]

# test/e2e/apimachinery/health_handlers.go
REQUIRED = [
    "ping",
    "log",
    "etcd",
    *(
        f"poststarthook/{hook}"
        for hook in (
            "start-kube-apiserver-admission-initializer",
            "generic-apiserver-start-informers",
            "start-apiextensions-informers",
            "start-apiextensions-controllers",
            "crd-informer-synced",
            "bootstrap-controller",
            "start-system-namespaces-controller",
            "scheduling/bootstrap-system-priority-classes",
            "start-cluster-authentication-info-controller",
            "start-kube-aggregator-informers",
            "apiservice-registration-controller",
            "apiservice-status-available-controller",
            "kube-apiserver-autoregistration",
            "apiservice-openapi-controller",
        )
    ),
    "autoregister-completion",
]


async def text(response: Response) -> str:
    return (await response.read()).decode()


@pytest.mark.parametrize("kind", ["healthz", "livez", "readyz"])
async def test_the_usual_checks_are_there(api: Harness, kind: str) -> None:
    response = await api.send("GET", f"/{kind}?verbose=1")
    lines = (await text(response)).splitlines()
    assert response.status == 200
    assert {f"[+]{name} ok" for name in REQUIRED} <= set(lines)
    assert lines[-1] == f"{kind} check passed"
    assert ("[+]informer-sync ok" in lines) == (kind == "readyz")
    for name in ("etcd", "poststarthook/crd-informer-synced"):
        assert (await api.send("GET", f"/{kind}/{name}")).status == 200


async def test_a_task_that_ended_is_told(api: Harness) -> None:
    task = api.server.health.tasks["crd informer"]
    task.cancel()
    await asyncio.wait([task])
    response = await api.send("GET", "/livez")
    assert response.status == 500
    told = await text(response)
    assert "[-]poststarthook/crd-informer-synced failed" in told
    assert "[+]poststarthook/generic-apiserver-start-informers ok" in told
    left = "exclude=poststarthook/crd-informer-synced"
    left += "&exclude=poststarthook/start-apiextensions-informers"
    left += "&exclude=poststarthook/start-apiextensions-controllers"
    assert (await api.send("GET", f"/livez?{left}")).status == 200
    found, _ = await scrape(api)
    labels = {"name": "poststarthook/crd-informer-synced", "type": "livez"}
    assert value(found["kubernetes_healthcheck"], **labels) == 0


async def test_slis(api: Harness) -> None:
    await api.send("GET", "/livez")
    found, _ = await scrape(api, path="/metrics/slis")
    assert set(found) == {"kubernetes_healthcheck", "kubernetes_healthchecks"}
    made = found["kubernetes_healthchecks"]
    name = "kubernetes_healthchecks_total"
    assert value(made, name, name="ping", type="livez", status="success") >= 1
