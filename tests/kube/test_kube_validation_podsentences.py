"""Whole sentences of pods, path and all: what Kubernetes v1.36.2 answers to a pod with one thing changed.

Clients match on these. Each row was put to both, and they agree; the quirks (a misspelled source) are theirs. Other kinds:
`test_kube_validation_sentences.py`.
"""

from __future__ import annotations

from typing import Final

import pytest
from kube_tables import Object, of_create

POD: Final[Object] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "default"},
    "spec": {"containers": [{"name": "c", "image": "x:1"}]},
}

ROWS: Final[list[tuple[Object, list[str]]]] = [
    (
        {"spec.containers[0].terminationMessagePolicy": "x"},
        [
            'spec.containers[0].terminationMessagePolicy: Unsupported value: "x": supported values: "File", "FallbackToLogsOnError"'
        ],
    ),
    (
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
        {"spec.containers[0].ports": [{"name": "a-name-too-long-by-far", "containerPort": 80}]},
        [
            'spec.containers[0].ports[0].name: Invalid value: "a-name-too-long-by-far": must be no more than 15 characters'
        ],
    ),
    (
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
        {"spec.volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "/a", "mode": 512}]}}]},
        [
            'spec.volumes[0].downwardAPI.path: Invalid value: "/a": must be a relative path',
            "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
            "spec.volumes[0].downwardAPI.mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ],
    ),
    (
        {"spec.volumes": [{"name": "v", "quobyte": {"registry": "r", "volume": "v"}}]},
        [
            'spec.volumes[0].quobyte.registry: Invalid value: "r": must be a host:port pair or multiple pairs separated by commas'
        ],
    ),
    (
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
        {"metadata.annotations": {"seccomp.security.alpha.kubernetes.io/pod": "x"}},
        [
            'metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: "x": must be a valid seccomp profile'
        ],
    ),
    (
        {
            "metadata.annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"},
            "spec.securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        },
        [
            "spec.securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match"
        ],
    ),
    (
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
        {"spec.hostUsers": False, "spec.hostPID": True},
        ["spec.HostPID: Forbidden: when `hostUsers` is false"],
    ),
    (
        {"spec.hostnameOverride": "a.b", "spec.hostNetwork": True},
        ["spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true"],
    ),
    (
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
        {"spec.tolerations": [{"key": "a", "operator": "Gt", "value": "1"}]},
        [
            'spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists", "Lt", "Gt"'
        ],
    ),
    (
        {"spec.dnsConfig": {"searches": ["a/b"]}},
        [
            "spec.dnsConfig.searches[0]: Invalid value: \"a/b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')"
        ],
    ),
    ({"spec.os": {"name": ""}}, ["spec.os.name: Required value"]),
    (
        {"metadata.ownerReferences": [{"apiVersion": "", "kind": "", "name": "x", "uid": "u"}]},
        [
            'metadata.ownerReferences.apiVersion: Invalid value: "": version must not be empty',
            'metadata.ownerReferences.kind: Invalid value: "": must not be empty',
        ],
    ),
    (
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
        {"spec.nodeSelector": {"a/b/c": "x"}},
        [
            "spec.nodeSelector: Invalid value: \"a/b/c\": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ],
    ),
    (
        {"metadata.name": "a\tb"},
        [
            "metadata.name: Invalid value: \"a\\tb\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ],
    ),
]


@pytest.mark.parametrize(("changes", "wanted"), ROWS)
def test_sentences(changes: Object, wanted: list[str]) -> None:
    assert [str(cause) for cause in of_create(POD, changes)] == wanted
