"""Nodes: what their kubelets report of them, and what stays as it was first written."""

from __future__ import annotations

import re
from typing import Any, Final

from sampan.kube import gojson, names, objects
from sampan.kube.errors import duplicate, forbidden_field, invalid_value, quote, required
from sampan.kube.validation import placement, resources, rules
from sampan.kube.validation.rules import Causes, Object

_AVOID: Final = "scheduler.alpha.kubernetes.io/preferAvoidPods"
_FEATURE: Final = re.compile(r"[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*")
_FEATURE_MAX: Final = 253
_FEATURE_TEXT: Final = (
    "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or "
    "MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
)


def validate(node: Object, causes: Causes) -> None:
    spec, status = node.get("spec") or {}, node.get("status") or {}
    _avoided(node, causes)
    if found := spec.get("taints"):
        placement.taints(found, causes, "metadata.taints")
    _amounts(status, causes)
    swap = ((status.get("nodeInfo") or {}).get("swap") or {}).get("capacity")
    rules.positive(causes, "metadata.nodeSwapStatus.capacity", swap)
    _declared(status.get("declaredFeatures") or [], causes)
    cidrs = spec.get("podCIDRs") or []
    for index, cidr in enumerate(cidrs):
        rules.name(causes, f"spec.podCIDRs[{index}]", cidr, names.cidr)
    if len(cidrs) > 2 or (len(cidrs) == 2 and len({":" in cidr for cidr in cidrs}) < 2):
        text = "may specify no more than one CIDR for each IP family"
        causes.append(invalid_value("spec.podCIDRs", cidrs, text))


def _amounts(status: Object, causes: Causes) -> None:
    for field in ("capacity", "allocatable"):
        for name, value in (status.get(field) or {}).items():
            resources.amount(causes, f"status.{field}.{name}", name, value)


def validate_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    _addresses(new, causes)
    if before.get("podCIDRs") and after.get("podCIDRs") != before["podCIDRs"]:
        text = 'node updates may not change podCIDR except from "" to valid'
        causes.append(forbidden_field("spec.podCIDRs", text))
    if before.get("providerID") and after.get("providerID") != before["providerID"]:
        text = 'node updates may not change providerID except from "" to valid'
        causes.append(forbidden_field("spec.providerID", text))
    if (after.get("externalID") or "") != (before.get("externalID") or ""):
        causes.append(forbidden_field("spec.externalID", "may not be updated"))


def _addresses(node: Object, causes: Causes) -> None:
    addresses = (node.get("status") or {}).get("addresses") or []
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            causes.append(duplicate(f"status.addresses[{index}]", address))


def validate_status(new: Object, old: Object, causes: Causes) -> None:
    status = new.get("status") or {}
    _avoided(new, causes)
    _amounts(status, causes)
    _declared(status.get("declaredFeatures") or [], causes)
    _addresses(new, causes)


def _declared(features: list[str], causes: Causes) -> None:
    """KEP-5328: what a node can do, sorted."""
    for index, name in enumerate(features):
        path = f"status.declaredFeatures[{index}]"
        if text := _feature_error(name):
            causes.append(invalid_value(path, name, f"invalid feature name {quote(name)}: {text}"))
        before = features[index - 1] if index else ""
        if index and name == before:
            causes.append(duplicate(path, name))
        elif name < before:
            causes.append(invalid_value(path, name, "list must be sorted alphabetically"))


def _feature_error(name: str) -> str:
    if len(name) > _FEATURE_MAX:
        return f"must be no more than {_FEATURE_MAX} characters"
    return "" if _FEATURE.fullmatch(name) else _FEATURE_TEXT


def _avoided(node: Object, causes: Causes) -> None:
    """The pods that the node would rather not have, named by their controllers, as JSON in an annotation."""
    text = objects.annotations(node).get(_AVOID)
    if not text:
        return
    try:
        found = gojson.load(text.encode())
    except ValueError as error:
        causes.append(invalid_value("metadata.annotations.AvoidPods", _AVOID, str(error)))
        return
    entries = (found or {}).get("preferAvoidPods")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        path = f"metadata.annotations.{_AVOID}[{index}].PodSignature"
        controller = _member(_member(entry, "podSignature"), "podController")
        if not isinstance(controller, dict):
            causes.append(required(path))
        elif not controller.get("controller"):
            where = f"{path}.PodController.Controller"
            causes.append(invalid_value(where, False, "must point to a controller"))


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
