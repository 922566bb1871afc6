"""Whole sentences, path and all: what Kubernetes v1.36.2 answers to an object with one thing changed.

Clients match on these. Each row was put to both, and they agree; the quirks (paths without an index) are theirs. Where a
message shows a value that is an object, the two write it differently, so no row does. Pods have a file of their own.
"""

from __future__ import annotations

from typing import Final

import pytest
from kube_tables import Object, of_create

BASES: Final[dict[str, Object]] = {
    "deployment": {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    },
    "stateful set": {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    },
    "daemon set": {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "x:1"}]},
            },
        },
    },
    "revision": {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {"name": "r", "namespace": "default"},
        "revision": 1,
        "data": {"a": 1},
    },
    "autoscaler": {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h", "namespace": "default"},
        "spec": {
            "maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "w"},
        },
    },
    "webhooks": {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "v"},
        "webhooks": [
            {
                "name": "a.b.c",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://a/b"},
            }
        ],
    },
    "driver": {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": "a.b"},
        "spec": {},
    },
    "range": {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "r"},
        "spec": {"cidrs": ["10.0.0.0/16"]},
    },
    "policy": {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "n", "namespace": "default"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    },
}

ROWS: Final[list[tuple[str, Object, list[str]]]] = [
    (
        "deployment",
        {
            "spec.strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "x"},
            }
        },
        [
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ],
    ),
    (
        "stateful set",
        {"spec.serviceName": "a.b"},
        ['spec.serviceName: Invalid value: "a.b": must not contain dots'],
    ),
    (
        "stateful set",
        {"spec.template.metadata.labels": {"a": "b", "c d": "e"}},
        [
            "spec.template.labels: Invalid value: \"c d\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "spec.template.labels: Invalid value: \"c d\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    ),
    (
        "stateful set",
        {
            "spec.volumeClaimTemplates": [
                {"metadata": {"name": "d"}, "spec": {"resources": {"requests": {"storage": "1"}}}}
            ]
        },
        [
            "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required"
        ],
    ),
    (
        "stateful set",
        {"spec.template.spec.activeDeadlineSeconds": 5},
        [
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported"
        ],
    ),
    ("stateful set", {"spec.template.spec.subdomain": "A b"}, []),
    ("revision", {"data": None}, ["data: Required value: data is mandatory"]),
    ("revision", {"data": "text"}, ["data: Required value: data must be a valid JSON object"]),
    (
        "autoscaler",
        {"spec.scaleTargetRef": {"kind": "Deployment", "name": "w"}},
        ['spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API group'],
    ),
    ("autoscaler", {"spec.scaleTargetRef": {"kind": "ReplicationController", "name": "w"}}, []),
    (
        "autoscaler",
        {"spec.scaleTargetRef.apiVersion": "a/b/c"},
        [
            'spec.scaleTargetRef.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c'
        ],
    ),
    (
        "autoscaler",
        {"spec.metrics": [{"type": "x"}]},
        [
            'spec.metrics[0].type: Unsupported value: "x": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"',
            'spec.metrics[0].type: Unsupported value: "x": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"',
        ],
    ),
    (
        "webhooks",
        {"webhooks[0].clientConfig": {"url": "http://u:p@/a?b=c#d"}},
        [
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            'webhooks[0].clientConfig.url: Invalid value: "": host must be specified; desired format: https://host[/path]',
            'webhooks[0].clientConfig.url: Invalid value: "u:p": user information is not permitted in the URL',
            'webhooks[0].clientConfig.url: Invalid value: "d": fragments are not permitted in the URL',
            'webhooks[0].clientConfig.url: Invalid value: "b=c": query parameters are not permitted in the URL',
        ],
    ),
    (
        "webhooks",
        {"webhooks[0].clientConfig": {"service": {"name": "s", "path": "a//B"}}},
        [
            "webhooks[0].clientConfig.service.name: Required value",
            "webhooks[0].clientConfig.service.path: Invalid value: \"a//B\": must start with a '/'",
            'webhooks[0].clientConfig.service.path: Invalid value: "a//B": segment[0] may not be empty',
            'webhooks[0].clientConfig.service.path: Invalid value: "a//B": segment[1] may not be empty',
            "webhooks[0].clientConfig.service.path: Invalid value: \"a//B\": segment[2]: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ],
    ),
    (
        "webhooks",
        {"webhooks[0].sideEffects": None},
        ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"],
    ),
    (
        "webhooks",
        {"webhooks[0].name": "a.b"},
        [
            'webhooks[0].name: Invalid value: "a.b": should be a domain with at least three segments separated by dots'
        ],
    ),
    (
        "driver",
        {"spec.serviceAccountTokenInSecrets": True},
        [
            "spec.serviceAccountTokenInSecrets: Invalid value: true: serviceAccountTokenInSecrets is set but no tokenRequests are specified"
        ],
    ),
    (
        "driver",
        {"spec.volumeLifecycleModes": ["x"]},
        [
            'spec.volumeLifecycleModes: Unsupported value: "x": supported values: "Persistent", "Ephemeral"'
        ],
    ),
    (
        "driver",
        {"spec.nodeAllocatableUpdatePeriodSeconds": 9},
        [
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds"
        ],
    ),
    (
        "range",
        {"spec.cidrs": ["10.0.0.1/16"]},
        [
            'spec.cidrs[0]: Invalid value: "10.0.0.1/16": must not have bits set beyond the prefix length'
        ],
    ),
    (
        "range",
        {"spec.cidrs": ["010.0.0.0/16"]},
        [
            'spec.cidrs[0]: Invalid value: "010.0.0.0/16": must not have leading 0s in IP or prefix length'
        ],
    ),
    (
        "range",
        {"spec.cidrs": ["fd00:0::/64"]},
        ['spec.cidrs[0]: Invalid value: "fd00:0::/64": must be in canonical form ("fd00::/64")'],
    ),
    (
        "policy",
        {"spec.ingress[0].from[0].ipBlock.cidr": "10.1.0.0/8"},
        [
            'spec.ingress[0].from[0].ipBlock.cidr: Invalid value: "10.1.0.0/8": must not have bits set beyond the prefix length'
        ],
    ),
    (
        "policy",
        {"spec.ingress[0].ports": [{"protocol": "x"}]},
        [
            'spec.ingress[0].ports[0].protocol: Unsupported value: "x": supported values: "TCP", "UDP", "SCTP"'
        ],
    ),
]


@pytest.mark.parametrize(("base", "changes", "wanted"), ROWS)
def test_sentences(base: str, changes: Object, wanted: list[str]) -> None:
    assert [str(cause) for cause in of_create(BASES[base], changes)] == wanted
