"""events.k8s.io/v1: another face of core Events; one storage, kept as core v1."""

from __future__ import annotations

from sampan.apiserver.resources.model import Resource, resource

RESOURCES: tuple[Resource, ...] = (
    resource(
        "events.k8s.io",
        "v1",
        "events",
        "Event",
        short_names=("ev",),
        strategy="event",
        storage="core/events",
        storage_version="v1",
        create_on_update=True,
        selectable=(
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ),
    ),
)
