"""Whole sentences, path and all: what Kubernetes v1.36.2 answers to an object with one thing changed.

Clients match on these. Each row was put to both, and they agree; the quirks (paths without an index, a misspelled source) are
theirs. Where a message shows a value that is an object, the two write it differently, so no row does.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from kube_tables import changed, defaulted, gvk_of

from sampan.kube import validation

Object = dict[str, Any]

BASES: Final[dict[str, Object]] = {
    "pod": {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    },
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
        "pod",
        {"spec.containers[0].terminationMessagePolicy": "x"},
        [
            'spec.containers[0].terminationMessagePolicy: Unsupported value: "x": supported values: "File", "FallbackToLogsOnError"'
        ],
    ),
    (
        "pod",
        {
            "spec.containers[0].restartPolicyRules": [
                {"action": "x", "exitCodes": {"operator": "In"}}
            ]
        },
        [
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
            'spec.containers[0].restartPolicyRules[0].action: Unsupported value: "x": supported values: "Restart", "RestartAllContainers"',
        ],
    ),
    (
        "pod",
        {"spec.containers[0].ports": [{"name": "a-name-too-long-by-far", "containerPort": 80}]},
        [
            'spec.containers[0].ports[0].name: Invalid value: "a-name-too-long-by-far": must be no more than 15 characters'
        ],
    ),
    (
        "pod",
        {
            "spec.containers[0].volumeMounts": [
                {"name": "v", "mountPath": "/a", "mountPropagation": "x", "subPath": "/b"}
            ],
            "spec.volumes": [{"name": "v", "emptyDir": {}}],
        },
        [
            'spec.containers[0].volumeMounts.subPath: Invalid value: "/b": must be a relative path',
            'spec.containers[0].volumeMounts.mountPropagation: Unsupported value: "x": supported values: "Bidirectional", "HostToContainer", "None"',
        ],
    ),
    (
        "pod",
        {
            "spec.volumes": [
                {
                    "name": "v",
                    "cephfs": {"monitors": ["m"]},
                    "hostPath": {"path": "/a"},
                    "downwardAPI": {},
                }
            ]
        },
        [
            "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
        ],
    ),
    (
        "pod",
        {"spec.volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "/a", "mode": 512}]}}]},
        [
            'spec.volumes[0].downwardAPI.path: Invalid value: "/a": must be a relative path',
            "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            "spec.volumes[0].downwardAPI.mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ],
    ),
    (
        "pod",
        {"spec.volumes": [{"name": "v", "quobyte": {"registry": "r", "volume": "v"}}]},
        [
            'spec.volumes[0].quobyte.registry: Invalid value: "r": must be a host:port pair or multiple pairs separated by commas'
        ],
    ),
    (
        "pod",
        {
            "spec.volumes": [
                {
                    "name": "v",
                    "iscsi": {
                        "targetPortal": "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt",
                        "iqn": "iqn.2015-02.example.com:test",
                        "initiatorName": "iqn.2015-02.example.com:i",
                        "lun": 1,
                    },
                }
            ]
        },
        [
            'spec.volumes[0].name: Invalid value: "v": Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.'
        ],
    ),
    (
        "pod",
        {
            "spec.containers[0].env": [
                {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name['a']"}}}
            ]
        },
        [
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": error converting fieldPath: field label does not support subscript: metadata.name['a']"
        ],
    ),
    (
        "pod",
        {
            "spec.containers[0].env": [
                {
                    "name": "A",
                    "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "K"}},
                }
            ],
            "spec.volumes": [{"name": "v", "hostPath": {"path": "/a"}}],
        },
        [
            'spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Invalid value: "v": referenced volume must be of type emptyDir'
        ],
    ),
    (
        "pod",
        {"metadata.annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}},
        [
            'metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: "x": must be a valid seccomp profile'
        ],
    ),
    (
        "pod",
        {
            "metadata.annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"},
            "spec.securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        },
        [
            "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"
        ],
    ),
    (
        "pod",
        {
            "metadata.annotations": {
                "container.apparmor.security.beta.kubernetes.io/c": "localhost/a"
            },
            "spec.containers[0].securityContext": {
                "appArmorProfile": {"type": "Localhost", "localhostProfile": "b"}
            },
        },
        [
            "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match"
        ],
    ),
    (
        "pod",
        {"spec.hostUsers": False, "spec.hostPID": True},
        ["spec.HostPID: Forbidden: when `hostUsers` is false"],
    ),
    (
        "pod",
        {"spec.hostnameOverride": "a.b", "spec.hostNetwork": True},
        ["spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true"],
    ),
    (
        "pod",
        {
            "spec.resources": {
                "requests": {"cpu": "1", "example.com/a": "1"},
                "limits": {"example.com/a": "1"},
            },
            "spec.containers[0].resources": {"requests": {"cpu": "2"}},
        },
        [
            'spec.resources.limits[example.com/a]: Unsupported value: "example.com/a": supported values: "cpu", "hugepages-", "memory"',
            'spec.resources.requests[example.com/a]: Unsupported value: "example.com/a": supported values: "cpu", "hugepages-", "memory"',
            'spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 2',
        ],
    ),
    (
        "pod",
        {
            "spec.initContainers": [
                {
                    "name": "i",
                    "image": "x",
                    "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}],
                }
            ]
        },
        [
            "spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to 'RestartContainer' for non-sidecar initContainers"
        ],
    ),
    (
        "pod",
        {"spec.tolerations": [{"key": "a", "operator": "Gt", "value": "1"}]},
        [
            'spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt"'
        ],
    ),
    (
        "pod",
        {"spec.dnsConfig": {"searches": ["a/b"]}},
        [
            "spec.dnsConfig.searches[0]: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
        ],
    ),
    ("pod", {"spec.os": {"name": ""}}, ["spec.os.name: Required value"]),
    (
        "pod",
        {"metadata.ownerReferences": [{"apiVersion": "", "kind": "", "name": "x", "uid": "u"}]},
        [
            'metadata.ownerReferences.apiVersion: Invalid value: "": version must not be empty',
            'metadata.ownerReferences.kind: Invalid value: "": must not be empty',
        ],
    ),
    (
        "pod",
        {
            "metadata.labels": {
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": "x"
            }
        },
        [
            'metadata.labels: Invalid value: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": name part must be no more than 63 bytes'
        ],
    ),
    (
        "pod",
        {"spec.nodeSelector": {"a/b/c": "x"}},
        [
            "spec.nodeSelector: Invalid value: \"a/b/c\": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ],
    ),
    (
        "pod",
        {"metadata.name": "a\tb"},
        [
            "metadata.name: Invalid value: \"a\\tb\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ],
    ),
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
    obj = defaulted(changed(BASES[base], changes))
    assert [str(cause) for cause in validation.validate_create(gvk_of(obj), obj)] == wanted
