"""Scheduling, node, coordination, certificates and authentication."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    quote,
    required,
    too_long,
)
from sampan.kube.objects import metadata
from sampan.kube.validation import placement, resources, rules
from sampan.kube.validation.rules import Causes, Object, Rules

HIGHEST_USER_PRIORITY: Final = 1_000_000_000
_SYSTEM_PREFIX: Final = "system-"
_SYSTEM_CLASSES: Final = {
    "system-node-critical": 2_000_001_000,
    "system-cluster-critical": 2_000_000_000,
}
_PREEMPTION: Final = frozenset(("Never", "PreemptLowerPriority"))
_LEASE_STRATEGIES: Final = ("OldestEmulationVersion",)
_MAX_SIGNER: Final = 253 + 1 + 253 + 1 + 63


def _priority_class(found: Object, causes: Causes) -> None:
    name, value = metadata(found).get("name") or "", found.get("value") or 0
    if name.startswith(_SYSTEM_PREFIX):
        if problem := _no_system_class(name, value, bool(found.get("globalDefault"))):
            text = (
                "priority class names with 'system-' prefix are reserved for system use only. "
                f"error: {problem}"
            )
            causes.append(forbidden_field("metadata.name", text))
    elif value > HIGHEST_USER_PRIORITY:
        text = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        causes.append(forbidden_field("value", text))
    if (policy := found.get("preemptionPolicy")) is not None:
        rules.choice(causes, "preemptionPolicy", policy, _PREEMPTION)


def _no_system_class(name: str, value: int, is_default: bool) -> str:
    """Why this is none of the classes that the system has, "" if it is."""
    if name not in _SYSTEM_CLASSES:
        return f"{name} is not a known system priority class"
    if value != _SYSTEM_CLASSES[name]:
        return f"value of {name} PriorityClass must be {_SYSTEM_CLASSES[name]}"
    return f"globalDefault of {name} PriorityClass must be false" if is_default else ""


def _priority_class_update(new: Object, old: Object, causes: Causes) -> None:
    if (new.get("value") or 0) != (old.get("value") or 0):
        causes.append(forbidden_field("value", "may not be changed in an update."))
    policy = new.get("preemptionPolicy")
    rules.immutable(causes, "preemptionPolicy", policy, old.get("preemptionPolicy"))


def _runtime_class(found: Object, causes: Causes) -> None:
    rules.required_name(causes, "handler", found.get("handler"), names.dns1123_label)
    if (overhead := found.get("overhead")) is not None:  # checked as a container's limits
        resources.requirements({"limits": overhead.get("podFixed")}, causes, "overhead")
    scheduling = found.get("scheduling") or {}
    rules.labels(causes, "scheduling.nodeSelector", scheduling.get("nodeSelector"))
    tolerations, path = scheduling.get("tolerations") or [], "scheduling.tolerations"
    placement.tolerations(tolerations, causes, path)
    seen = set()
    for index, item in enumerate(tolerations):
        key = tuple(item.get(field) or "" for field in ("key", "operator", "value", "effect"))
        if key in seen:
            causes.append(duplicate(f"{path}[{index}]", item))
        seen.add(key)


def _runtime_class_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "handler", new.get("handler"), old.get("handler"))


def _lease(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        text = "must be greater than 0"
        causes.append(invalid_value("spec.leaseDurationSeconds", seconds, text))
    rules.not_negative(causes, "spec.leaseTransitions", spec.get("leaseTransitions"))
    if (strategy := spec.get("strategy")) is not None:
        where = "spec.strategy.strategy"  # so in Kubernetes
        if "/" in strategy:
            rules.name(causes, where, strategy, names.qualified_name)
        elif strategy not in _LEASE_STRATEGIES:
            causes.append(not_supported(where, strategy, _LEASE_STRATEGIES))
    if spec.get("preferredHolder") and not strategy:
        text = "may only be specified if `strategy` is defined"
        causes.append(forbidden_field("spec.preferredHolder", text))


def _signing_request(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    if not spec.get("request"):
        text = "PEM block type must be CERTIFICATE REQUEST"
        causes.append(invalid_value("spec.request", None, text))
    if not spec.get("usages"):
        causes.append(required("spec.usages"))
    rules.unique(causes, "spec.usages", spec.get("usages") or [])
    signer_name(spec.get("signerName") or "", causes, "spec.signerName")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        text = "may not specify a duration less than 600 seconds (10 minutes)"
        causes.append(invalid_value("spec.expirationSeconds", seconds, text))


def signer_name(signer: str, causes: Causes, path: str) -> None:
    """`domain/path`: who signs. Both parts are names of DNS."""
    if not signer:
        causes.append(required(path))
        return
    domain, slash, rest = signer.partition("/")
    if not slash or "/" in rest:
        text = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        causes.append(invalid_value(path, signer, text))
        return
    if len(domain) > names.SUBDOMAIN_MAX:
        causes.append(too_long(path, "", names.SUBDOMAIN_MAX))
    for part, rule in ((domain, names.dns1123_label), (rest, names.dns1123_subdomain)):
        wrong = next(((label, found) for label in part.split(".") if (found := rule(label))), None)
        if wrong is not None:  # one label is enough to be told of
            label, reasons = wrong
            texts = [f"validating label {quote(label)}: {reason}" for reason in reasons]
            causes.extend(invalid_value(path, part, text) for text in texts)
        if part is domain and "." not in domain:
            text = "should be a domain with at least two segments separated by dots"
            causes.append(invalid_value(path, domain, text))
    if len(signer) > _MAX_SIGNER:
        causes.append(too_long(path, "", _MAX_SIGNER))


def _signing_request_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "spec", new.get("spec"), old.get("spec"))


def _token_request(request: Object, causes: Causes) -> None:
    seconds = (request.get("spec") or {}).get("expirationSeconds") or 0
    if seconds < 600:
        text = "may not specify a duration less than 10 minutes"
        causes.append(invalid_value("spec.expirationSeconds", seconds, text))
    if seconds > 2**32:
        text = "may not specify a duration larger than 2^32 seconds"
        causes.append(invalid_value("spec.expirationSeconds", seconds, text))


_ANY_NAME = names.path_segment

RULES = {
    ("scheduling.k8s.io", "PriorityClass"): Rules(
        _priority_class, _priority_class_update, namespaced=False, update_is_whole=True
    ),
    ("node.k8s.io", "RuntimeClass"): Rules(_runtime_class, _runtime_class_update, namespaced=False),
    ("coordination.k8s.io", "Lease"): Rules(_lease),
    ("coordination.k8s.io", "LeaseCandidate"): Rules(),
    ("certificates.k8s.io", "CertificateSigningRequest"): Rules(
        _signing_request, _signing_request_update, _ANY_NAME, namespaced=False
    ),
    ("certificates.k8s.io", "ClusterTrustBundle"): Rules(name=_ANY_NAME, namespaced=False),
    ("certificates.k8s.io", "PodCertificateRequest"): Rules(),
    ("authentication.k8s.io", "TokenRequest"): Rules(_token_request),
    ("internal.apiserver.k8s.io", "StorageVersion"): Rules(namespaced=False),
    ("storagemigration.k8s.io", "StorageVersionMigration"): Rules(namespaced=False),
}
