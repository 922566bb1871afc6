"""What a whole pod asks for: requests and limits as exact quantities, by resource name.

Containers and sidecars add up; an init container needs its own beside the sidecars that started before it; the pod's own
resources (KEP-2837) stand in for the sum; overhead (KEP-688) comes on top. Sidecars: KEP-753.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.quantity import Quantity, parse

Object = dict[str, Any]
Amounts = dict[str, Quantity]

HUGE_PAGES = "hugepages-"


def amounts(stated: Object | None) -> Amounts:
    """`{"cpu": "100m"}` as quantities."""
    return {name: parse(text) for name, text in (stated or {}).items()}


def add(total: Amounts, more: Amounts) -> None:
    for name, amount in more.items():
        total[name] = total[name] + amount if name in total else amount


def raise_to(total: Amounts, floor: Amounts) -> None:
    for name, amount in floor.items():
        if name not in total or total[name] < amount:
            total[name] = amount


def of_containers(spec: Object, side: str) -> Amounts:
    """What the containers come to at their peak. `side` is `requests` or `limits`."""
    total: Amounts = {}
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("containers") or ():
        add(total, amounts((container.get("resources") or {}).get(side)))
    for container in spec.get("initContainers") or ():
        own = amounts((container.get("resources") or {}).get(side))
        if container.get("restartPolicy") == "Always":
            add(total, own)
            add(sidecars, own)
            raise_to(peak, sidecars)
        else:
            beside = dict(sidecars)
            add(beside, own)
            raise_to(peak, beside)
    raise_to(total, peak)
    return total


def of_pod(spec: Object, side: str) -> Amounts:
    """The same for the whole pod. Overhead counts on limits only where there is one to raise."""
    total = of_containers(spec, side)
    total.update(amounts((spec.get("resources") or {}).get(side)))
    for name, amount in amounts(spec.get("overhead")).items():
        if side == "requests" or name in total:
            add(total, {name: amount})
    return total


def is_for_pods(name: str) -> bool:
    """May the pod as a whole ask for it (KEP-2837)?"""
    return name in ("cpu", "memory") or name.startswith(HUGE_PAGES)


def best_effort(spec: Object) -> bool:
    """No container, and not the pod itself, asks for CPU or memory: QoS class BestEffort."""
    owners = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ()), spec]
    for owner in owners:
        resources = owner.get("resources") or {}
        for side in ("requests", "limits"):
            for name, text in (resources.get(side) or {}).items():
                if name in ("cpu", "memory") and parse(text):
                    return False
    return True
