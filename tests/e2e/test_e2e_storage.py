"""What a StatefulSet writes stays: through the deletion of its pods, a stop of the whole cluster, and until its claim goes.

And the files of an image are a volume (KEP-4639), for every kind of sandbox, while the image may be replaced and the node die.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import pytest
from cluster import Cluster, wait_for
from conftest import load_box
from pieces import KINDS, cargo_image, cargo_pod, ready
from remains import mounts


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


def waiting(boat: Cluster, name: str, container: str) -> dict[str, str]:
    pod = boat.read(f"/api/v1/namespaces/default/pods/{name}")
    states = {c["name"]: c["state"] for c in pod["status"].get("containerStatuses", ())}
    return dict(states.get(container, {}).get("waiting", {}))


def events(boat: Cluster, name: str) -> set[tuple[str, str, str]]:
    """(reason, the container that it is about, message)"""
    chosen = f"events?fieldSelector=involvedObject.name%3D{name}"
    return {
        (event["reason"], event["involvedObject"].get("fieldPath", ""), event["message"])
        for event in boat.read(f"/api/v1/namespaces/default/{chosen}")["items"]
    }


def test_an_image_is_a_volume_for_every_kind(boat: Cluster, tmp_path: Path) -> None:
    cargo_image(boat, tmp_path, "gold")
    absent = "127.0.0.1:1/absent:1"
    nowhere = "image_sub_path 'no/such': the image does not have it"
    astray = {"reason": "CreateContainerError", "message": nowhere}
    for kind in KINDS:
        pod = cargo_pod(kind)
        pod["spec"]["volumes"].append({"name": "absent", "image": {"reference": absent}})
        for name, mount in (
            ("absent", {"name": "absent", "mountPath": "/data"}),
            ("astray", {"name": "cargo", "mountPath": "/data", "subPath": "no/such"}),
        ):
            extra = box.container(kind, "sleep", name=name, volumeMounts=[mount])
            pod["spec"]["containers"].append(extra)
        boat.apply(pod)
        boat.sampan("image", "tag", box.image("box", kind), f"again:{kind}")
    for kind in KINDS:
        name = f"cargo-{kind}"
        wait_for(lambda n=name: "gold a" in boat.kubectl("logs", n, "-c", "box"), 30, name)
        assert boat.kubectl("logs", name, "-c", "look") == "gold a\ngold b\ngold a\ngold b\n"
        inside = ("exec", name, "-c", "box", "--")
        boat.kubectl_fails(*inside, box.BOX[kind], "write", "/whole/a/word", "lead")
        if kind != "wasm":  # whose guests cannot execute anything
            assert boat.kubectl(*inside, "/part/run") == "ran\n"
        wait_for(
            lambda n=name: waiting(boat, n, "absent").get("reason") == "ImagePullBackOff",
            what="ImagePullBackOff",
        )
        said = f'Back-off pulling image "{absent}"'
        assert waiting(boat, name, "absent")["message"].startswith(f"{said}: ErrImagePull: ")
        wait_for(lambda n=name: waiting(boat, n, "astray") == astray, what=nowhere)
        field = "spec.containers{absent}"
        expected = {("BackOff", "", said), ("Failed", field, "Error: ErrImagePull")}
        wait_for(lambda n=name, e=expected: e <= events(boat, n), what="the events")
    # Another image of that name is what a container has when it starts again, and not before.
    cargo_image(boat, tmp_path, "silver")
    for kind in KINDS:
        image = {"spec": {"containers": [{"name": "box", "image": f"again:{kind}"}]}}
        boat.kubectl("patch", "pod", f"cargo-{kind}", "-p", json.dumps(image))
    for kind in KINDS:
        name = f"cargo-{kind}"
        wait_for(lambda n=name: "silver a" in boat.kubectl("logs", n, "-c", "box"), 30, name)
    for part in ("runtime", "node"):
        os.kill(boat.status()["parts"][part]["pid"], signal.SIGKILL)
    boat.kubectl("delete", "pod", "--wait=false", *(f"cargo-{kind}" for kind in KINDS))
    for kind in KINDS:
        boat.kubectl("wait", "--for=delete", f"pod/cargo-{kind}", "--timeout=30s")
    place = str(boat.data / "runtime" / "containers")
    wait_for(lambda: not any(place in mount for mount in mounts(boat)), what="no mount left")
