"""Quota arithmetic: what objects use, which quota counts them, what pods forget to say."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.kube import podresources, quota


def shown(amounts: podresources.Amounts) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


def container(name: str = "a", **resources: Any) -> dict[str, Any]:
    return {"name": name, "resources": resources}


def test_a_pod_uses_the_larger_of_its_init_containers_and_the_sum_of_the_others() -> None:
    spec = {
        "initContainers": [
            {**container("side", requests={"cpu": "100m"}), "restartPolicy": "Always"},
            container("init", requests={"cpu": "2"}),
        ],
        "containers": [container(requests={"cpu": "500m"}), container(requests={"cpu": "1"})],
        "overhead": {"cpu": "50m", "memory": "8Mi"},
    }
    assert shown(podresources.of_pod(spec, "requests")) == {"cpu": "2150m", "memory": "8Mi"}


def test_usage_of_a_pod_counts_itself_its_requests_and_limits() -> None:
    pod = {
        "spec": {
            "containers": [
                container(requests={"cpu": "1", "example.com/gpu": "2"}, limits={"memory": "1Gi"})
            ]
        }
    }
    assert shown(quota.usage("", "pods", pod)) == {
        "count/pods": "1",
        "pods": "1",
        "cpu": "1",
        "requests.cpu": "1",
        "requests.example.com/gpu": "2",
        "limits.memory": "1Gi",
    }
    pod["status"] = {"phase": "Succeeded"}
    assert shown(quota.usage("", "pods", pod)) == {"count/pods": "1"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"type": "ClusterIP", "ports": [{}]}, {}),
        ({"type": "NodePort", "ports": [{}, {}]}, {"services.nodeports": "2"}),
        (
            {"type": "LoadBalancer", "ports": [{}]},
            {"services.loadbalancers": "1", "services.nodeports": "1"},
        ),
        (
            {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": [{}]},
            {"services.loadbalancers": "1"},
        ),
    ],
)
def test_usage_of_a_service(spec: dict[str, Any], expected: dict[str, str]) -> None:
    found = shown(quota.usage("", "services", {"spec": spec}))
    assert found == {"count/services": "1", "services": "1", **expected}


def test_a_claim_counts_for_its_class_too_and_other_kinds_by_their_name() -> None:
    claim = {
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}},
        "status": {"allocatedResources": {"storage": "6Gi"}},
    }
    found = shown(quota.usage("", "persistentvolumeclaims", claim))
    assert found["requests.storage"] == "6Gi"
    assert found["fast.storageclass.storage.k8s.io/persistentvolumeclaims"] == "1"
    assert shown(quota.usage("apps", "deployments", {})) == {"count/deployments.apps": "1"}


def test_the_kinds_that_a_quota_counts() -> None:
    names = ["cpu", "count/jobs.batch", "services.nodeports", "requests.storage", "secrets"]
    assert quota.kinds_of(names) == {
        ("", "pods"),
        ("batch", "jobs"),
        ("", "services"),
        ("", "persistentvolumeclaims"),
        ("", "secrets"),
    }


def scoped(*expressions: dict[str, Any], scopes: tuple[str, ...] = ()) -> dict[str, Any]:
    spec: dict[str, Any] = {"scopes": list(scopes)}
    if expressions:
        spec["scopeSelector"] = {"matchExpressions": list(expressions)}
    return {"spec": spec}


PLAIN = {"spec": {"containers": [container()]}}
GUARANTEED = {"spec": {"containers": [container(requests={"cpu": "1"})]}}
HIGH = {"spec": {"containers": [container()], "priorityClassName": "high"}}
BOUNDED = {"spec": {"containers": [container()], "activeDeadlineSeconds": 5}}
FAR = {
    "spec": {
        "containers": [],
        "affinity": {
            "podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["other"]}]
            }
        },
    }
}


@pytest.mark.parametrize(
    ("item", "inside", "outside"),
    [
        (scoped(scopes=("BestEffort",)), PLAIN, GUARANTEED),
        (scoped(scopes=("NotBestEffort",)), GUARANTEED, PLAIN),
        (scoped(scopes=("Terminating",)), BOUNDED, PLAIN),
        (scoped(scopes=("NotTerminating",)), PLAIN, BOUNDED),
        (scoped(scopes=("CrossNamespacePodAffinity",)), FAR, PLAIN),
        (
            scoped({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}),
            HIGH,
            PLAIN,
        ),
        (scoped({"scopeName": "PriorityClass", "operator": "DoesNotExist"}), PLAIN, HIGH),
    ],
)
def test_scopes(item: dict[str, Any], inside: dict[str, Any], outside: dict[str, Any]) -> None:
    assert quota.in_scope(item, "", "pods", inside)
    assert not quota.in_scope(item, "", "pods", outside)
    assert not quota.in_scope(item, "", "services", inside)


def test_a_quota_on_compute_obliges_every_container_to_speak() -> None:
    hard = podresources.amounts({"limits.cpu": "1", "memory": "1Gi", "pods": "3"})
    pod = {"spec": {"containers": [container("a", limits={"cpu": "1"}), container("b")]}}
    assert quota.missing(hard, pod) == {"limits.cpu": ["b"], "memory": ["a", "b"]}
