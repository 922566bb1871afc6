"""autoscaling: v2 and v1 of the HorizontalPodAutoscaler are one storage, kept as v2."""

from __future__ import annotations

from sampan.apiserver.resources.model import Resource, resource, status

RESOURCES: tuple[Resource, ...] = tuple(
    resource(
        "autoscaling",
        version,
        "horizontalpodautoscalers",
        "HorizontalPodAutoscaler",
        short_names=("hpa",),
        categories=("all",),
        subresources=(status("HorizontalPodAutoscaler"),),
        storage_version="autoscaling/v2",
    )
    for version in ("v2", "v1")
)
