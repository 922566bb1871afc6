"""PodDisruptionBudgets against the real API server: what may be evicted follows what is healthy."""

from __future__ import annotations

import orjson
import pytest
from conftest import workload

from sampan.client.resources import DEPLOYMENTS, PODDISRUPTIONBUDGETS, PODS, SERVICEACCOUNTS
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition


def budget(**spec):
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "calm", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


def allows(count):
    return lambda found: (found.get("status") or {}).get("disruptionsAllowed") == count


async def evict(world, name):
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
    }
    path = f"/api/v1/namespaces/default/pods/{name}/eviction"
    return await world.client.raw("POST", path, body=orjson.dumps(body))


@pytest.mark.parametrize(
    ("spec", "desired"),
    [({"minAvailable": 2}, 2), ({"maxUnavailable": 1}, 2), ({"minAvailable": "50%"}, 2)],
)
async def test_what_may_go_is_what_is_healthy_beyond_what_must_stay(alive, spec, desired):
    await alive.client.create(PODDISRUPTIONBUDGETS, budget(**spec), "default")
    await alive.client.create(DEPLOYMENTS, workload("Deployment", replicas=3), "default")
    found = await alive.get_until(PODDISRUPTIONBUDGETS, "calm", allows(1))
    status = found["status"]
    assert (status["currentHealthy"], status["desiredHealthy"]) == (3, desired)
    assert status["expectedPods"] == 3
    assert condition(found, "DisruptionAllowed")["reason"] == "SufficientPods"


async def test_evictions_stop_where_the_budget_ends(world):
    await world.client.create(PODDISRUPTIONBUDGETS, budget(minAvailable=1), "default")
    await world.client.create(DEPLOYMENTS, workload("Deployment", replicas=2), "default")
    pods = await world.until(PODS, lambda items: len(items) == 2 and items)
    for pod in pods:
        await world.set_pod(pod["metadata"]["name"])
    await world.get_until(PODDISRUPTIONBUDGETS, "calm", allows(1))
    first, second = (pod["metadata"]["name"] for pod in pods)
    await evict(world, first)
    with pytest.raises(ApiError) as refused:
        await evict(world, second)
    assert refused.value.code == 429
    assert "violate the pod's disruption budget" in refused.value.message


async def test_pods_of_nobody_cannot_be_counted_in_shares(world):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lone", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }
    await world.until(SERVICEACCOUNTS, lambda items: items)
    await world.client.create(PODS, pod, "default")
    await world.client.create(PODDISRUPTIONBUDGETS, budget(maxUnavailable=1), "default")
    found = await world.get_until(
        PODDISRUPTIONBUDGETS, "calm", lambda b: condition(b, "DisruptionAllowed")
    )
    assert condition(found, "DisruptionAllowed")["reason"] == "SyncFailed"
    assert found["status"]["disruptionsAllowed"] == 0
