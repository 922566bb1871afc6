"""What is wrong with workloads and the other kinds, in the words of Kubernetes."""

from __future__ import annotations

from base64 import b64encode

import pytest
from validation_objects import (
    CONTAINER,
    changed,
    deployment,
    refused,
)

from sampan.kube.types import GVK
from sampan.kube.validation import validate_create
from sampan.kube.validation.cron import cron_error

WORKLOADS = [
    (
        "Deployment",
        deployment(selector={"matchLabels": {"app": "b"}}),
        'spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`',
    ),
    ("Deployment", deployment(selector=None), "spec.selector: Required value"),
    (
        "Deployment",
        deployment(selector={}),
        "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
    ),
    (
        "Deployment",
        deployment(replicas=-1),
        "spec.replicas: Invalid value: -1: must be greater than or equal",
    ),
    (
        "Deployment",
        deployment(
            strategy={
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0},
            }
        ),
        "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
    ),
    (
        "Deployment",
        deployment(strategy={"type": "Recreate", "rollingUpdate": {}}),
        "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
    ),
    (
        "Deployment",
        deployment(progressDeadlineSeconds=5, minReadySeconds=5),
        "spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds",
    ),
    (
        "DaemonSet",
        deployment(updateStrategy={"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}),
        "may not be set when maxUnavailable is non-zero",
    ),
    ("StatefulSet", deployment(podManagementPolicy="X"), "must be 'OrderedReady' or 'Parallel'"),
]


@pytest.mark.parametrize(
    ("kind", "obj", "text"), WORKLOADS, ids=[text[:60] for *_, text in WORKLOADS]
)
def test_workloads(kind, obj, text):
    assert any(text in found for found in refused("apps", kind, obj)), refused("apps", kind, obj)


def test_templates_always_restart():
    spec = {"containers": [CONTAINER], "restartPolicy": "Never"}
    obj = deployment(template={"metadata": {"labels": {"app": "a"}}, "spec": spec})
    assert refused("apps", "Deployment", obj) == [
        'spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"'
    ]


def test_selectors_are_immutable():
    def move(obj):
        obj["spec"]["selector"]["matchLabels"]["b"] = "c"
        obj["spec"]["template"]["metadata"]["labels"]["b"] = "c"

    for kind in ("Deployment", "ReplicaSet", "DaemonSet"):
        assert changed("apps", kind, deployment(), move) == [
            'spec.selector: Invalid value: {"matchLabels":{"app":"a","b":"c"}}: field is immutable'
        ]
    (text,) = changed("apps", "StatefulSet", deployment(), move)
    assert text.startswith(
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'"
    )


def job(**spec):
    labels = {"app": "a"}
    template = {
        "metadata": {"labels": labels},
        "spec": {"containers": [CONTAINER], "restartPolicy": "Never"},
    }
    selector = {"manualSelector": True, "selector": {"matchLabels": labels}}
    return {"spec": {"template": template} | selector | spec}


def test_jobs():
    assert refused("batch", "Job", job()) == []
    always = job()
    always["spec"]["template"]["spec"] = {"containers": [CONTAINER]}
    assert refused("batch", "Job", always) == [
        'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
    ]
    assert any(
        "completions: Required value" in t
        for t in refused("batch", "Job", job(completionMode="Indexed", parallelism=1))
    )
    (text,) = changed("batch", "Job", job(), lambda it: it["spec"].update(completions=3))
    assert text == "spec.completions: Invalid value: 3: field is immutable"
    change = lambda it: it["spec"]["template"]["spec"]["containers"][0].update(image="y")  # noqa: E731
    (text,) = changed("batch", "Job", job(), change)
    assert text.startswith("spec.template: Invalid value:")
    assert text.endswith("field is immutable")
    cron = {
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": job(selector=None, manualSelector=None)}
    }
    assert refused("batch", "CronJob", cron) == []
    cron["spec"] |= {"schedule": "61 * * * *", "timeZone": "Moon/Base"}
    texts = refused("batch", "CronJob", cron)
    assert any(text.startswith('spec.schedule: Invalid value: "61 * * * *"') for text in texts)
    assert any("unknown time zone Moon/Base" in text for text in texts)


@pytest.mark.parametrize(
    "schedule", ["* * * * *", "0 0 1 JAN sun", "1-5/2,7 * ? * mon-fri", "@daily", "@every 1h30m"]
)
def test_cron_schedules(schedule):
    assert cron_error(schedule) == ""


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "* * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 7",
        "5-1 * * * *",
        "*/0 * * * *",
        "x * * * *",
        "@never",
        "@every x",
    ],
)
def test_what_is_no_cron_schedule(schedule):
    assert cron_error(schedule)


OTHERS = [
    ("", "Service", {"spec": {}}, "spec.ports: Required value"),
    (
        "",
        "Service",
        {"spec": {"ports": [{"port": 1}, {"port": 2}]}},
        "spec.ports[0].name: Required value",
    ),
    (
        "",
        "Service",
        {"spec": {"ports": [{"port": 1, "nodePort": 30000}]}},
        "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
    ),
    (
        "",
        "Service",
        {"spec": {"ports": [{"port": 1}], "type": "X"}},
        'spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName"',
    ),
    ("", "Service", {"spec": {"type": "ExternalName"}}, "spec.externalName: Required value"),
    ("", "ConfigMap", {"data": {"a/b": ""}}, 'data[a/b]: Invalid value: "a/b": a valid config key'),
    (
        "",
        "ConfigMap",
        {"data": {"a": ""}, "binaryData": {"a": ""}},
        "duplicate of key present in binaryData",
    ),
    (
        "",
        "ConfigMap",
        {"data": {"a": "x" * 1048577}},
        "Too long: may not be more than 1048576 bytes",
    ),
    (
        "",
        "Secret",
        {"data": {"a": "A" * 1400000}},
        "data: Too long: may not be more than 1048576 bytes",
    ),
    ("", "Secret", {"type": "kubernetes.io/tls"}, "data[tls.crt]: Required value"),
    *(
        (
            "",
            "Secret",
            {"type": "kubernetes.io/dockercfg", "data": {".dockercfg": b64encode(text).decode()}},
            f'data[.dockercfg]: Invalid value: "<secret contents redacted>": {detail}',
        )
        for text, detail in (
            (b'{"a": ', "unexpected end of JSON input"),
            (b"{a}", "invalid character 'a' looking for beginning of object key string"),
            (b'{"a": [1 "b"]}', "invalid character '\"' after array element"),
            (b'{"a": [1] "}"}', "invalid character '\"' after object key:value pair"),
            (b"7", "json: cannot unmarshal number into Go value of type map[string]interface {}"),
        )
    ),
    (
        "",
        "ResourceQuota",
        {"spec": {"hard": {"foo": "1"}}},
        "must be a standard resource for quota",
    ),
    (
        "",
        "LimitRange",
        {"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}},
        "min value 2 is greater than max value 1",
    ),
    (
        "",
        "PersistentVolumeClaim",
        {"spec": {}},
        "spec.accessModes: Required value: at least 1 access mode",
    ),
    (
        "",
        "Event",
        {"involvedObject": {"namespace": "other"}},
        'involvedObject.namespace: Invalid value: "other": does not match event.namespace',
    ),
    (
        "rbac.authorization.k8s.io",
        "Role",
        {"rules": [{"resources": ["pods"], "apiGroups": [""]}]},
        "rules[0].verbs: Required value: verbs must contain at least one value",
    ),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        {"roleRef": {"kind": "Foo", "name": "a"}},
        'roleRef.kind: Unsupported value: "Foo": supported values: "Role", "ClusterRole"',
    ),
    (
        "networking.k8s.io",
        "Ingress",
        {"spec": {}},
        "either `defaultBackend` or `rules` must be specified",
    ),
    (
        "networking.k8s.io",
        "Ingress",
        {
            "spec": {
                "rules": [{"http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": {}}]}}]
            }
        },
        'spec.rules[0].http.paths[0].path: Invalid value: "x": must be an absolute path',
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        {
            "spec": {
                "ingress": [
                    {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}
                ]
            }
        },
        "must be a strict subset of `cidr`",
    ),
    (
        "policy",
        "PodDisruptionBudget",
        {"spec": {"minAvailable": 1, "maxUnavailable": 1}},
        "minAvailable and maxUnavailable cannot be both set",
    ),
    (
        "coordination.k8s.io",
        "Lease",
        {"spec": {"leaseDurationSeconds": 0}},
        "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
    ),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        {"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]},
        "must be an IPv4 address",
    ),
]


@pytest.mark.parametrize(
    ("group", "kind", "obj", "text"), OTHERS, ids=[f"{it[1]}-{it[3][:40]}" for it in OTHERS]
)
def test_other_kinds(group, kind, obj, text):
    assert any(text in found for found in refused(group, kind, obj)), refused(group, kind, obj)


def cluster(group, kind, obj, version="v1"):
    return refused(
        group,
        kind,
        obj | {"metadata": {"name": obj.get("metadata", {}).get("name", "web")}},
        version,
    )


def test_cluster_kinds():
    assert cluster("node.k8s.io", "RuntimeClass", {"handler": "wasm"}) == []
    assert any(
        'handler: Invalid value: "W"' in t
        for t in cluster("node.k8s.io", "RuntimeClass", {"handler": "W"})
    )
    system = cluster("scheduling.k8s.io", "PriorityClass", {"metadata": {"name": "system-x"}})
    assert any("reserved for system use only" in text for text in system)
    high = cluster("scheduling.k8s.io", "PriorityClass", {"value": 2_000_000_000})
    assert high == [
        "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
    ]
    assert cluster("storage.k8s.io", "StorageClass", {}) == ["provisioner: Required value"]
    taints = {"spec": {"taints": [{"key": "a", "effect": "X"}]}}
    assert any(
        "taints[0].effect: Unsupported value" in text for text in cluster("", "Node", taints)
    )
    volume = {"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}
    assert cluster("", "PersistentVolume", volume) == [
        "spec: Required value: must specify a volume type"
    ]


def test_immutable_data():
    obj = {"data": {"a": "1"}, "immutable": True}
    for kind in ("ConfigMap", "Secret"):
        data = {"data": {"a": "eA=="}, "immutable": True} if kind == "Secret" else obj
        assert changed("", kind, data, lambda it: it["data"].update(b="eA==")) == [
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
        assert changed("", kind, data, lambda it: it.pop("immutable")) == [
            "immutable: Forbidden: field is immutable when `immutable` is set"
        ]
    assert changed("", "Secret", {}, lambda it: it.update(type="x/y")) == [
        'type: Invalid value: "x/y": field is immutable'
    ]


def test_other_immutables():
    binding = {"roleRef": {"kind": "Role", "name": "a"}}
    (text,) = changed(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        binding,
        lambda it: it["roleRef"].update(name="b"),
    )
    assert text.endswith("cannot change roleRef")
    service = {
        "spec": {"ports": [{"port": 1}], "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}
    }
    change = lambda it: it["spec"].update(clusterIP="10.0.0.2", clusterIPs=["10.0.0.2"])  # noqa: E731
    (text,) = changed("", "Service", service, change)
    assert text == 'spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set'


def test_custom_kinds_have_their_metadata_checked():
    gvk = GVK("example.com", "v1", "Boat")
    assert validate_create(gvk, {"metadata": {"name": "a"}}) == []
    assert [cause.field for cause in validate_create(gvk, {"metadata": {"name": "A"}})] == [
        "metadata.name"
    ]
