"""batch/v1."""

from __future__ import annotations

from sampan.apiserver.resources.model import Resource, resource, status

ALL = ("all",)

RESOURCES: tuple[Resource, ...] = (
    resource(
        "batch",
        "v1",
        "cronjobs",
        "CronJob",
        short_names=("cj",),
        categories=ALL,
        subresources=(status("CronJob"),),
        generation=True,
    ),
    resource(
        "batch",
        "v1",
        "jobs",
        "Job",
        categories=ALL,
        subresources=(status("Job"),),
        strategy="job",
        generation=True,
        selectable=("status.successful",),
    ),
)
