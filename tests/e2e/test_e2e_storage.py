"""What a StatefulSet writes stays: through the deletion of its pods, a stop of the whole cluster, and until its claim goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import pytest
from cluster import Cluster, wait_for
from conftest import load_box
from pieces import KINDS, ready


@pytest.fixture(scope="module")
def boat() -> Iterator[Cluster]:
    boat = Cluster()
    try:
        boat.start()
        load_box(boat)
        yield boat
    finally:
        boat.stop()
        boat.remove()


def stateful(kind: str, **spec: Any) -> dict[str, Any]:
    """A set of one pod, which tells what is in `/data/cargo`, on a claim of the default class."""
    name = f"hold-{kind}"
    mount = {"name": "data", "mountPath": "/data"}
    template = box.pod(kind, name, "follow", "/data/cargo", volumeMounts=[mount])
    asked = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name},
        "spec": {
            "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": asked}],
            **spec,
        },
    }


def writer(kind: str) -> dict[str, Any]:
    """A pod that leaves a word on the set's claim."""
    mount = {"name": "v", "mountPath": "/cargo", "subPath": "."}
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": f"data-hold-{kind}-0"}}
    args = ("write", "/cargo/cargo", f"gold by {kind}")
    spec = {"volumes": [volume], "restartPolicy": "Never"}
    return box.pod(kind, f"writer-{kind}", *args, volumeMounts=[mount], spec=spec)


def told(boat: Cluster, kind: str, before: str = "") -> str:
    """The uid of the set's pod, once it is another one than `before` and has told what it found."""

    def found() -> str:
        pod = boat.read(f"/api/v1/namespaces/default/pods/hold-{kind}-0")
        uid = pod["metadata"]["uid"]
        if uid == before or not ready(pod):
            return ""
        return uid if f"gold by {kind}" in boat.kubectl("logs", f"hold-{kind}-0") else ""

    return str(wait_for(found, what=f"the word of hold-{kind}-0"))


def gone(boat: Cluster, *what: str) -> bool:
    return not boat.kubectl("get", *what, "--ignore-not-found").strip()


def directory_of(boat: Cluster, kind: str) -> tuple[str, Path]:
    """The set's volume and its directory."""
    name = boat.get("pvc", f"data-hold-{kind}-0")["spec"]["volumeName"]
    return name, Path(boat.get("pv", name)["spec"]["local"]["path"])


def test_data_outlives_pods_and_the_cluster(boat: Cluster) -> None:
    for kind in KINDS:
        boat.apply(stateful(kind, persistentVolumeClaimRetentionPolicy={"whenDeleted": "Delete"}))
    for kind in KINDS:
        boat.kubectl("rollout", "status", f"statefulset/hold-{kind}", "--timeout=60s")
        boat.apply(writer(kind))
    seen = {kind: told(boat, kind) for kind in KINDS}
    for kind in KINDS:
        claim = f"data-hold-{kind}-0"
        name, path = directory_of(boat, kind)
        assert path == boat.data / "storage" / f"{name}_default_{claim}"
        assert (path / "cargo").read_text().startswith(f"gold by {kind}")
        described = boat.kubectl("describe", "pvc", claim)
        assert f"Used By:       hold-{kind}-0" in described
        assert "ProvisioningSucceeded" in described
    summary = json.loads(boat.kubectl("get", "--raw", "/api/v1/nodes/boat/proxy/stats/summary"))
    measured = {
        volume["pvcRef"]["name"]: volume["capacityBytes"]
        for pod in summary["pods"]
        for volume in pod.get("volume", ())
    }
    for kind in KINDS:
        assert measured[f"data-hold-{kind}-0"] > 0
    boat.kubectl("delete", "pod", "--wait=false", *(f"hold-{kind}-0" for kind in KINDS))
    seen = {kind: told(boat, kind, before=seen[kind]) for kind in KINDS}
    boat.sampan("down", timeout=120)
    boat.start()
    for kind in KINDS:
        told(boat, kind)


def test_a_volume_goes_with_its_claim_or_stays_as_its_policy_says(boat: Cluster) -> None:
    kept, *others = KINDS
    name, path = directory_of(boat, kept)
    policy = {"spec": {"persistentVolumeReclaimPolicy": "Retain"}}
    boat.kubectl("patch", "pv", name, "-p", json.dumps(policy))
    before = {kind: directory_of(boat, kind) for kind in others}
    boat.kubectl("delete", "statefulset", *(f"hold-{kind}" for kind in KINDS))
    for kind in others:  # owned by the set: its retention policy says Delete
        volume, place = before[kind]
        wait_for(lambda v=volume: gone(boat, "pv", v), what=f"the end of {volume}")
        wait_for(lambda p=place: not p.exists(), what=f"the end of {place}")
    wait_for(lambda: gone(boat, "pvc", f"data-hold-{kept}-0"), what="the end of the kept claim")
    wait_for(
        lambda: boat.read(f"/api/v1/persistentvolumes/{name}")["status"]["phase"] == "Released",
        what="Released",
    )
    assert (path / "cargo").read_text().startswith(f"gold by {kept}")
