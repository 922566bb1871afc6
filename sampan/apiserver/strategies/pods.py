"""Pods: QoS class, graceful deletion, and which part each subresource may write."""

from __future__ import annotations

from sampan.apiserver.call import Call
from sampan.apiserver.strategies.base import Object, Strategy, keep
from sampan.kube import apparmor, objects
from sampan.kube.validation.pods import qos_class

__all__ = ["PodStrategy", "qos_class"]


class PodStrategy(Strategy):
    returns_deleted = True

    def prepare_create(self, call: Call, obj: Object) -> None:
        status: Object = {"phase": "Pending"}
        spec = obj.get("spec") or {}
        if spec.get("schedulingGates"):
            status["conditions"] = [{**_GATED, "lastTransitionTime": objects.now()}]
        obj["status"] = status
        if spec.get("affinity") or spec.get("topologySpreadConstraints"):
            label_keys(obj)
        if obj["metadata"].get("annotations"):
            call.warnings += apparmor.take_over(obj)

    def complete(self, call: Call, obj: Object) -> None:
        obj["status"] = {**(obj.get("status") or {}), "qosClass": qos_class(obj)}

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "status")
        _keep_in_containers(new, old, "ephemeralContainers")

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        super().prepare_status(call, new, old)
        status = new.setdefault("status", {})
        before = old.get("status") or {}
        if not status.get("qosClass") and before.get("qosClass"):
            status["qosClass"] = before["qosClass"]
        _keep_observed(status, before)
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


def _keep_observed(status: Object, before: Object) -> None:
    """`observedGeneration` (KEP-5067) stays where a writer that does not know it leaves it out."""
    if not status.get("observedGeneration") and before.get("observedGeneration"):
        status["observedGeneration"] = before["observedGeneration"]
    known: dict[str, list[int]] = {}
    for condition in before.get("conditions") or ():
        seen = condition.get("observedGeneration") or 0
        known.setdefault(condition.get("type") or "", []).append(seen)
    for condition in status.get("conditions") or ():
        left = known.get(condition.get("type") or "")
        seen = left.pop(0) if left else 0
        if seen and not condition.get("observedGeneration"):
            condition["observedGeneration"] = seen


def _keep_in_containers(new: Object, old: Object, field: str) -> None:
    if field in old.get("spec", {}) and field not in new.get("spec", {}):
        new["spec"][field] = old["spec"][field]


_GATED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "SchedulingGated",
    "message": "Scheduling is blocked due to non-empty scheduling gates",
}


def label_keys(pod: Object) -> None:
    """KEP-3633, KEP-3243: keys stand for the value that the pod itself has; the selectors are told so when it is made."""
    spec, labels = pod.get("spec") or {}, (pod["metadata"].get("labels") or {})
    for constraint in spec.get("topologySpreadConstraints") or ():
        _merge(constraint, "matchLabelKeys", "In", labels)
    affinity = spec.get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        found = affinity.get(kind) or {}
        terms = list(found.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        preferred = found.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [each["podAffinityTerm"] for each in preferred if each.get("podAffinityTerm")]
        for term in terms:
            _merge(term, "matchLabelKeys", "In", labels)
            _merge(term, "mismatchLabelKeys", "NotIn", labels)


def _merge(holder: Object, field: str, operator: str, labels: Object) -> None:
    keys, selector = holder.get(field), holder.get("labelSelector")
    if not keys or selector is None:
        return  # validation says what is missing
    added = [
        {"key": key, "operator": operator, "values": [labels[key]]} for key in keys if key in labels
    ]
    if added:
        holder["labelSelector"] = {
            **selector,
            "matchExpressions": [*(selector.get("matchExpressions") or []), *added],
        }
