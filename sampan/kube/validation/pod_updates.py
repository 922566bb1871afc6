"""What may change in a pod that exists.

A running pod is nearly frozen: images, deadlines and added tolerations may change, scheduling gates may go, and what a
gate holds back may still be narrowed (KEP-3838). Ephemeral containers and resources change by subresources of their own;
the status is its node's, which must not say what cannot be.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from sampan.kube import names, objects
from sampan.kube.errors import duplicate, forbidden_field, invalid_value, not_supported
from sampan.kube.objects import clone
from sampan.kube.validation import rules
from sampan.kube.validation.containers import is_sidecar
from sampan.kube.validation.pods import APP_ARMOR, MIRROR, qos_class, validate_pod
from sampan.kube.validation.rules import Causes, Object

_ID_MAX: Final = 2**31 - 1
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_UPDATE_TEXT: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
    "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
    "(allow it to be set to 1 if it was previously negative)"
)


def validate_pod_update(new: Object, old: Object, causes: Causes) -> None:
    _kept_annotations(objects.annotations(new), objects.annotations(old), causes)
    new_spec, old_spec = new.get("spec") or {}, old.get("spec") or {}
    if new_spec == old_spec:
        return
    for field in ("containers", "initContainers"):
        if len(new_spec.get(field) or ()) != len(old_spec.get(field) or ()):
            text = "pod updates may not add or remove containers"
            causes.append(forbidden_field(f"spec.{field}", text))
            return
    before, after = old_spec.get("activeDeadlineSeconds"), new_spec.get("activeDeadlineSeconds")
    if not _deadline(after, before, causes):
        return
    _kept_tolerations(new_spec.get("tolerations") or [], old_spec.get("tolerations") or [], causes)
    _kept_gates(
        new_spec.get("schedulingGates") or [], old_spec.get("schedulingGates") or [], causes
    )
    ignored = {"activeDeadlineSeconds", "tolerations", "schedulingGates"}
    if new_spec.get("terminationGracePeriodSeconds") == 1 and (
        (old_spec.get("terminationGracePeriodSeconds") or 0) < 0
    ):
        ignored.add("terminationGracePeriodSeconds")
    if old_spec.get("schedulingGates"):
        ignored |= _narrowed(new_spec, old_spec, causes)
    if changed := _changes(new_spec, old_spec, ignored):
        shown = "\n".join(f"  {path}" for path in changed)
        causes.append(forbidden_field("spec", f"{_UPDATE_TEXT}\n{shown}"))


def _kept_annotations(new: Object, old: Object, causes: Causes) -> None:
    for key in {*new, *old}:
        if new.get(key) == old.get(key) or not (key == MIRROR or key.startswith(APP_ARMOR)):
            continue
        verb = "remove or update" if key in old else "add"
        what = "mirror pod annotation" if key == MIRROR else "AppArmor annotations"
        causes.append(forbidden_field(f"metadata.annotations[{key}]", f"may not {verb} {what}"))


def _deadline(new: int | None, old: int | None, causes: Causes) -> bool:
    """Only ever sooner. False: nothing else is worth looking at."""
    where = "spec.activeDeadlineSeconds"
    if new is not None:
        if not 0 <= new <= _ID_MAX:
            causes.append(invalid_value(where, new, names.in_range(0, _ID_MAX)))
            return False
        if old is not None and old < new:
            text = "must be less than or equal to previous value"
            causes.append(invalid_value(where, new, text))
            return False
    elif old is not None:
        text = "must not update from a positive integer to nil value"
        causes.append(invalid_value(where, new, text))
    return True


def _kept_tolerations(new: list[Object], old: list[Object], causes: Causes) -> None:
    def plain(item: Object) -> Object:
        return {key: value for key, value in item.items() if key != "tolerationSeconds"}

    present = [plain(item) for item in new]
    if any(plain(item) not in present for item in old):
        text = "existing toleration can not be modified except its tolerationSeconds"
        causes.append(forbidden_field("spec.tolerations", text))


def _kept_gates(new: list[Object], old: list[Object], causes: Causes) -> None:
    before = [gate.get("name") for gate in old]
    for index, gate in enumerate(new):
        if (name := gate.get("name") or "") not in before:
            where = f"spec.schedulingGates[{index}].name"
            text = f"only deletion is allowed, but found new scheduling gate '{name}'"
            causes.append(forbidden_field(where, text))


def _narrowed(new: Object, old: Object, causes: Causes) -> set[str]:
    """A gated pod may be narrowed to fewer nodes, never widened. Returns the fields that were looked at."""
    looked = {"nodeSelector"}
    chosen, before = new.get("nodeSelector") or {}, old.get("nodeSelector") or {}
    if any(chosen.get(key) != value for key, value in before.items()):
        text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        causes.append(invalid_value("spec.nodeSelector", chosen, text))
    one, other = new.get("affinity") or {}, old.get("affinity") or {}
    _narrowed_affinity(one.get("nodeAffinity") or {}, other.get("nodeAffinity") or {}, causes)
    if all(one.get(key) == other.get(key) for key in ("podAffinity", "podAntiAffinity")):
        looked.add("affinity")
    return looked


def _narrowed_affinity(new: Object, old: Object, causes: Causes) -> None:
    before = (old.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
    after = (new.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
    path = f"spec.affinity.nodeAffinity.{_REQUIRED}.nodeSelectorTerms"
    if before and len(before) != len(after):
        text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        causes.append(invalid_value(path, after, text))
        return
    for index, (term, was) in enumerate(zip(after, before, strict=False)):
        if not _only_added(term, was):
            text = "only additions are allowed (no mutations or deletions)"
            causes.append(invalid_value(f"{path}[{index}]", term, text))


def _only_added(new: Object, old: Object) -> bool:
    fields = ("matchExpressions", "matchFields")
    if not any(old.get(field) for field in fields):  # an empty term matches nothing
        return not any(new.get(field) for field in fields)
    return all(
        (new.get(field) or [])[: len(old.get(field) or [])] == (old.get(field) or [])
        for field in fields
    )


def _changes(new: Object, old: Object, ignored: set[str]) -> list[str]:
    """Paths of what changed and must not have."""
    changed = []
    for field in sorted({*new, *old} - ignored):
        before, after = old.get(field), new.get(field)
        if before == after or (not before and not after):
            continue
        if field in ("containers", "initContainers"):
            for index, (one, other) in enumerate(zip(before or [], after or [], strict=True)):
                changed += [
                    f"spec.{field}[{index}].{key}"
                    for key in sorted({*one, *other})
                    if key != "image" and one.get(key) != other.get(key)
                ]
        else:
            changed.append(f"spec.{field}")
    return changed


# --- subresources -----------------------------------------------------------------------------------


def validate_subresource(subresource: str, new: Object, old: Object, causes: Causes) -> None:
    if subresource == "resize":
        _resize(new, old, causes)
    else:
        _ephemeral(new, old, causes)


def _ephemeral(new: Object, old: Object, causes: Causes) -> None:
    """Ephemeral containers are only ever added."""
    if MIRROR in objects.annotations(old):
        causes.append(forbidden_field("", "static pods do not support ephemeral containers"))
        return
    validate_pod(clone(new), causes)
    spec = new.get("spec") or {}
    present = {item.get("name"): item for item in spec.get("ephemeralContainers") or ()}
    for item in (old.get("spec") or {}).get("ephemeralContainers") or ():
        name = item.get("name")
        if name not in present:
            text = f'existing ephemeral containers "{name}" may not be removed\n'
            causes.append(forbidden_field("spec.ephemeralContainers", text))
        elif present[name] != item:
            text = f'existing ephemeral containers "{name}" may not be changed\n'
            causes.append(forbidden_field("spec.ephemeralContainers", text))


def _resize(new: Object, old: Object, causes: Causes) -> None:
    """KEP-1287: only cpu and memory of containers, and never so that the QoS class is another."""
    refused = _not_resizable(new, old)
    if refused:
        causes.append(forbidden_field("", refused))
        return
    validate_pod(clone(new), causes)
    if qos_class(new) != qos_class(old):
        text = "Pod QOS Class may not change as a result of resizing"
        causes.append(invalid_value("spec", (new.get("status") or {}).get("qosClass", ""), text))
    if not _node_resizes(old):
        causes.append(forbidden_field("spec", "Pod running on node without support for resize"))
    new_spec, old_spec = clone(new.get("spec") or {}), clone(old.get("spec") or {})
    for field in ("initContainers", "containers"):
        pairs = zip(new_spec.get(field) or (), old_spec.get(field) or (), strict=False)
        for index, (one, other) in enumerate(pairs):
            if field == "initContainers" and not is_sidecar(other):
                if one != other:
                    text = "resources for non-sidecar init containers are immutable"
                    causes.append(forbidden_field("spec", text))
                continue
            where = f"spec.{field}[{index}].resources"
            _resized(one, other, causes, where)
            _without_compute(one, other)
            if one != other:
                what = " for sidecar containers" if field == "initContainers" else ""
                text = f"only cpu and memory resources{what} are mutable"
                causes.append(forbidden_field("spec", text))
    if not causes and new_spec != old_spec:
        causes.append(forbidden_field("spec", "only cpu and memory resources are mutable"))


def _not_resizable(new: Object, old: Object) -> str:
    for pod in (old, new):
        whole = (pod.get("spec") or {}).get("resources") or {}
        if whole.get("requests") or whole.get("limits"):
            return "pods with pod-level resources cannot be resized"
    if MIRROR in objects.annotations(old):
        return "static pods cannot be resized"
    if ((old.get("spec") or {}).get("os") or {}).get("name") == "windows":
        return "windows pods cannot be resized"
    return ""


def _node_resizes(pod: Object) -> bool:
    """A node that can resize reports what running containers have."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if (status.get("state") or {}).get("running") is not None:
            return status.get("resources") is not None
    return True


def _resized(new: Object, old: Object, causes: Causes, path: str) -> None:
    after, before = new.get("resources") or {}, old.get("resources") or {}
    for side in ("requests", "limits"):
        if not (before.get(side) or {}).keys() <= (after.get(side) or {}).keys():
            text = f"resource {side} cannot be removed"
            causes.append(forbidden_field(f"{path}.{side}", text))


def _without_compute(new: Object, old: Object) -> None:
    """Put the old cpu and memory into the new container, so that what else differs shows."""
    after, before = new.get("resources") or {}, old.get("resources") or {}
    merged: Object = {key: value for key, value in after.items() if key not in _SIDES}
    for side in _SIDES:
        amounts = {k: v for k, v in (after.get(side) or {}).items() if k not in ("cpu", "memory")}
        amounts |= {k: v for k, v in (before.get(side) or {}).items() if k in ("cpu", "memory")}
        if amounts or side in before:
            merged[side] = amounts
    if merged or "resources" in old:
        new["resources"] = merged
    else:
        new.pop("resources", None)


_SIDES: Final = ("limits", "requests")


# --- status -----------------------------------------------------------------------------------------

_SYSTEM_CONDITIONS: Final = ("PodScheduled", "Ready", "Initialized")
_HEALTH: Final = ("Healthy", "Unhealthy", "Unknown")


def validate_status(new: Object, old: Object, causes: Causes) -> None:
    """What a node says of a pod: classes stay, and what has ended does not run again unless it may."""
    _kept_annotations(objects.annotations(new), objects.annotations(old), causes)
    status, before = new.get("status") or {}, old.get("status") or {}
    spec = old.get("spec") or {}
    for index, condition in enumerate(status.get("conditions") or ()):
        if (kind := condition.get("type") or "") not in _SYSTEM_CONDITIONS:
            rules.name(causes, f"metadata.conditions[{index}].Type", kind, names.qualified_name)
    nominated = status.get("nominatedNodeName") or ""
    if nominated and nominated != before.get("nominatedNodeName"):
        rules.name(causes, "status.nominatedNodeName", nominated, names.dns1123_subdomain)
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
    _addresses(status.get("podIPs") or (), causes, "status.podIPs")
    if hosts := status.get("hostIPs"):
        first = hosts[0].get("ip") or ""
        if first != (status.get("hostIP") or ""):
            text = "must be equal to `hostIP`"
            causes.append(invalid_value("status.hostIPs[0].ip", first, text))
        _addresses(hosts, causes, "status.hostIPs")


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
            rules.name(causes, where, claim, names.dns1123_subdomain)


def _addresses(found: Any, causes: Causes, path: str) -> None:
    """At most one of each family."""
    texts = [each.get("ip") or "" for each in found]
    for index, text in enumerate(texts):
        rules.name(causes, f"{path}[{index}]", text, names.ip)
    if len(texts) < 2:
        return
    families = {ipaddress.ip_address(text).version for text in texts if not names.ip(text)}
    if len(families) != 2 or len(texts) > 2:
        text = "may specify no more than one IP for each IP family"
        causes.append(invalid_value(path, list(found), text))
    for index, text in enumerate(texts):
        if text in texts[:index]:
            causes.append(duplicate(f"{path}[{index}]", found[index]))
