"""Manifests and questions that several end-to-end tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import box
from cluster import AS_ROOT, Cluster


def running_kinds() -> tuple[str, ...]:
    """The kinds of which pods can run in a cluster here."""
    if not AS_ROOT:
        return ("wasm",)
    missing = box.missing_for_microvms()
    return ("wasm", "container") if missing else ("wasm", "container", "microvm")


KINDS = running_kinds()


def deployment(kind: str, name: str, replicas: int, **spec: Any) -> dict[str, Any]:
    """Of the hello example, `name`-`kind`, labelled app=`name`; `spec` goes into that of its pods."""
    labels = {"app": name, "kind": kind}
    container = {
        "name": "hello",
        "image": box.image("hello", kind),
        "ports": [{"containerPort": 8080}],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    pod = {
        "runtimeClassName": kind,
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        **spec,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{name}-{kind}"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 8080}]},
    }


def pods_of(boat: Cluster, app: str = "", namespace: str = "default") -> list[dict[str, Any]]:
    """Those labelled app=`app`, or all; for what is asked again and again, so without a kubectl."""
    selector = f"?labelSelector=app%3D{app}" if app else ""
    return list(boat.read(f"/api/v1/namespaces/{namespace}/pods{selector}")["items"])


def settled(boat: Cluster, app: str, count: int, namespace: str = "default") -> bool:
    """Exactly `count` pods, all Ready."""
    pods = pods_of(boat, app, namespace)
    return len(pods) == count == sum(ready(pod) for pod in pods)


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def cargo_image(boat: Cluster, directory: Path, word: str) -> None:
    """`cargo:1`, two layers: a/word and b/word, which say `word` and where they are, and a script a/run."""
    for name in ("a", "b"):
        (directory / name).mkdir(exist_ok=True)
        (directory / name / "word").write_text(f"{word} {name}\n")
    (directory / "a" / "run").write_text("#!/bin/sh\necho ran\n")
    (directory / "a" / "run").chmod(0o755)
    (directory / "Dockerfile").write_text("FROM scratch\nCOPY a /a\nCOPY b /b\n")
    boat.sampan("image", "build", "-t", "cargo:1", str(directory))


def cargo_pod(kind: str) -> dict[str, Any]:
    """With the image's files as a volume, whole and in parts: `look` says all of its words, `box` follows one."""
    mounts = [
        {"name": "cargo", "mountPath": "/whole"},
        {"name": "cargo", "mountPath": "/part", "subPath": "a"},
        {"name": "cargo", "mountPath": "/named", "subPathExpr": "$(HOLD)"},
    ]
    fields = {"volumeMounts": mounts, "env": [{"name": "HOLD", "value": "b"}]}
    words = ("/whole/a/word", "/whole/b/word", "/part/word", "/named/word")
    spec = {
        "initContainers": [box.container(kind, "cat", *words, name="look", **fields)],
        "volumes": [{"name": "cargo", "image": {"reference": "cargo:1"}}],
    }
    return box.pod(kind, f"cargo-{kind}", "follow", words[0], spec=spec, **fields)
