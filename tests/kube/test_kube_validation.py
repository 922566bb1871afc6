"""Validation: each rule with the path and the sentence that users of Kubernetes know."""

from __future__ import annotations

import copy

import pytest
from validation_objects import (
    CONTAINER,
    META,
    changed,
    container,
    made,
    pod,
    refused,
)

from sampan.kube.validation import validate_update
from sampan.kube.validation.pods import qos_class

PODS = [
    ({"spec": {}}, "spec.containers: Required value"),
    (container(image=""), "spec.containers[0].image: Required value"),
    (
        container(image=" x"),
        'spec.containers[0].image: Invalid value: " x": must not have leading or',
    ),
    (container(name=""), "spec.containers[0].name: Required value"),
    (
        container(name="A"),
        'spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label',
    ),
    (pod(containers=[CONTAINER, CONTAINER]), 'spec.containers[1].name: Duplicate value: "a"'),
    (pod(initContainers=[CONTAINER]), 'spec.initContainers[0].name: Duplicate value: "a"'),
    (
        container(ports=[{"containerPort": 70000}]),
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535",
    ),
    (container(ports=[{}]), "spec.containers[0].ports[0].containerPort: Required value"),
    (
        container(ports=[{"containerPort": 1, "protocol": "X"}]),
        'protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"',
    ),
    (
        container(
            ports=[{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 80}]
        ),
        'spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//80"',
    ),
    (
        container(ports=[{"containerPort": 1, "name": "too-long-for-a-port"}]),
        'ports[0].name: Invalid value: "too-long-for-a-port": must be no more than 15 characters',
    ),
    (container(env=[{"name": ""}]), "spec.containers[0].env[0].name: Required value"),
    (
        container(env=[{"name": "A", "valueFrom": {}}]),
        'env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`',
    ),
    (
        container(
            env=[
                {
                    "name": "A",
                    "value": "x",
                    "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
                }
            ]
        ),
        "may not be specified when `value` is not empty",
    ),
    (
        container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]),
        'fieldRef.fieldPath: Invalid value: "spec.foo": error converting fieldPath: field label not supported: spec.foo',
    ),
    (
        container(env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m"}}}]),
        "configMapKeyRef.key: Required value",
    ),
    (container(envFrom=[{}]), "must specify one of: `configMapRef` or `secretRef`"),
    (
        container(volumeMounts=[{"name": "v", "mountPath": "/x"}]),
        'spec.containers[0].volumeMounts[0].name: Not found: "v"',
    ),
    (
        pod(
            volumes=[{"name": "v"}],
            containers=[CONTAINER | {"volumeMounts": [{"name": "v", "mountPath": "/x"}] * 2}],
        ),
        'volumeMounts[1].mountPath: Invalid value: "/x": must be unique',
    ),
    (
        pod(
            volumes=[{"name": "v"}],
            containers=[
                CONTAINER | {"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../y"}]}
            ],
        ),
        "subPath: Invalid value: \"../y\": must not contain '..'",
    ),
    (
        pod(volumes=[{"name": "v"}, {"name": "v"}]),
        'spec.volumes[1].name: Duplicate value: "v"',
    ),
    (
        pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
        "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
    ),
    (
        pod(volumes=[{"name": "v", "secret": {}}]),
        "spec.volumes[0].secret.secretName: Required value",
    ),
    (
        pod(volumes=[{"name": "v", "configMap": {"name": "m", "defaultMode": 512}}]),
        "defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal)",
    ),
    (
        container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
        'resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1',
    ),
    (
        container(resources={"limits": {"cpu": "-1"}}),
        'resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0',
    ),
    (
        container(resources={"limits": {"foo": "1"}}),
        'limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified',
    ),
    (
        container(resources={"limits": {"example.com/gpu": "500m"}}),
        'limits[example.com/gpu]: Invalid value: "500m": must be an integer',
    ),
    (
        container(livenessProbe={}),
        "spec.containers[0].livenessProbe: Required value: must specify a handler",
    ),
    (
        container(livenessProbe={"exec": {"command": ["x"]}, "successThreshold": 2}),
        "livenessProbe.successThreshold: Invalid value: 2: must be 1",
    ),
    (
        container(readinessProbe={"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}),
        "readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
    ),
    (
        container(readinessProbe={"httpGet": {"port": 0}}),
        "httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
    ),
    (
        pod(
            initContainers=[
                {"name": "i", "image": "x", "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}
            ]
        ),
        "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without "
        "restartPolicy=Always",
    ),
    (
        container(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
        "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
    ),
    (
        container(securityContext={"runAsUser": -1}),
        "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
    ),
    (
        container(securityContext={"seccompProfile": {"type": "Localhost"}}),
        "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
    ),
    (
        pod(restartPolicy="Sometimes"),
        'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"',
    ),
    (
        pod(dnsPolicy="None"),
        "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
    ),
    (
        pod(tolerations=[{"operator": "Equal"}]),
        'spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty',
    ),
    (
        pod(tolerations=[{"key": "a", "effect": "Sometimes"}]),
        'effect: Unsupported value: "Sometimes": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"',
    ),
    (
        pod(tolerations=[{"key": "a", "tolerationSeconds": 1}]),
        "effect must be 'NoExecute' when `tolerationSeconds` is set",
    ),
    (
        pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}),
        "nodeSelectorTerms: Required value: must have at least one node selector term",
    ),
    (
        pod(
            affinity={
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 0, "podAffinityTerm": {}}
                    ]
                }
            }
        ),
        "weight: Invalid value: 0: must be in the range 1-100",
    ),
    (
        pod(
            topologySpreadConstraints=[
                {"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "Never"}
            ]
        ),
        'whenUnsatisfiable: Unsupported value: "Never": supported values: "DoNotSchedule", "ScheduleAnyway"',
    ),
    (
        pod(hostAliases=[{"ip": "x"}]),
        'spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address',
    ),
    (
        pod(activeDeadlineSeconds=0),
        "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and",
    ),
    (
        pod(runtimeClassName="A"),
        'spec.runtimeClassName: Invalid value: "A": a lowercase RFC 1123 subdomain',
    ),
    (
        pod(ephemeralContainers=[{"name": "d", "image": "x"}]),
        "spec.ephemeralContainers: Forbidden: cannot be set on create",
    ),
    (
        pod(hostPID=True, shareProcessNamespace=True),
        "ShareProcessNamespace and HostPID cannot both be enabled",
    ),
]


@pytest.mark.parametrize(("obj", "text"), PODS, ids=[text[:60] for _, text in PODS])
def test_pods(obj, text):
    assert any(text in found for found in refused("", "Pod", obj)), refused("", "Pod", obj)


def test_a_full_pod_is_valid():
    spec = {
        "serviceAccountName": "default",
        "imagePullSecrets": [{}],  # only worth a warning
        "terminationGracePeriodSeconds": -1,
        "initContainers": [
            {"name": "i", "image": "x"},
            {
                "name": "side",
                "image": "x",
                "restartPolicy": "Always",
                "startupProbe": {"tcpSocket": {"port": "web"}},
            },
        ],
        "containers": [
            {
                "name": "a",
                "image": "x:1",
                "ports": [
                    {"containerPort": 53, "protocol": "UDP", "name": "dns"},
                    {"containerPort": 53, "name": "dns-tcp", "hostPort": 53},
                ],
                "env": [
                    {"name": "A", "value": "$(B)"},
                    {
                        "name": "L",
                        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}},
                    },
                    {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                ],
                "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}},
                "livenessProbe": {
                    "httpGet": {"port": "dns", "httpHeaders": [{"name": "X-A", "value": "b"}]}
                },
                "lifecycle": {"preStop": {"exec": {"command": ["x"]}}},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "a/b"}],
                "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "volumes": [
            {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
        ],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["3"]}]},
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": ["n1"]}
                            ]
                        },
                    ]
                }
            }
        },
        "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}},
            }
        ],
    }
    assert refused("", "Pod", {"spec": spec}) == []


def test_metadata():
    def texts(**metadata):
        return refused("", "ConfigMap", {"metadata": META | metadata})

    assert texts() == []
    assert "metadata.name: Required value: name or generateName is required" in texts(name="")
    assert any('metadata.name: Invalid value: "A_b"' in text for text in texts(name="A_b"))
    assert any("must be no more than 253 characters" in text for text in texts(name="a" * 254))
    assert any(
        'metadata.generateName: Invalid value: "_"' in text for text in texts(generateName="_")
    )
    assert "metadata.namespace: Required value" in texts(namespace="")
    assert any('metadata.labels: Invalid value: "-a"' in text for text in texts(labels={"-a": ""}))
    assert any(
        'metadata.labels: Invalid value: "b c"' in text for text in texts(labels={"a": "b c"})
    )
    assert texts(annotations={"a": "x" * 262144}) == [
        "metadata.annotations: Too long: may not be more than 262144 bytes"
    ]
    assert any(
        "is neither a standard finalizer name" in text for text in texts(finalizers=["mine"])
    )
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1", "controller": True}
    assert texts(ownerReferences=[owner]) == []
    assert any(
        "Only one reference can have Controller" in t for t in texts(ownerReferences=[owner] * 2)
    )
    assert any("uid: Invalid value" in t for t in texts(ownerReferences=[owner | {"uid": ""}]))
    cluster = refused("", "Namespace", {"metadata": META})
    assert cluster == ["metadata.namespace: Forbidden: not allowed on this type"]


def test_metadata_does_not_change():
    gvk, old = made("", "ConfigMap", {})
    old["metadata"] |= {
        "uid": "1",
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["x/a"],
    }
    new = copy.deepcopy(old)
    assert validate_update(gvk, new, old) == []
    new["metadata"] |= {"uid": "2", "finalizers": ["x/a", "x/b"]}
    texts = [str(cause) for cause in validate_update(gvk, new, old)]
    assert 'metadata.uid: Invalid value: "2": field is immutable' in texts
    assert any(
        "no new finalizers can be added if the object is being deleted" in text for text in texts
    )


def test_a_pod_is_nearly_frozen():
    def edit(change):
        return changed("", "Pod", pod(activeDeadlineSeconds=10, tolerations=[{"key": "a"}]), change)

    assert edit(lambda it: it["spec"]["containers"][0].update(image="y")) == []
    assert edit(lambda it: it["spec"].update(activeDeadlineSeconds=5)) == []
    assert edit(lambda it: it["spec"]["tolerations"].append({"operator": "Exists"})) == []
    (text,) = edit(lambda it: it["spec"]["containers"][0].update(command=["x"]))
    assert text.startswith(
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
        "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions"
    )
    assert "spec.containers[0].command" in text
    assert any(
        "must be less than or equal" in t
        for t in edit(lambda it: it["spec"].update(activeDeadlineSeconds=50))
    )
    assert any(
        "existing toleration can not be modified" in t
        for t in edit(lambda it: it["spec"].update(tolerations=[]))
    )
    (text,) = edit(
        lambda it: it["spec"]["containers"].append({**it["spec"]["containers"][0], "name": "b"})
    )
    assert text == "spec.containers: Forbidden: pod updates may not add or remove containers"


def test_pod_subresources():
    ephemeral = {
        "name": "d",
        "image": "x",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always",
    }
    gvk, old = made("", "Pod", pod())
    new = copy.deepcopy(old)
    new["spec"]["ephemeralContainers"] = [ephemeral]
    assert validate_update(gvk, new, old, "ephemeralcontainers") == []
    (cause,) = validate_update(gvk, old, new, "ephemeralcontainers")
    assert 'existing ephemeral containers "d" may not be removed' in cause.message
    bigger = copy.deepcopy(old)
    bigger["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1"}}
    (cause,) = validate_update(gvk, bigger, old, "resize")
    assert "Pod QOS Class may not change" in cause.message
    assert validate_update(gvk, new, old, "status") == []


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1"}}, "Burstable"),
        (
            {"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1000m", "memory": "1"}},
            "Guaranteed",
        ),
    ],
)
def test_quality_of_service(resources, expected):
    assert qos_class(container(resources=resources)) == expected
