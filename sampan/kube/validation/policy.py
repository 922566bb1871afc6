"""PodDisruptionBudget: how many pods there must be."""

from __future__ import annotations

from typing import Final

from sampan.kube.errors import invalid_value, not_supported
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object, Rules

_EVICTION: Final = frozenset(("AlwaysAllow", "IfHealthyBudget"))


def _budget(budget: Object, causes: Causes) -> None:
    spec = budget.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        text = "minAvailable and maxUnavailable cannot be both set"
        causes.append(invalid_value("spec", spec, text))
    for field, value in (("minAvailable", least), ("maxUnavailable", most)):
        if value is not None:
            rules.int_or_percent(causes, f"spec.{field}", value)
            rules.at_most_hundred_percent(causes, f"spec.{field}", value)
    rules.label_selector(causes, "spec.selector", spec.get("selector"))
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None and policy not in _EVICTION:
        path = "spec.unhealthyPodEvictionPolicy"
        causes.append(not_supported(path, policy, sorted(_EVICTION)))


RULES = {
    ("policy", "PodDisruptionBudget"): Rules(_budget),
}
