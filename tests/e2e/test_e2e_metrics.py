"""`kubectl top`, from our own metrics.k8s.io, and the APIServices behind it; a backup put back into a running cluster."""

from __future__ import annotations

import json
import re

import pytest
from box import container
from cluster import Cluster, wait_for
from pieces import KINDS, deployment
from space import Space


def amount(text: str) -> int:
    """Millicores or MiB, as kubectl prints them."""
    return int(text.removesuffix("m").removesuffix("Mi").removesuffix("%"))


@pytest.mark.parametrize("kind", KINDS)
def test_top_shows_what_nodes_and_pods_use(space: Space, kind: str) -> None:
    cluster = space.cluster
    space.apply(deployment(kind, "used", 1))
    space.kubectl("rollout", "status", f"deployment/used-{kind}", "--timeout=60s")
    name, cpu, share, memory, _ = cluster.kubectl("top", "nodes", "--no-headers").split()
    assert name == "boat"
    assert amount(cpu) > 0 and amount(memory) > 0 and amount(share) >= 0

    def listed() -> list[list[str]]:
        text = space.kubectl("top", "pods", "-l", f"kind={kind}", "--no-headers")
        return [line.split() for line in text.splitlines()]

    ((pod_name, _, used),) = wait_for(listed, what="metrics of the pod")
    assert pod_name.startswith(f"used-{kind}-")
    assert amount(used) >= 0  # the example needs less than one
    one = space.kubectl("top", "pod", pod_name, "--containers", "--no-headers").split()
    assert one[:2] == [pod_name, "hello"]
    found = json.loads(
        cluster.kubectl(
            "get", "--raw", f"/apis/metrics.k8s.io/v1beta1/namespaces/{space.name}/pods"
        )
    )
    assert found["kind"] == "PodMetricsList"
    for each in found["items"]:
        for one in each["containers"]:
            assert int(one["usage"]["memory"].removesuffix("Ki")) > 0


def test_apiservices_are_listed(cluster: Cluster) -> None:
    lines = cluster.kubectl("get", "apiservices", "--no-headers").splitlines()
    rows = {line.split()[0]: line.split()[1:3] for line in lines}
    assert rows["v1beta1.metrics.k8s.io"] == ["Local", "True"]
    assert rows["v1.apps"] == ["Local", "True"]
    assert "nodes" in cluster.kubectl("api-resources", "--api-group=metrics.k8s.io")


def test_a_backup_is_put_back_while_pods_run(own_cluster: Cluster) -> None:
    kind = KINDS[0]
    own_cluster.apply(deployment(kind, "kept", 1))
    own_cluster.kubectl("rollout", "status", f"deployment/kept-{kind}", "--timeout=60s")
    own_cluster.kubectl("create", "configmap", "chart", "--from-literal=depth=3")
    backup = str(own_cluster.directory / "backup.db")
    own_cluster.run(
        own_cluster.python, "-m", "sampan", "store", "backup", backup,
        "--data-dir", str(own_cluster.data),
    )  # fmt: skip
    before = own_cluster.get("pods", "-l", "app=kept")["items"]
    own_cluster.kubectl("delete", "configmap", "chart")
    own_cluster.kubectl("create", "configmap", "later")
    said = own_cluster.run(
        own_cluster.python, "-m", "sampan", "store", "restore", backup,
        "--data-dir", str(own_cluster.data),
    ).stdout  # fmt: skip
    assert "records of revision" in said

    def back() -> bool:
        try:
            return own_cluster.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    wait_for(back, what="the server")
    assert own_cluster.get("configmap", "chart")["data"] == {"depth": "3"}
    assert "not found" in own_cluster.kubectl_fails("get", "configmap", "later")
    own_cluster.kubectl("wait", "pod", "-l", "app=kept", "--for=condition=Ready", "--timeout=60s")
    after = own_cluster.get("pods", "-l", "app=kept")["items"]
    assert [each["metadata"]["uid"] for each in after] == [
        each["metadata"]["uid"] for each in before
    ]
    assert after[0]["status"]["containerStatuses"][0]["restartCount"] == 0


def test_a_busy_deployment_grows(space: Space) -> None:
    """Real usage, from the node through metrics.k8s.io to the autoscaler, as kubectl makes and shows it."""
    labels = {"app": "busy"}
    spinning = container(
        "wasm", "spin", resources={"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}}
    )
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "runtimeClassName": "wasm",
            "terminationGracePeriodSeconds": 0,
            "containers": [spinning],
        },
    }
    space.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "busy"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
    )
    space.kubectl("autoscale", "deployment", "busy", "--cpu=50%", "--min=1", "--max=2")
    space.kubectl(
        "wait",
        "--for=jsonpath={.status.readyReplicas}=2",
        "--timeout=60s",
        "deployment/busy",
        timeout=70,
    )
    header, row = space.kubectl("get", "hpa", "busy").splitlines()
    assert header.split() == [
        "NAME",
        "REFERENCE",
        "TARGETS",
        "MINPODS",
        "MAXPODS",
        "REPLICAS",
        "AGE",
    ]
    assert re.match(r"busy +Deployment/busy +cpu: [0-9]+%/50% +1 +2 +[12] ", row), row
    told = space.kubectl("describe", "hpa", "busy")
    assert re.search(
        r"Normal +SuccessfulRescale .* New size: 2; reason: cpu resource utilization", told
    ), told
    limited = wait_for(
        lambda: re.search(
            r"ScalingLimited +True +TooManyReplicas", space.kubectl("describe", "hpa", "busy")
        ),
        what="the autoscaler at its limit",
    )
    assert limited
    space.kubectl("delete", "hpa,deployment", "busy")
