"""What may be said of a pod that exists: the status, which is its node's, and must not say what cannot be."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from sampan.kube import names, objects
from sampan.kube.errors import duplicate, forbidden_field, invalid_value, not_supported, required
from sampan.kube.validation import rules
from sampan.kube.validation.containers import is_sidecar
from sampan.kube.validation.pod_updates import ID_MAX, kept_annotations
from sampan.kube.validation.rules import Causes, Object

_SYSTEM_CONDITIONS: Final = ("PodScheduled", "Ready", "Initialized")
_HEALTH: Final = ("Healthy", "Unhealthy", "Unknown")


def validate_status(new: Object, old: Object, causes: Causes) -> None:
    """What a node says of a pod: classes stay, and what has ended does not run again unless it may."""
    kept_annotations(objects.annotations(new), objects.annotations(old), causes)
    status, before = new.get("status") or {}, old.get("status") or {}
    spec = old.get("spec") or {}
    for index, condition in enumerate(status.get("conditions") or ()):
        if (kind := condition.get("type") or "") not in _SYSTEM_CONDITIONS:
            rules.name(causes, f"metadata.conditions[{index}].Type", kind, names.qualified_name)
        if (seen := condition.get("observedGeneration") or 0) < 0:
            where = f"status.conditions[{index}].observedGeneration"
            causes.append(invalid_value(where, seen, "must be a non-negative integer"))
    nominated = status.get("nominatedNodeName") or ""
    if nominated and nominated != before.get("nominatedNodeName"):
        rules.name(causes, "status.nominatedNodeName", nominated, names.dns1123_subdomain)
        if spec.get("nodeName"):
            text = "may not be set on pods that are already bound to a node"
            causes.append(forbidden_field("status.nominatedNodeName", text))
    if (status.get("observedGeneration") or 0) < 0:
        text = "must be a non-negative integer"
        causes.append(
            invalid_value("status.observedGeneration", status["observedGeneration"], text)
        )
    if (now := status.get("qosClass") or "") != (before.get("qosClass") or ""):
        causes.append(invalid_value("status.qosClass", now, rules.IMMUTABLE))
    sidecars = {each.get("name") for each in spec.get("initContainers") or () if is_sidecar(each)}
    for field, policy in (
        ("containerStatuses", spec.get("restartPolicy")),
        ("initContainerStatuses", spec.get("restartPolicy")),
        ("ephemeralContainerStatuses", "Never"),
    ):
        listed, was = status.get(field) or [], before.get(field) or []
        restarting = sidecars if field == "initContainerStatuses" else _restarting(spec)
        if was and policy != "Always":
            _transitions(listed, was, policy, restarting, causes, f"status.{field}")
        _allocated(listed, causes, f"status.{field}", ephemeral=field.startswith("ephemeral"))
    _claim_statuses(status.get("resourceClaimStatuses") or (), spec, causes)
    if (claim := status.get("extendedResourceClaimStatus")) is not None:
        _extended_claim(claim, spec, causes, "status.extendedResourceClaimStatus")
    _addresses(status, before, "podIPs", causes)
    if hosts := status.get("hostIPs"):
        first = hosts[0].get("ip") or ""
        if first != (status.get("hostIP") or ""):
            text = "must be equal to `hostIP`"
            causes.append(invalid_value("status.hostIPs[0].ip", first, text))
        _addresses(status, before, "hostIPs", causes)
    _users(status, spec, causes)


def _extended_claim(claim: Object, spec: Object, causes: Causes, path: str) -> None:
    """The claim that was made for what containers ask for as extended resources (KEP-5004)."""
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    asked = {
        each.get("name"): (each.get("resources") or {}).get("requests") or {} for each in containers
    }
    mappings = claim.get("requestMappings") or []
    if not mappings:
        text = "at least one request mapping is required"
        causes.append(required(f"{path}.requestMappings", text))
    fields = ("containerName", "resourceName", "requestName")
    sources = "spec.initContainers{0} or spec.containers{0}"
    seen = set()
    for index, mapping in enumerate(mappings):
        where = f"{path}.requestMappings[{index}]"
        container, resource, request = key = tuple(mapping.get(field) or "" for field in fields)
        if container not in asked:
            text = f"must match the name of an entry in {sources.format('.name')}"
            causes.append(invalid_value(f"{where}.containerName", container, text))
        elif resource not in asked[container]:
            text = f"must match the extended resource name of an entry in {sources.format('.resources.requests')}"
            causes.append(invalid_value(f"{where}.resourceName", resource, text))
        rules.name(causes, f"{path}.requestName", request, names.dns1123_label)
        if key in seen:
            causes += [
                duplicate(f"{where}.{field}", value)
                for field, value in zip(fields, key, strict=True)
            ]
        seen.add(key)
    rules.required_name(
        causes,
        f"{path}.resourceClaimName",
        claim.get("resourceClaimName"),
        names.dns1123_subdomain,
    )


def _restarting(spec: Object) -> set[Any]:
    """Containers that may start again whatever the pod's own policy says (KEP-5307)."""
    return {
        each.get("name")
        for each in spec.get("containers") or ()
        if each.get("restartPolicy") in ("Always", "OnFailure") or each.get("restartPolicyRules")
    }


def _transitions(
    new: list[Object],
    old: list[Object],
    policy: Any,
    restarting: set[Any],
    causes: Causes,
    path: str,
) -> None:
    ended = {each.get("name"): (each.get("state") or {}).get("terminated") for each in new}
    for index, was in enumerate(old):
        name, terminated = was.get("name"), (was.get("state") or {}).get("terminated")
        if terminated is None or name in restarting or name not in ended:
            continue
        if policy == "OnFailure" and terminated.get("exitCode"):
            continue
        if ended[name] is None:
            text = "may not be transitioned to non-terminated state"
            causes.append(forbidden_field(f"{path}[{index}].state", text))


def _allocated(statuses: list[Object], causes: Causes, path: str, *, ephemeral: bool) -> None:
    for index, status in enumerate(statuses):
        where = f"{path}[{index}].allocatedResourcesStatus"
        found = status.get("allocatedResourcesStatus") or ()
        if found and ephemeral:
            causes.append(forbidden_field(where, "must not be specified in container status"))
            continue
        for at, resource in enumerate(found):
            seen: set[str] = set()
            for number, each in enumerate(resource.get("resources") or ()):
                place = f"{where}[{at}].resources[{number}]"
                health, device = each.get("health") or "", each.get("resourceID") or ""
                if health and health not in _HEALTH:
                    causes.append(not_supported(f"{place}.health", health, _HEALTH))
                if device in seen:
                    causes.append(duplicate(f"{place}.resourceID", device))
                seen.add(device)


def _claim_statuses(statuses: Any, spec: Object, causes: Causes) -> None:
    known = {each.get("name") for each in spec.get("resourceClaims") or ()}
    seen: set[str] = set()
    for index, status in enumerate(statuses):
        where, name = f"status.resourceClaimStatuses[{index}].name", status.get("name") or ""
        if name not in known:
            text = "must match the name of an entry in `spec.resourceClaims`"
            causes.append(invalid_value(where, name, text))
        if name in seen:
            causes.append(duplicate(where, name))
        seen.add(name)
        if (claim := status.get("resourceClaimName")) is not None:
            place = f"status.resourceClaimStatuses[{index}].resourceClaimName"
            rules.name(causes, place, claim, names.dns1123_subdomain)


def _addresses(status: Object, before: Object, field: str, causes: Causes) -> None:
    """At most one of each family. What was there stays, however it is written."""
    found, path = status.get(field) or [], f"status.{field}"
    kept = {each.get("ip") for each in before.get(field) or ()}
    texts = [each.get("ip") or "" for each in found]
    for index, text in enumerate(texts):
        if text not in kept:
            rules.name(causes, f"{path}[{index}]", text, names.ip)
    if len(texts) < 2:
        return
    families = {ipaddress.ip_address(text).version for text in texts if not names.ip(text)}
    if len(families) != 2 or len(texts) > 2:
        text = "may specify no more than one IP for each IP family"
        causes.append(invalid_value(path, list(found), text))


def _users(status: Object, spec: Object, causes: Causes) -> None:
    """Who the containers run as (KEP-3619)."""
    is_windows = (spec.get("os") or {}).get("name") == "windows"
    for field in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for index, each in enumerate(status.get(field) or ()):
            if (user := (each.get("user") or {}).get("linux")) is None:
                continue
            where = f"status.{field}[{index}].user.linux"
            if is_windows:
                causes.append(forbidden_field(where, "cannot be set for a windows pod"))
                continue
            ids = [("uid", user.get("uid")), ("gid", user.get("gid"))]
            groups = user.get("supplementalGroups") or ()
            ids += [(f"supplementalGroups[{at}]", group) for at, group in enumerate(groups)]
            for name, number in ids:
                rules.between(causes, f"{where}.{name}", number, 0, ID_MAX)
