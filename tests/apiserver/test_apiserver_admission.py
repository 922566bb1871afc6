"""The built-in admission plug-ins, through the API: limits, quotas, pod security, defaults of classes."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from apiserver_harness import PODS, Harness, api, service_account

__all__ = ["api"]

NAMESPACES = "/api/v1/namespaces"
QUOTAS = "/api/v1/namespaces/default/resourcequotas"
LIMITS = "/api/v1/namespaces/default/limitranges"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"


@pytest.fixture(autouse=True)
async def account(api: Harness) -> None:
    await service_account(api)


def pod(name: str = "p", **spec: Any) -> dict[str, Any]:
    container = {"name": "a", "image": "x", "resources": spec.pop("resources", {})}
    container |= {"securityContext": spec.pop("context", {})}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


async def make_quota(api: Harness, hard: dict[str, str], **spec: Any) -> None:
    """A quota as the controller leaves it after its first count of an empty namespace."""
    made = await api.call(
        "POST",
        QUOTAS,
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}}
        | {"spec": {"hard": hard, **spec}},
    )
    made["status"] = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    await api.call("PUT", f"{QUOTAS}/q/status", made)


async def used(api: Harness) -> dict[str, str]:
    return (await api.call("GET", f"{QUOTAS}/q"))["status"]["used"]


async def test_a_quota_is_taken_from_and_refuses_when_it_is_full(api: Harness) -> None:
    await make_quota(api, {"pods": "2"})
    for name in ("a", "b"):
        await api.call("POST", PODS, pod(name))
    assert await used(api) == {"pods": "2"}
    error = await api.call("POST", PODS, pod("c"), 403)
    assert error["message"] == (
        'pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2'
    )
    assert error["reason"] == "Forbidden"


async def test_many_at_once_never_take_more_than_there_is(api: Harness) -> None:
    await make_quota(api, {"pods": "7", "count/pods": "9"})
    answers = await asyncio.gather(
        *(api.send("POST", PODS, pod(f"p{index}")) for index in range(30))
    )
    assert sorted(each.status for each in answers) == [201] * 7 + [403] * 23
    assert await used(api) == {"pods": "7", "count/pods": "7"}


async def test_a_dry_run_takes_nothing(api: Harness) -> None:
    await make_quota(api, {"pods": "1"})
    await api.call("POST", f"{PODS}?dryRun=All", pod())
    assert await used(api) == {"pods": "0"}


async def test_a_compute_quota_wants_every_container_to_speak(api: Harness) -> None:
    await make_quota(api, {"limits.cpu": "1"})
    error = await api.call("POST", PODS, pod(), 403)
    assert error["message"] == (
        'pods "p" is forbidden: failed quota: q: must specify limits.cpu for: a'
    )
    await api.call("POST", PODS, pod(resources={"limits": {"cpu": "600m"}}))
    error = await api.call("POST", PODS, pod("r", resources={"limits": {"cpu": "500m"}}), 403)
    assert (
        "requested: limits.cpu=500m, used: limits.cpu=600m, limited: limits.cpu=1"
        in (error["message"])
    )


async def test_a_scoped_quota_leaves_others_alone(api: Harness) -> None:
    await make_quota(api, {"pods": "0"}, scopes=["BestEffort"])
    await api.call("POST", PODS, pod(resources={"requests": {"cpu": "1m"}}))
    await api.call("POST", PODS, pod("q"), 403)


async def test_quota_counts_custom_names_and_services(api: Harness) -> None:
    await make_quota(api, {"count/configmaps": "1", "services.nodeports": "1"})
    maps = "/api/v1/namespaces/default/configmaps"
    await api.call("POST", maps, {"metadata": {"name": "a"}})
    await api.call("POST", maps, {"metadata": {"name": "b"}}, 403)
    services = "/api/v1/namespaces/default/services"
    service = {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    made = await api.call("POST", services, service)
    made["spec"]["type"] = "NodePort"
    await api.call("PUT", f"{services}/s", made)
    assert await used(api) == {"count/configmaps": "1", "services.nodeports": "1"}


def limit_range(**item: Any) -> dict[str, Any]:
    return {"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container", **item}]}}


async def test_limits_default_what_containers_do_not_say(api: Harness) -> None:
    await api.call(
        "POST",
        LIMITS,
        limit_range(default={"cpu": "500m", "memory": "64Mi"}, defaultRequest={"cpu": "100m"}),
    )
    made = await api.call("POST", PODS, pod(resources={"limits": {"memory": "32Mi"}}))
    assert made["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "100m", "memory": "64Mi"} | {"memory": "32Mi"},
        "limits": {"cpu": "500m", "memory": "32Mi"},
    }
    assert made["metadata"]["annotations"]["kubernetes.io/limit-ranger"].startswith(
        "LimitRanger plugin set: "
    )


async def test_the_class_of_service_follows_from_what_limits_have_set(api: Harness) -> None:
    both = {"cpu": "100m", "memory": "64Mi"}
    await api.call("POST", LIMITS, limit_range(default=both, defaultRequest=both))
    assert (await api.call("POST", PODS, pod("p")))["status"]["qosClass"] == "Guaranteed"


async def test_limits_refuse_with_every_bound_that_is_broken(api: Harness) -> None:
    await api.call(
        "POST",
        LIMITS,
        limit_range(
            min={"cpu": "100m"},
            max={"memory": "1Gi"},
            default={"memory": "1Gi"},
            defaultRequest={"memory": "1Gi", "cpu": "100m"},
        ),
    )
    asked = {"requests": {"cpu": "50m"}, "limits": {"memory": "2Gi"}}
    error = await api.call("POST", PODS, pod(resources=asked), 403)
    assert "minimum cpu usage per Container is 100m, but request is 50m" in error["message"]
    assert "maximum memory usage per Container is 1Gi, but limit is 2Gi" in error["message"]
    assert error["message"].startswith('pods "p" is forbidden: [')


async def make_namespace(api: Harness, name: str, **labels: str) -> dict[str, Any]:
    marked = {f"pod-security.kubernetes.io/{key}": value for key, value in labels.items()}
    return await api.call("POST", NAMESPACES, {"metadata": {"name": name, "labels": marked}})


async def make_account(api: Harness, namespace: str) -> None:
    path = f"{NAMESPACES}/{namespace}/serviceaccounts"
    await api.call("POST", path, {"metadata": {"name": "default"}})


async def test_pod_security_enforces_and_warns(api: Harness) -> None:
    await make_namespace(api, "safe", enforce="baseline", warn="restricted")
    await make_account(api, "safe")
    pods = f"{NAMESPACES}/safe/pods"
    error = await api.call("POST", pods, pod(context={"privileged": True}), 403)
    assert error["message"] == (
        'pods "p" is forbidden: violates PodSecurity "baseline:latest": privileged '
        '(container "a" must not set securityContext.privileged=true)'
    )
    response = await api.send("POST", pods, pod())
    assert response.status == 201
    assert 'would violate PodSecurity \\"restricted:latest\\"' in response.headers["Warning"]


async def test_a_workload_is_warned_of_what_its_pods_may_not_do(api: Harness) -> None:
    await make_namespace(api, "safe", enforce="baseline")
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod(hostNetwork=True)["spec"]}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    path = "/apis/apps/v1/namespaces/safe/deployments"
    response = await api.send("POST", path, {"metadata": {"name": "d"}, "spec": spec})
    assert response.status == 201, await response.read()
    assert "host namespaces (hostNetwork=true)" in response.headers["Warning"]


async def test_a_namespace_that_becomes_stricter_warns_of_its_pods(api: Harness) -> None:
    await make_namespace(api, "soon")
    await make_account(api, "soon")
    for name in ("b", "a"):
        await api.call("POST", f"{NAMESPACES}/soon/pods", pod(name, hostPID=True))
    patch = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    response = await api.send(
        "PATCH", f"{NAMESPACES}/soon", patch, content="application/merge-patch+json"
    )
    assert response.status == 200
    warning = response.headers["Warning"]
    assert "existing pods in namespace" in warning
    assert "a (and 1 other pod): host namespaces" in warning


async def test_a_label_that_means_nothing_is_refused(api: Harness) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "severe"}
    body = {"metadata": {"name": "odd", "labels": labels}}
    error = await api.call("POST", NAMESPACES, body, 422)
    cause = error["details"]["causes"][0]
    assert cause["field"] == "metadata.labels[pod-security.kubernetes.io/enforce]"


@pytest.mark.parametrize("named", [None, "slow"])
async def test_a_claim_gets_the_newest_default_class(api: Harness, named: str | None) -> None:
    path = "/apis/storage.k8s.io/v1/storageclasses"
    marks = {"storageclass.kubernetes.io/is-default-class": "true"}
    for name, marked in (("fast", marks), ("slow", {})):
        body = {"metadata": {"name": name, "annotations": marked}, "provisioner": "x.y/z"}
        await api.call("POST", path, body)
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    if named:
        spec["storageClassName"] = named
    made = await api.call("POST", CLAIMS, {"metadata": {"name": "c"}, "spec": spec})
    assert made["spec"]["storageClassName"] == (named or "fast")
    assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]


async def test_an_ingress_gets_the_default_class(api: Harness) -> None:
    marks = {"ingressclass.kubernetes.io/is-default-class": "true"}
    body = {"metadata": {"name": "front", "annotations": marks}, "spec": {"controller": "x.y/z"}}
    await api.call("POST", "/apis/networking.k8s.io/v1/ingressclasses", body)
    backend = {"service": {"name": "s", "port": {"number": 80}}}
    made = await api.call(
        "POST",
        "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
        {"metadata": {"name": "i"}, "spec": {"defaultBackend": backend}},
    )
    assert made["spec"]["ingressClassName"] == "front"


async def test_what_the_status_of_a_quota_says_survives_a_plain_update(api: Harness) -> None:
    await make_quota(api, {"pods": "3"})
    await api.call("POST", PODS, pod())
    item = await api.call("GET", f"{QUOTAS}/q")
    item["spec"]["hard"]["pods"] = "1"
    answer = await api.send("PUT", f"{QUOTAS}/q", item)
    assert orjson.loads(await answer.read())["status"]["used"] == {"pods": "1"}
