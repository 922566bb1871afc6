"""Defaults of autoscaling, RBAC, scheduling, flow control, authentication and resource claims."""

from __future__ import annotations

from typing import Any, Final

from sampan.kube.defaulting.fill import Object, each, empty, sub, unset

RBAC: Final = "rbac.authorization.k8s.io"
CPU_TARGET: Final = 80
TOKEN_SECONDS: Final = 3600

_SCALE_UP: Final[dict[str, Any]] = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_SCALE_DOWN: Final[dict[str, Any]] = {
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


def autoscaler_v1(autoscaler: Object) -> None:
    """The old version has no metrics to default: its one target is a field."""
    unset(sub(autoscaler, "spec"), minReplicas=1)


def _autoscaler(autoscaler: Object) -> None:
    spec = sub(autoscaler, "spec")
    unset(spec, minReplicas=1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": CPU_TARGET}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    if (behavior := spec.get("behavior")) is not None:
        for field, rules in (("scaleUp", _SCALE_UP), ("scaleDown", _SCALE_DOWN)):
            chosen = sub(behavior, field)
            for key, value in rules.items():
                if chosen.get(key) is None:
                    chosen[key] = (
                        [dict(policy) for policy in value] if isinstance(value, list) else value
                    )


def _binding(binding: Object) -> None:
    empty(sub(binding, "roleRef"), apiGroup=RBAC)
    for subject in each(binding, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            empty(subject, apiGroup=RBAC)


def _priority_class(priority_class: Object) -> None:
    unset(priority_class, preemptionPolicy="PreemptLowerPriority", value=0)


def _flow_schema(flow_schema: Object) -> None:
    empty(sub(flow_schema, "spec"), matchingPrecedence=1000)


def _priority_level(level: Object) -> None:
    spec = sub(level, "spec")
    if exempt := spec.get("exempt"):
        unset(exempt, nominalConcurrencyShares=0, lendablePercent=0)
    if limited := spec.get("limited"):
        unset(limited, nominalConcurrencyShares=30, lendablePercent=0)
        if queuing := (limited.get("limitResponse") or {}).get("queuing"):
            empty(queuing, queues=64, handSize=8, queueLengthLimit=50)


def _token_request(request: Object) -> None:
    unset(sub(request, "spec"), expirationSeconds=TOKEN_SECONDS)


def _claim_spec(spec: Object) -> None:
    for request in each(spec.get("devices"), "requests"):
        for choice in (request.get("exactly"), *each(request, "firstAvailable")):
            if choice:
                empty(choice, allocationMode="ExactCount")
                if choice["allocationMode"] == "ExactCount":
                    empty(choice, count=1)
                for toleration in each(choice, "tolerations"):
                    empty(toleration, operator="Equal")


def _resource_claim(claim: Object) -> None:
    _claim_spec(sub(claim, "spec"))


def _resource_claim_template(template: Object) -> None:
    _claim_spec(sub(sub(template, "spec"), "spec"))


DEFAULTS = {
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    (RBAC, "RoleBinding"): _binding,
    (RBAC, "ClusterRoleBinding"): _binding,
    ("scheduling.k8s.io", "PriorityClass"): _priority_class,
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"): _flow_schema,
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"): _priority_level,
    ("authentication.k8s.io", "TokenRequest"): _token_request,
    ("resource.k8s.io", "ResourceClaim"): _resource_claim,
    ("resource.k8s.io", "ResourceClaimTemplate"): _resource_claim_template,
}
