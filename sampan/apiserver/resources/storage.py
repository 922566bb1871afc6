"""storage.k8s.io/v1."""

from __future__ import annotations

from sampan.apiserver.resources.model import Resource, resource, status

GROUP = "storage.k8s.io"

RESOURCES: tuple[Resource, ...] = (
    resource(
        GROUP,
        "v1",
        "csidrivers",
        "CSIDriver",
        namespaced=False,
        generation=True,
        unconditional_update=False,
    ),
    resource(GROUP, "v1", "csinodes", "CSINode", namespaced=False, unconditional_update=False),
    resource(
        GROUP,
        "v1",
        "csistoragecapacities",
        "CSIStorageCapacity",
        unconditional_update=False,
    ),
    resource(GROUP, "v1", "storageclasses", "StorageClass", namespaced=False, short_names=("sc",)),
    resource(
        GROUP,
        "v1",
        "volumeattachments",
        "VolumeAttachment",
        namespaced=False,
        subresources=(status("VolumeAttachment"),),
        unconditional_update=False,
    ),
    resource(
        GROUP,
        "v1",
        "volumeattributesclasses",
        "VolumeAttributesClass",
        namespaced=False,
        short_names=("vac",),
    ),
)
