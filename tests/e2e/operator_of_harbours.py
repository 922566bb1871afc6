"""A kopf operator on built-in kinds, run by test_e2e_kopf.py with `kopf run`: it notes on each object what it has seen.

ConfigMaps labelled `harbour`: create, update and delete handlers, with kopf's finalizer and its annotations. Deployments: a
field handler and an event handler.
"""

from __future__ import annotations

from typing import Any

import kopf

LABELS = {"harbour": kopf.PRESENT}


@kopf.on.create("configmaps", labels=LABELS)
def created(name: str, **_: Any) -> dict[str, str]:
    print(f"created {name}", flush=True)
    return {"seen": name}


@kopf.on.update("configmaps", labels=LABELS, field="data.cargo")
def updated(name: str, old: Any, new: Any, patch: kopf.Patch, **_: Any) -> None:
    print(f"updated {name} {old} {new}", flush=True)
    patch.metadata.labels["cargo"] = str(new)


@kopf.on.delete("configmaps", labels=LABELS)
def deleted(name: str, **_: Any) -> None:
    print(f"deleted {name}", flush=True)


@kopf.on.field("deployments", field="spec.replicas", labels=LABELS)
def scaled(name: str, old: Any, new: Any, patch: kopf.Patch, **_: Any) -> None:
    print(f"scaled {name} {old} {new}", flush=True)
    patch.metadata.annotations["harbour/replicas"] = str(new)


@kopf.timer("deployments", labels=LABELS, interval=0.5)
def ticked(name: str, **_: Any) -> None:
    print(f"ticked {name}", flush=True)
