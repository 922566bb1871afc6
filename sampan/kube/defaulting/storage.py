"""Defaults of volumes, claims and storage.k8s.io."""

from __future__ import annotations

from sampan.kube.defaulting.fill import Object, empty, sub, unset
from sampan.kube.defaulting.pods import VOLUME_SOURCES


def default_volume(volume: Object) -> None:
    spec = sub(volume, "spec")
    empty(spec, persistentVolumeReclaimPolicy="Retain")
    unset(spec, volumeMode="Filesystem")
    for field, fill in VOLUME_SOURCES.items():
        if (source := spec.get(field)) is not None:
            fill(source)
    empty(sub(volume, "status"), phase="Pending")


def default_claim(claim: Object) -> None:
    unset(sub(claim, "spec"), volumeMode="Filesystem")
    empty(sub(claim, "status"), phase="Pending")


def _storage_class(storage_class: Object) -> None:
    unset(storage_class, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _csi_driver(driver: Object) -> None:
    spec = sub(driver, "spec")
    unset(
        spec,
        attachRequired=True,
        podInfoOnMount=False,
        storageCapacity=False,
        fsGroupPolicy="ReadWriteOnceWithFSType",
        requiresRepublish=False,
        seLinuxMount=False,
    )
    empty(spec, volumeLifecycleModes=["Persistent"])
    spec.pop("preventPodSchedulingIfMissing", None)  # behind a gate that is off in v1.36


DEFAULTS = {
    ("storage.k8s.io", "StorageClass"): _storage_class,
    ("storage.k8s.io", "CSIDriver"): _csi_driver,
}
