"""The status of a definition, as a pure function of the definition and of its group's others.

Names are accepted when no other definition of the group holds them; a definition whose names are all accepted is
established, and stays so. Reasons and messages: apiextensions `controller/status` and `controller/apiapproval`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sampan.kube import objects
from sampan.kube.structural import approval, structure
from sampan.kube.structural.definition import condition

Object = dict[str, Any]

FINALIZER: Final = "customresourcecleanup.apiextensions.k8s.io"
PENDING: Final = (
    "InstanceDeletionPending",
    "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
)
IN_PROGRESS: Final = ("InstanceDeletionInProgress", "CustomResource deletion is in progress")
OVERLAPPING: Final = (
    "OverlappingBuiltInResource",
    "instances overlap with built-in resources in storage",
)
COMPLETED: Final = ("InstanceDeletionCompleted", "removed all instances")


def settled(crd: Object) -> bool:
    """Is the status as it should be? Quick, and right for every definition that needs no change."""
    status = crd.get("status") or {}
    group = crd["spec"].get("group") or ""
    return (
        status.get("acceptedNames") == crd["spec"]["names"]
        and condition(crd, "NamesAccepted") == "True"
        and condition(crd, "Established") == "True"
        and not condition(crd, "NonStructuralSchema")
        and not approval.is_protected(group)
    )


def wanted(crd: Object, others: Iterable[Object], now: str) -> Object:
    """The definition with the status that it should have; a new dict. `others` are the names that the group's others hold."""
    found = objects.clone(crd)
    first = condition(crd, "Established") != "True"
    status = found.setdefault("status", {})
    names = found["spec"]["names"]
    accepted, reason, message = _accept(names, status.get("acceptedNames") or {}, others)
    status["acceptedNames"] = accepted
    verdict = "False" if reason != "NoConflicts" else "True"
    objects.set_condition(found, "NamesAccepted", verdict, reason, message, now)
    if condition(found, "Established") != "True":
        if verdict == "True":
            text = "the initial names have been accepted"
            objects.set_condition(found, "Established", "True", "InitialNamesAccepted", text, now)
        else:
            text = "not all names are accepted"
            objects.set_condition(found, "Established", "False", "NotAccepted", text, now)
    if approval.is_protected(found["spec"].get("group") or ""):
        objects.set_condition(
            found, "KubernetesAPIApprovalPolicyConformant", *approval.state(found), now
        )
    if first or condition(crd, "NonStructuralSchema"):
        _structural(found, now)
    return found  # type: ignore[no-any-return]


def _accept(names: Object, accepted: Object, others: Iterable[Object]) -> tuple[Object, str, str]:
    """(the names accepted now, reason, message): each name is judged on its own, and the last conflict is told."""
    plurals: set[Any] = set()
    kinds: set[Any] = set()
    for held in others:
        plurals.update((held.get("plural"), held.get("singular"), *(held.get("shortNames") or ())))
        kinds.update((held.get("kind"), held.get("listKind")))
    new = dict(accepted)
    reason, message = "NoConflicts", "no conflicts found"
    for key, taken in (
        ("plural", plurals), ("singular", plurals), ("shortNames", plurals), ("kind", kinds), ("listKind", kinds)):  # fmt: skip
        asked, before = names.get(key), accepted.get(key)
        if key == "shortNames":
            fresh = [each for each in asked or () if each not in (before or ())]
            used = [each for each in fresh if each in taken]
        else:
            used = [asked] if asked != before and asked in taken else []
        if used:
            texts = [f'"{each}" is already in use' for each in used]
            message = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
            reason = f"{key[0].upper()}{key[1:]}Conflict"
        elif asked:
            new[key] = asked
        else:
            new.pop(key, None)
    if names.get("categories"):
        new["categories"] = names["categories"]
    else:
        new.pop("categories", None)
    return new, reason, message


def _structural(crd: Object, now: str) -> None:
    """A definition that was written before its schema had to be structural says so."""
    problems = []
    for index, version in enumerate(crd["spec"].get("versions") or ()):
        raw = (version.get("schema") or {}).get("openAPIV3Schema")
        if raw:
            problems += structure.validate(raw, f"spec.versions[{index}].schema.openAPIV3Schema")
    status = crd["status"]
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(map(str, problems))}]"
        objects.set_condition(crd, "NonStructuralSchema", "True", "Violations", str(text), now)
    elif condition(crd, "NonStructuralSchema"):
        status["conditions"] = [
            each for each in status["conditions"] if each["type"] != "NonStructuralSchema"
        ]


def begin_delete(crd: Object) -> None:
    """Marks a definition whose deletion was asked for: its objects go first."""
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    objects.set_condition(crd, "Terminating", "True", *PENDING)


def is_terminating(crd: Object) -> bool:
    return objects.is_deleting(crd) or condition(crd, "Terminating") == "True"


def must_clean(crd: Object) -> bool:
    return objects.is_deleting(crd) and FINALIZER in objects.finalizers(crd)
