"""Pods: QoS class, graceful deletion, and which part each subresource may write."""

from __future__ import annotations

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object, Strategy, keep
from sampan.kube.quantity import Quantity, parse

_COMPUTE = ("cpu", "memory")
_ZERO = parse(0)


class PodStrategy(Strategy):
    returns_deleted = True

    def prepare_create(self, call: Call, obj: Object) -> None:
        obj["status"] = {"phase": "Pending", "qosClass": qos_class(obj)}

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "status")
        _keep_in_containers(new, old, "ephemeralContainers")

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        status = new.setdefault("status", {})
        if "qosClass" in (old.get("status") or {}):
            status["qosClass"] = old["status"]["qosClass"]
        # A node reports the deletion's grace, it cannot lengthen it.
        keep(new["metadata"], old["metadata"], "deletionTimestamp")

    def grace_period(self, obj: Object, asked: int | None) -> int | None:
        phase = (obj.get("status") or {}).get("phase")
        spec = obj.get("spec") or {}
        if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
            return 0
        if asked is None:
            asked = spec.get("terminationGracePeriodSeconds")
            asked = 30 if asked is None else asked
        return 1 if asked < 0 else asked


def _keep_in_containers(new: Object, old: Object, field: str) -> None:
    if field in old.get("spec", {}) and field not in new.get("spec", {}):
        new["spec"][field] = old["spec"][field]


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from the containers' requests and limits for cpu and memory."""
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}
    guaranteed = True
    spec = pod.get("spec") or {}
    for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        resources = container.get("resources") or {}
        for found, total in (
            (resources.get("requests"), requests),
            (resources.get("limits"), limits),
        ):
            for name, text in (found or {}).items():
                try:
                    amount = parse(text)
                except ValueError:
                    continue  # validation names it
                if name in _COMPUTE and amount > _ZERO:
                    total[name] = total.get(name, _ZERO) + amount
        limited = resources.get("limits") or {}
        if any(not limited.get(name) for name in _COMPUTE):
            guaranteed = False
    if not requests and not limits:
        return "BestEffort"
    if (
        guaranteed
        and len(limits) == 2
        and all(requests.get(n, limits[n]) == limits[n] for n in limits)
    ):
        return "Guaranteed"
    return "Burstable"
