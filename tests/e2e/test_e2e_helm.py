"""helm 4, unmodified: a chart with a CRD, hooks that are Jobs, and workloads is installed, upgraded, rolled back, removed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import ROOT, Cluster, wait_for

HELM = str(ROOT / ".cache" / "clients" / "helm")
CHART = Path(__file__).with_name("chart")


class Helm:
    """helm in a namespace of its own, with a home of its own."""

    def __init__(self, cluster: Cluster, namespace: str, home: Path) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.home = home

    def __call__(self, *arguments: str, check: bool = True) -> str:
        done = self.cluster.run(
            "env",
            *(f"XDG_{kind}_HOME={self.home / kind}" for kind in ("CACHE", "CONFIG", "DATA")),
            f"PATH={os.environ['PATH']}",
            HELM,
            "--namespace",
            self.namespace,
            *arguments,
            check=check,
            timeout=120,
        )
        return done.stdout if check else done.stderr

    def get(self, *arguments: str) -> dict:
        return self.cluster.get("-n", self.namespace, *arguments)

    def gone(self, what: str) -> bool:
        done = self.cluster.kubectl("get", "-n", self.namespace, what, "--ignore-not-found")
        return not done.strip()


@pytest.fixture
def helm(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Helm]:
    yield Helm(cluster, namespace, tmp_path)
    cluster.kubectl("delete", "crd", "berths.harbour.example.com", "--ignore-not-found")


def test_a_chart_from_its_installation_to_its_end(helm: Helm) -> None:
    helm("install", "sea", str(CHART), "--wait", "--timeout", "90s")
    assert helm.get("deployment", "sea")["status"]["availableReplicas"] == 1
    assert helm.get("job", "sea-pre-install")["status"]["succeeded"] == 1
    berth = helm.get("berth", "sea")
    assert berth["spec"] == {"length": 12, "quay": "north"}
    release = json.loads(helm("status", "sea", "-o", "json"))
    assert release["info"]["status"] == "deployed"

    helm("upgrade", "sea", str(CHART), "--set", "replicas=2,greeting=moin", "--wait")
    assert helm.get("deployment", "sea")["status"]["availableReplicas"] == 2
    assert helm.get("configmap", "sea")["data"] == {"greeting": "moin"}
    assert helm.get("job", "sea-post-upgrade")["status"]["succeeded"] == 1
    helm("test", "sea")

    helm("rollback", "sea", "1", "--wait")
    assert helm.get("configmap", "sea")["data"] == {"greeting": "ahoy"}
    assert helm.get("deployment", "sea")["spec"]["replicas"] == 1
    history = json.loads(helm("history", "sea", "-o", "json"))
    assert [each["status"] for each in history] == ["superseded", "superseded", "deployed"]

    helm("uninstall", "sea", "--wait")
    for what in ("deployment/sea", "configmap/sea", "berth/sea", "service/sea"):
        wait_for(lambda what=what: helm.gone(what), what=f"{what} is gone")
    assert helm.get("job", "sea-pre-delete")["status"]["succeeded"] == 1


def test_a_hook_that_fails_fails_the_installation(helm: Helm) -> None:
    told = helm("install", "sea", str(CHART), "--set", "fail=true", "--timeout", "60s", check=False)
    assert "pre-install" in told, told
    assert helm.gone("deployment/sea")
    release = json.loads(helm("status", "sea", "-o", "json"))
    assert release["info"]["status"] == "failed"
