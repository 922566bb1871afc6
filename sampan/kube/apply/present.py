"""Fields that an empty object of a built-in kind has already.

Kubernetes compares Go structs: a field whose struct is embedded by value, or that lacks `omitempty`, is there before
anyone has set it, so nobody becomes the owner of the field itself, only of what is in it. This shows in every managed
fields entry that a create makes: `f:strategy` of a Deployment has no ".", `f:securityContext` of a pod has. The schema
does not tell such fields, so here they are, for granular fields below the root, from the types.go of k8s.io/api 1.36.
At the root these are metadata, spec and status of every kind.
"""

from __future__ import annotations

from typing import Final

_FIELDS: Final = {
    "apps.v1": {
        "DaemonSetSpec": "template updateStrategy",
        "DeploymentSpec": "strategy template",
        "ReplicaSetSpec": "template",
        "StatefulSetSpec": "template updateStrategy",
    },
    "autoscaling.v2": {
        "ContainerResourceMetricSource": "target",
        "ContainerResourceMetricStatus": "current",
        "ExternalMetricSource": "metric target",
        "ExternalMetricStatus": "current metric",
        "HorizontalPodAutoscalerSpec": "scaleTargetRef",
        "ObjectMetricSource": "describedObject metric target",
        "ObjectMetricStatus": "current describedObject metric",
        "PodsMetricSource": "metric target",
        "PodsMetricStatus": "current metric",
        "ResourceMetricSource": "target",
        "ResourceMetricStatus": "current",
    },
    "batch.v1": {
        "CronJobSpec": "jobTemplate",
        "JobSpec": "template",
        "JobTemplateSpec": "metadata spec",
        "PodFailurePolicyOnExitCodesRequirement": "values",
    },
    "core.v1": {
        "Container": "resources",
        "ContainerStatus": "lastState state",
        "EphemeralContainer": "resources",
        "Event": "source",
        "NodeDaemonEndpoints": "kubeletEndpoint",
        "NodeStatus": "daemonEndpoints nodeInfo",
        "PersistentVolumeClaimSpec": "resources",
        "PersistentVolumeClaimTemplate": "metadata spec",
        "PodSpec": "containers",
        "PodTemplate": "template",
        "PodTemplateSpec": "metadata spec",
        "ServiceStatus": "loadBalancer",
        "WeightedPodAffinityTerm": "podAffinityTerm",
    },
    "discovery.v1": {"Endpoint": "addresses conditions"},
    "events.v1": {"Event": "deprecatedSource"},
    "flowcontrol.v1": {
        "FlowSchemaSpec": "priorityLevelConfiguration",
        "LimitedPriorityLevelConfiguration": "limitResponse",
        "NonResourcePolicyRule": "nonResourceURLs verbs",
        "ResourcePolicyRule": "apiGroups namespaces resources verbs",
    },
    "networking.v1": {"HTTPIngressPath": "backend", "IngressStatus": "loadBalancer"},
    "resource.v1": {
        "AllocatedDeviceStatus": "conditions",
        "AllocationResult": "devices",
        "OpaqueDeviceConfiguration": "parameters",
        "ResourceClaimSpec": "devices",
        "ResourceClaimTemplateSpec": "metadata spec",
        "ResourceSliceSpec": "pool",
    },
    "storage.v1": {"CSINodeSpec": "drivers", "VolumeAttachmentSpec": "source"},
}

PRESENT: Final[dict[str, tuple[str, ...]]] = {
    f"io.k8s.api.{version}.{kind}": tuple(fields.split())
    for version, kinds in _FIELDS.items()
    for kind, fields in kinds.items()
} | {
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionSpec": (
        "names",
    ),
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus": (
        "acceptedNames",
        "conditions",
    ),
}
