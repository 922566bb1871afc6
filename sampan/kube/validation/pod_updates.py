"""What may change in a pod that exists.

A running pod is nearly frozen: images, deadlines and added tolerations may change, scheduling gates may go, and what a
gate holds back may still be narrowed (KEP-3838). Ephemeral containers and resources change by subresources of their own;
its status: `pod_status`.
"""

from __future__ import annotations

from typing import Final

from sampan.kube import names, objects
from sampan.kube.errors import forbidden_field, invalid_value
from sampan.kube.objects import clone
from sampan.kube.validation import rules
from sampan.kube.validation.containers import is_sidecar
from sampan.kube.validation.pods import APP_ARMOR, MIRROR, qos_class, validate_pod
from sampan.kube.validation.rules import Causes, Object

ID_MAX: Final = 2**31 - 1
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_UPDATE_TEXT: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
    "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
    "(allow it to be set to 1 if it was previously negative)"
)


def validate_pod_update(new: Object, old: Object, causes: Causes) -> None:
    kept_annotations(objects.annotations(new), objects.annotations(old), causes)
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


def kept_annotations(new: Object, old: Object, causes: Causes) -> None:
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
        if not 0 <= new <= ID_MAX:
            causes.append(invalid_value(where, new, names.in_range(0, ID_MAX)))
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
        text = "static pods do not support ephemeral containers"
        causes.append(forbidden_field(rules.NO_FIELD, text))
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
    """KEP-1287: only cpu and memory, and never so that the QoS class is another."""
    if refused := _not_resizable(old):
        causes.append(forbidden_field(rules.NO_FIELD, refused))
        return
    validate_pod(clone(new), causes)
    if qos_class(new) != qos_class(old):
        text = "Pod QOS Class may not change as a result of resizing"
        causes.append(invalid_value("spec", (new.get("status") or {}).get("qosClass", ""), text))
    if not _node_resizes(old):
        causes.append(forbidden_field("spec", "Pod running on node without support for resize"))
    new_spec, old_spec = clone(new.get("spec") or {}), clone(old.get("spec") or {})
    _resized_whole(new_spec, old_spec, causes)
    if (old.get("status") or {}).get("nodeAllocatableResourceClaimStatuses"):
        text = "pods with node allocatable resource claims cannot be resized"
        causes.append(forbidden_field("spec", text))
    if not _same_containers(new_spec, old_spec, causes):
        return
    for field in ("initContainers", "containers"):
        for index, (one, other) in enumerate(_pairs(new_spec, old_spec, field)):
            _kept_sides(one, other, causes, f"spec.{field}[{index}].resources")
    for one, other in _pairs(new_spec, old_spec, "containers"):
        _without_compute(one, other)
        if one != other:
            causes.append(forbidden_field("spec", "only cpu and memory resources are mutable"))
    for index, (one, other) in enumerate(_pairs(new_spec, old_spec, "initContainers")):
        _resized_init(one, other, causes, f"spec.initContainers[{index}]")
    if not causes and new_spec != old_spec:
        causes.append(forbidden_field("spec", "only cpu and memory resources are mutable"))


def _pairs(new: Object, old: Object, field: str) -> list[tuple[Object, Object]]:
    return list(zip(new.get(field) or (), old.get(field) or (), strict=True))


def _not_resizable(old: Object) -> str:
    if MIRROR in objects.annotations(old):
        return "static pods cannot be resized"
    if ((old.get("spec") or {}).get("os") or {}).get("name") == "windows":
        return "windows pods cannot be resized"
    return ""


def _resized_whole(new: Object, old: Object, causes: Causes) -> None:
    """Resources of the pod as a whole (KEP-5419)."""
    after, before = new.get("resources"), old.get("resources")
    if not any((each or {}).get(side) for each in (after, before) for side in _SIDES):
        return
    if before is not None and after is None:
        text = "pod-level resources cannot be removed"
        causes.append(forbidden_field("spec.resources", text))
        return
    for side in ("requests", "limits") if before is not None else ():
        if not ((before or {}).get(side) or {}).keys() <= ((after or {}).get(side) or {}).keys():
            text = f"pod-level resource {side} cannot be removed"
            causes.append(forbidden_field(f"spec.resources.{side}", text))
    _without_compute(new, old)
    if new.get("resources") != before:
        text = "only cpu and memory resources are mutable at pod-level"
        causes.append(forbidden_field("spec", text))


def _same_containers(new: Object, old: Object, causes: Causes) -> bool:
    before = len(causes)
    for field in ("containers", "initContainers"):
        after, was = new.get(field) or [], old.get(field) or []
        if len(after) != len(was):
            text = f"{field} may not be added or removed on resize"
            causes.append(forbidden_field(f"spec.{field}", text))
            continue
        for index, (one, other) in enumerate(zip(after, was, strict=True)):
            if one.get("name") != other.get("name"):
                text = f"{field} may not be renamed or reordered on resize"
                causes.append(forbidden_field(f"spec.{field}[{index}].name", text))
    return len(causes) == before


def _resized_init(new: Object, old: Object, causes: Causes, path: str) -> None:
    changed = new != old
    _without_compute(new, old)
    if new != old:
        text = "only cpu and memory resources for init or sidecar containers are mutable"
        causes.append(forbidden_field(path, text))
    if changed and not is_sidecar(new):
        for policy in new.get("resizePolicy") or ():
            if policy.get("restartPolicy") == "RestartContainer":
                text = (
                    "non-sidecar init containers with a resize policy of RestartContainer cannot "
                    "be resized"
                )
                causes.append(forbidden_field(path, text))


def _node_resizes(pod: Object) -> bool:
    """A node that can resize reports what running containers have."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if (status.get("state") or {}).get("running") is not None:
            return status.get("resources") is not None
    return True


def _kept_sides(new: Object, old: Object, causes: Causes, path: str) -> None:
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
