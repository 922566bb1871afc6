"""Which node a pod gets, and what is said when it gets none."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.kube.placement import matches_expression, matches_taint
from sampan.scheduler.pods import describe, pod_requests
from sampan.scheduler.snapshot import Snapshot, explain


def node(name: str, cpu: str = "4", memory: str = "8Gi", pods: str = "10", **spec: Any) -> dict:
    labels = {"kubernetes.io/hostname": name, **spec.pop("labels", {})}
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": pods}},
    }


def pod(name: str, cpu: str = "", memory: str = "", **spec: Any) -> dict:
    requests = {k: v for k, v in (("cpu", cpu), ("memory", memory)) if v}
    container = {
        "name": "c",
        "image": "i",
        "resources": {"requests": requests},
        **spec.pop("container", {}),
    }
    return {
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"containers": [container], **spec},
    }


def snapshot(*nodes: dict) -> Snapshot:
    result = Snapshot()
    for item in nodes:
        result.set_node(item)
    return result


def test_pods_spread_over_equal_nodes() -> None:
    cluster = snapshot(node("a"), node("b"), node("c"))
    for i in range(9):
        info = describe(pod(f"p{i}", cpu="100m"))
        chosen, _, _ = cluster.choose(info)
        assert chosen is not None
        cluster.place(info, chosen)
    assert [len(n.pods) for n in cluster.nodes.values()] == [3, 3, 3]


def test_a_node_is_filled_to_the_brim_and_not_beyond() -> None:
    cluster = snapshot(node("a", cpu="1"))
    for i in range(4):
        info = describe(pod(f"p{i}", cpu="250m"))
        assert cluster.choose(info)[0] == "a"
        cluster.place(info, "a")
    chosen, reasons, looked = cluster.choose(describe(pod("late", cpu="1m")))
    assert chosen is None
    assert explain(reasons, looked) == "0/1 nodes are available: 1 Insufficient cpu."
    cluster.forget("p0")
    assert cluster.choose(describe(pod("late", cpu="250m")))[0] == "a"


@pytest.mark.parametrize(
    ("bad_node", "spec", "reason"),
    [
        (
            node("a", taints=[{"key": "gpu", "effect": "NoSchedule"}]),
            {},
            "node(s) had untolerated taint {gpu: }",
        ),
        (node("a", unschedulable=True), {}, "node(s) were unschedulable"),
        (
            node("a"),
            {"nodeSelector": {"disk": "ssd"}},
            "node(s) didn't match Pod's node affinity/selector",
        ),
        (node("a", pods="0"), {}, "Too many pods"),
        (node("a"), {"overhead": {"memory": "9Gi"}}, "Insufficient memory"),
        (
            node("a"),
            {"container": {"resources": {"requests": {"nvidia.com/gpu": "1"}}}},
            "Insufficient nvidia.com/gpu",
        ),
    ],
)
def test_each_refusal_is_named(bad_node: dict, spec: dict, reason: str) -> None:
    chosen, reasons, looked = snapshot(bad_node).choose(describe(pod("p", **spec)))
    assert chosen is None
    assert explain(reasons, looked) == f"0/1 nodes are available: 1 {reason}."


def test_a_change_of_the_node_is_seen_by_pods_asked_about_before() -> None:
    cluster = snapshot(node("a"))
    wanting = describe(pod("p", nodeSelector={"disk": "ssd"}))
    assert cluster.choose(wanting)[0] is None
    cluster.set_node(node("a", labels={"disk": "ssd"}))
    assert cluster.choose(wanting)[0] == "a"


def test_host_ports_conflict_by_address() -> None:
    def with_port(name: str, ip: str = "") -> Any:
        port = {"containerPort": 80, "hostPort": 80} | ({"hostIP": ip} if ip else {})
        return describe(pod(name, container={"ports": [port]}))

    cluster = snapshot(node("a"))
    cluster.place(with_port("one", "127.0.0.1"), "a")
    assert cluster.choose(with_port("two", "127.0.0.2"))[0] == "a"
    assert cluster.choose(with_port("three", "127.0.0.1"))[0] is None
    assert cluster.choose(with_port("all"))[0] is None


def test_sidecars_and_init_containers_count_as_documented() -> None:
    def container(cpu: str, **more: str) -> dict:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "initContainers": [
            container("100m", restartPolicy="Always"),
            container("2"),
            container("50m"),
        ],
        "containers": [container("500m"), container("500m")],
    }
    assert pod_requests(spec)[0] == {"cpu": 2100}, (
        "the init container beside the sidecar is the peak"
    )
    spec["initContainers"][1] = container("10m")
    assert pod_requests(spec)[0] == {"cpu": 1100}


def test_limits_stand_in_for_requests() -> None:
    spec = {"containers": [{"resources": {"limits": {"memory": "1Gi"}}}]}
    assert pod_requests(spec)[0] == {"memory": 2**30}


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "a", "value": "1"}, True),
        ({"key": "a", "value": "2"}, False),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "a", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"value": "1"}, False),
    ],
)
def test_tolerations(toleration: dict, tolerated: bool) -> None:
    assert (
        matches_taint(toleration, {"key": "a", "value": "1", "effect": "NoSchedule"}) is tolerated
    )


@pytest.mark.parametrize(
    ("operator", "values", "matched"),
    [
        ("In", ["x", "1"], True), ("NotIn", ["1"], False), ("Exists", [], True), ("DoesNotExist", [], False),
        ("Gt", ["0"], True), ("Gt", ["1"], False), ("Lt", ["2"], True), ("Lt", ["x"], False),
    ],
)  # fmt: skip
def test_node_affinity_operators(operator: str, values: list[str], matched: bool) -> None:
    assert (
        matches_expression({"key": "k", "operator": operator, "values": values}, {"k": "1"})
        is matched
    )


def test_no_nodes_at_all_is_said_plainly() -> None:
    chosen, reasons, looked = snapshot().choose(describe(pod("p")))
    assert chosen is None
    assert explain(reasons, looked) == "no nodes available to schedule pods"
