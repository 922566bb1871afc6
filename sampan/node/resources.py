"""Requests and limits turned into what Linux understands, and into a quality-of-service class.

Formulas are kubelet's (`pkg/kubelet/cm/helpers_linux.go`, `qos/policy.go`): shares from requests, quota from limits per
100 ms, and an OOM score that lets the pod that asked for least die first.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.podresources import of_containers
from sampan.kube.quantity import Quantity, parse
from sampan.node import podspec
from sampan.node.podspec import INIT, MAIN, SIDECAR, Object

GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"
MIN_SHARES, MAX_SHARES = 2, 262144
PERIOD = 100_000  # µs
MIN_QUOTA = 1000


def amount(container: Object, kind: str, resource: str) -> Quantity | None:
    """`kind` is requests or limits. A limit without a request is a request, too."""
    resources = container.get("resources") or {}
    found = (resources.get(kind) or {}).get(resource)
    if found is None and kind == "requests":
        found = (resources.get("limits") or {}).get(resource)
    return None if found is None else parse(found)


def qos_class(pod: Object) -> str:
    everything = [*podspec.mains(pod), *podspec.inits(pod)]
    if pod["spec"].get("resources"):
        everything = [pod["spec"]]
    any_set = False
    guaranteed = True
    for container in everything:
        for resource in ("cpu", "memory"):
            request = amount(container, "requests", resource)
            limit = (container.get("resources") or {}).get("limits", {}).get(resource)
            if request is not None and request.milli() > 0:
                any_set = True
            if limit is None or request is None or parse(limit) != request:
                guaranteed = False
    if not any_set:
        return BEST_EFFORT
    return GUARANTEED if guaranteed else BURSTABLE


def cpu_shares(milli: int) -> int:
    if milli <= 0:
        return MIN_SHARES
    return max(MIN_SHARES, min(MAX_SHARES, milli * 1024 // 1000))


def cpu_quota(milli: int) -> int:
    """µs of each period; 0: no limit."""
    return max(MIN_QUOTA, milli * PERIOD // 1000) if milli > 0 else 0


def memory_beside(pod: Object) -> int:
    """A container's part of the memory that the pod asks for beyond its containers (KEP-2837)."""
    whole = _of_the_pod(pod, "requests", "memory")
    if whole is None:
        return 0
    asked = of_containers(pod["spec"], "requests").get("memory")
    left = whole.value() - (asked.value() if asked else 0)
    return max(left, 0) // (len(podspec.mains(pod)) + len(podspec.inits(pod)))


def _of_the_pod(pod: Object, kind: str, resource: str) -> Quantity | None:
    found = ((pod["spec"].get("resources") or {}).get(kind) or {}).get(resource)
    return None if found is None else parse(found)


def oom_score_adj(pod: Object, container: Object, machine_memory: int) -> int:
    qos = qos_class(pod)
    if pod["spec"].get("priority", 0) >= 2_000_001_000 or qos == GUARANTEED:
        return -997
    if qos == BEST_EFFORT:
        return 1000
    request = amount(container, "requests", "memory")
    asked = (request.value() if request else 0) + memory_beside(pod)
    score = 1000 - (1000 * asked) // max(machine_memory, 1)
    return max(3, min(999, score))


def container_resources(pod: Object, container: Object, machine_memory: int) -> dict[str, Any]:
    """Fields of CRI's LinuxContainerResources for one container. The pod's limits hold for one that has none."""
    limit = amount_limit(container, "cpu") or _of_the_pod(pod, "limits", "cpu")
    memory = amount_limit(container, "memory") or _of_the_pod(pod, "limits", "memory")
    request = amount(container, "requests", "cpu") or limit
    fields: dict[str, Any] = {
        "cpu_period": PERIOD,
        "cpu_shares": cpu_shares(request.milli() if request else 0),
        "oom_score_adj": oom_score_adj(pod, container, machine_memory),
    }
    if limit:
        fields["cpu_quota"] = cpu_quota(limit.milli())
    if memory:
        fields["memory_limit_in_bytes"] = memory.value()
    return fields


def amount_limit(container: Object, resource: str) -> Quantity | None:
    found = ((container.get("resources") or {}).get("limits") or {}).get(resource)
    return None if found is None else parse(found)


def requested(pod: Object, name: str) -> int:
    """Thousandths that the pod asks for: its own, else its containers', init containers not beside the others."""
    whole = _of_the_pod(pod, "requests", name)
    if whole is not None:
        return whole.milli()

    def of(container: Object) -> int:
        found = amount(container, "requests", name)
        return found.milli() if found is not None else 0

    beside = sum(
        of(named.container) for named in podspec.containers(pod) if named.kind in (MAIN, SIDECAR)
    )
    return max([beside, *(of(n.container) for n in podspec.containers(pod) if n.kind == INIT)])


def pod_resources(pod: Object) -> dict[str, Any]:
    """Fields of LinuxContainerResources for the whole pod: its own amounts (KEP-2837), else sums.

    A sum of limits is one only when every container has one.
    """
    mains = [*podspec.mains(pod), *(c for c in podspec.inits(pod) if podspec.is_sidecar(c))]
    inits = [c for c in podspec.inits(pod) if not podspec.is_sidecar(c)]

    def total(kind: str, resource: str, unit: str) -> int | None:
        if (whole := _of_the_pod(pod, kind, resource)) is not None:
            return int(getattr(whole, unit)())
        values = [
            amount(c, kind, resource) if kind == "requests" else amount_limit(c, resource)
            for c in mains
        ]
        if kind == "limits" and any(v is None for v in values):
            return None
        summed = sum(getattr(v, unit)() for v in values if v is not None)
        first = [
            amount(c, kind, resource) if kind == "requests" else amount_limit(c, resource)
            for c in inits
        ]
        if kind == "limits" and any(v is None for v in first):
            return None
        return max([summed, *(getattr(v, unit)() for v in first if v is not None)])

    fields: dict[str, Any] = {
        "cpu_period": PERIOD,
        "cpu_shares": cpu_shares(total("requests", "cpu", "milli") or 0),
    }
    if quota := total("limits", "cpu", "milli"):
        fields["cpu_quota"] = cpu_quota(quota)
    if memory := total("limits", "memory", "value"):
        fields["memory_limit_in_bytes"] = memory
    return fields
