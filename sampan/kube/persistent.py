"""Claims and volumes: which volume fits a claim, and what the two say of each other. Pure; the binder and the scheduler decide
by the same functions.

Source: kubernetes.io/docs/concepts/storage/persistent-volumes, the API reference of PersistentVolumeClaim and StorageClass,
KEP-490 (volume topology), KEP-3333 (retroactive default class).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from sampan.kube import objects
from sampan.kube.objects import is_deleting
from sampan.kube.placement import matches_term
from sampan.kube.quantity import Quantity, parse
from sampan.kube.selectors import from_object

Object = dict[str, Any]
Labels = Mapping[str, str]
Place = tuple[str, Labels]  # a node's name and labels

BIND_COMPLETED: Final = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER: Final = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"
SELECTED_NODE: Final = "volume.kubernetes.io/selected-node"
PROVISIONERS: Final = (
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
)
CLASS: Final = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS: Final = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)
NO_PROVISIONER: Final = "kubernetes.io/no-provisioner"
ONE_POD: Final = "ReadWriteOncePod"
ZONES: Final = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


# What an object says


def class_of(obj: Object) -> str:
    """The class of a claim or a volume; "" is none."""
    return objects.annotations(obj).get(CLASS) or obj["spec"].get("storageClassName") or ""


def names_class(claim: Object) -> bool:
    """Whether the claim says which class it wants, be it none; else it gets the default one."""
    return CLASS in objects.annotations(claim) or claim["spec"].get("storageClassName") is not None


def mode_of(obj: Object) -> str:
    return str(obj["spec"].get("volumeMode") or "Filesystem")


def modes_of(obj: Object) -> list[str]:
    return obj["spec"].get("accessModes") or []


def capacity_of(volume: Object) -> Quantity:
    return parse((volume["spec"].get("capacity") or {}).get("storage") or 0)


def asked_by(claim: Object) -> Quantity:
    resources = claim["spec"].get("resources") or {}
    return parse((resources.get("requests") or {}).get("storage") or 0)


def is_default(storage_class: Object) -> bool:
    marks = objects.annotations(storage_class)
    return any(marks.get(name) == "true" for name in DEFAULT_CLASS)


def default_class(classes: Iterable[Object]) -> str:
    """The name of the default class; of several the youngest, the first by name among equals. "" when there is none."""
    marked = sorted(filter(is_default, classes), key=lambda each: str(each["metadata"]["name"]))
    if not marked:
        return ""
    return str(
        max(marked, key=lambda each: each["metadata"].get("creationTimestamp") or "")["metadata"][
            "name"
        ]
    )


def waits_for_pod(storage_class: Object | None) -> bool:
    """Claims of this class are bound when it is known where their pod runs."""
    return (storage_class or {}).get("volumeBindingMode") == "WaitForFirstConsumer"


def is_meant_for(volume: Object, claim: Object) -> bool:
    """The volume's claimRef names this claim: by name, and by uid when it has one."""
    reference, metadata = volume["spec"].get("claimRef"), claim["metadata"]
    return (
        reference is not None
        and reference.get("name") == metadata["name"]
        and reference.get("namespace") == metadata["namespace"]
        and reference.get("uid", "") in ("", metadata["uid"])
    )


def is_bound(claim: Object) -> bool:
    """Both sides are settled."""
    return bool(claim["spec"].get("volumeName")) and (
        BIND_COMPLETED in objects.annotations(claim)
        or (claim.get("status") or {}).get("phase") == "Bound"
    )


def reference(claim: Object) -> Object:
    """The claimRef that names this claim, and no other that gets its name later."""
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata.get("resourceVersion", ""),
    }


def annotated(obj: Object, marks: Mapping[str, str]) -> Object:
    """A copy of the object with these annotations more."""
    return {
        **obj,
        "metadata": {**obj["metadata"], "annotations": {**objects.annotations(obj), **marks}},
    }


def named_for(volume: Object, claim: Object) -> Object:
    """A copy of the volume that is kept for the claim. Who chose is noted: an unbinding keeps what an administrator wrote."""
    changed = {**volume, "spec": {**volume["spec"], "claimRef": reference(claim)}}
    if volume["spec"].get("claimRef") is None:
        changed = annotated(changed, {BOUND_BY_CONTROLLER: "yes"})
    return changed


# Indexes, by which both are found fast


def waiting_class(claim: Object) -> list[str]:
    """Of claims that have no volume: by class."""
    return [] if claim["spec"].get("volumeName") else [class_of(claim)]


def named_volume(claim: Object) -> list[str]:
    """Of claims: by the volume that they name."""
    name = claim["spec"].get("volumeName")
    return [name] if name else []


def available_class(volume: Object) -> list[str]:
    """Of volumes that belong to no claim: by class."""
    return [] if volume["spec"].get("claimRef") else [class_of(volume)]


def claimed_by(volume: Object) -> list[str]:
    """Of volumes: by the claim that they name, `namespace/name`."""
    claim = volume["spec"].get("claimRef")
    return [f"{claim.get('namespace', '')}/{claim.get('name', '')}"] if claim else []


# Do they fit?


def mismatch(volume: Object, claim: Object) -> str | None:
    """Why the volume cannot be this claim's, in the words of the event VolumeMismatch; None when it can."""
    if capacity_of(volume) < asked_by(claim):
        return "requested PV is too small"
    if class_of(volume) != class_of(claim):
        return "storageClassName does not match"
    if mode_of(volume) != mode_of(claim):
        return "incompatible volumeMode"
    if not set(modes_of(claim)) <= set(modes_of(volume)):
        return "incompatible accessMode"
    return None


def reachable(volume: Object, place: Place) -> bool:
    """May pods on this node use the volume?"""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required")
    return required is None or any(
        matches_term(term, *place) for term in required["nodeSelectorTerms"]
    )


def in_zone(volume: Object, labels: Labels) -> bool:
    """Do the volume's zone labels admit the node? A label may hold several zones, with `__` between them."""
    marks = volume["metadata"].get("labels") or {}
    return all(
        labels.get(key) in marks[key].split("__") for key in ZONES if key in marks and key in labels
    )


def allows(storage_class: Object, place: Place) -> bool:
    """Can the class have a volume made for this node (allowedTopologies)?"""
    terms = storage_class.get("allowedTopologies")
    labels = place[1]
    return not terms or any(
        all(
            labels.get(each["key"]) in each["values"]
            for each in term.get("matchLabelExpressions") or ()
        )
        for term in terms
    )


def best(
    claim: Object,
    volumes: Iterable[Object],
    *,
    place: Place | None = None,
    delayed: bool = False,
    taken: Collection[str] = (),
) -> Object | None:
    """The volume that this claim shall have: one that was made for it, else the smallest that fits, with the fewest
    access modes beyond those asked for.

    `place`: the node that has to reach it. `delayed`: only a volume made for it, the rest is decided with the pod.
    `taken`: names of volumes that are promised to others.
    """
    asked, mode, wanted = asked_by(claim), mode_of(claim), set(modes_of(claim))
    name, attributes = class_of(claim), claim["spec"].get("volumeAttributesClassName") or ""
    selector = claim["spec"].get("selector")
    matching = None if selector is None else from_object(selector)
    found: tuple[Any, ...] | None = None
    chosen: Object | None = None
    for volume in volumes:
        spec, metadata = volume["spec"], volume["metadata"]
        if mode_of(volume) != mode or is_deleting(volume) or metadata["name"] in taken:
            continue
        size = capacity_of(volume)
        if size < asked:
            continue
        near = place is None or reachable(volume, place)
        if is_meant_for(volume, claim):
            return volume if near else None
        if (
            delayed
            or not near
            or spec.get("claimRef") is not None
            or (volume.get("status") or {}).get("phase") != "Available"
            or class_of(volume) != name
            or (spec.get("volumeAttributesClassName") or "") != attributes
            or not wanted <= set(modes_of(volume))
            or (matching is not None and not matching.matches(metadata.get("labels") or {}))
        ):
            continue
        rank = len(modes_of(volume)), size.nanos(), metadata["name"]
        if found is None or rank < found:
            found, chosen = rank, volume
    return chosen


# Pods and their claims


def claims_of(pod: Object) -> list[str]:
    """Names of the claims that the pod mounts, those of ephemeral volumes included."""
    return [name for volume in pod["spec"].get("volumes") or () if (name := claim_of(pod, volume))]


def claim_of(pod: Object, volume: Object) -> str:
    """The claim behind one volume of a pod, "" when it has none. An ephemeral volume's is named after both (KEP-1698)."""
    if "persistentVolumeClaim" in volume:
        return str(volume["persistentVolumeClaim"]["claimName"])
    if "ephemeral" in volume:
        return f"{pod['metadata']['name']}-{volume['name']}"
    return ""


def made_for(claim: Object, pod: Object) -> bool:
    """Whether an ephemeral volume's claim belongs to this pod, and not to somebody who had the name before."""
    uid = pod["metadata"]["uid"]
    return any(
        owner.get("controller") and owner.get("uid") == uid
        for owner in claim["metadata"].get("ownerReferences") or ()
    )


# Directories of nodes

LOCAL_PATH: Final = (
    "sampan.dev/local-path"  # our provisioner; a node's annotation says where its directories are
)
