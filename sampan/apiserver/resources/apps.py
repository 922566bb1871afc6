"""apps/v1."""

from __future__ import annotations

from sampan.apiserver.resources.model import SCALE, Resource, resource, status

ALL = ("all",)

RESOURCES: tuple[Resource, ...] = (
    resource("apps", "v1", "controllerrevisions", "ControllerRevision"),
    resource(
        "apps",
        "v1",
        "daemonsets",
        "DaemonSet",
        short_names=("ds",),
        categories=ALL,
        subresources=(status("DaemonSet"),),
        strategy="daemonset",
        generation=True,
    ),
    resource(
        "apps",
        "v1",
        "deployments",
        "Deployment",
        short_names=("deploy",),
        categories=ALL,
        subresources=(SCALE, status("Deployment")),
        generation=True,
    ),
    resource(
        "apps",
        "v1",
        "replicasets",
        "ReplicaSet",
        short_names=("rs",),
        categories=ALL,
        subresources=(SCALE, status("ReplicaSet")),
        generation=True,
        selectable=("status.replicas",),
    ),
    resource(
        "apps",
        "v1",
        "statefulsets",
        "StatefulSet",
        short_names=("sts",),
        categories=ALL,
        subresources=(SCALE, status("StatefulSet")),
        generation=True,
    ),
)
