"""Defaults, field by field as the API documents them, and their idempotence for every kind."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kube_values import fitting

from sampan.kube import conform, schema
from sampan.kube.defaulting import _TABLE, default
from sampan.kube.defaulting.pods import pull_policy
from sampan.kube.types import GVK
from sampan.kube.validation import validate_create, validate_update

POD = GVK("", "v1", "Pod")
CONTAINER = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "IfNotPresent",
}
SPEC = {
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "terminationGracePeriodSeconds": 30,
    "schedulerName": "default-scheduler",
    "securityContext": {},
}


def defaulted(group, kind, obj, version="v1"):
    obj = copy.deepcopy(obj)
    default(GVK(group, version, kind), obj)
    return obj


def pod_spec(spec):
    return defaulted("", "Pod", {"spec": spec})["spec"]


def test_a_plain_pod():
    spec = pod_spec({"containers": [{"name": "a", "image": "x:1"}]})
    assert spec == SPEC | {
        "enableServiceLinks": True,
        "containers": [{"name": "a", "image": "x:1"} | CONTAINER],
    }


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("x", "Always"),
        ("x:latest", "Always"),
        ("x:1", "IfNotPresent"),
        ("r:5000/x", "Always"),
        ("r:5000/x:1", "IfNotPresent"),
        ("x@sha256:00", "IfNotPresent"),
        ("x:latest@sha256:00", "Always"),
    ],
)
def test_pull_policy_by_tag(image, policy):
    assert pull_policy(image) == policy


def test_what_is_said_stays():
    said = {
        "restartPolicy": "Never",
        "dnsPolicy": "None",
        "terminationGracePeriodSeconds": 0,
        "schedulerName": "own",
        "securityContext": {"runAsUser": 1},
        "enableServiceLinks": False,
        "containers": [],
    }
    assert pod_spec(said) == said


def test_probes_ports_and_environment():
    (container,) = pod_spec(
        {
            "containers": [
                {
                    "image": "x:1",
                    "ports": [{"containerPort": 1}, {"containerPort": 2, "protocol": "UDP"}],
                    "env": [
                        {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
                    ],
                    "readinessProbe": {"httpGet": {"port": 1}, "periodSeconds": 5},
                    "livenessProbe": {"grpc": {"port": 1}},
                    "lifecycle": {"preStop": {"httpGet": {"port": 1}}},
                }
            ]
        }
    )["containers"]
    assert [port["protocol"] for port in container["ports"]] == ["TCP", "UDP"]
    assert container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert container["readinessProbe"] == {
        "httpGet": {"port": 1, "path": "/", "scheme": "HTTP"},
        "periodSeconds": 5,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["livenessProbe"]["grpc"] == {"port": 1, "service": ""}
    assert container["lifecycle"]["preStop"]["httpGet"]["scheme"] == "HTTP"


def test_volumes():
    volumes = [
        {"name": "a"},
        {"name": "b", "configMap": {"name": "x"}},
        {"name": "c", "secret": {"secretName": "x", "defaultMode": 256}},
        {"name": "d", "hostPath": {"path": "/"}},
        {
            "name": "e",
            "projected": {
                "sources": [
                    {"serviceAccountToken": {"path": "t"}},
                    {
                        "downwardAPI": {
                            "items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]
                        }
                    },
                ]
            },
        },
    ]
    found = {volume["name"]: volume for volume in pod_spec({"volumes": volumes})["volumes"]}
    assert found["a"] == {"name": "a", "emptyDir": {}}
    assert found["b"]["configMap"]["defaultMode"] == 420
    assert found["c"]["secret"]["defaultMode"] == 256
    assert found["d"]["hostPath"]["type"] == ""
    assert found["e"]["projected"]["defaultMode"] == 420
    token, downward = found["e"]["projected"]["sources"]
    assert token["serviceAccountToken"]["expirationSeconds"] == 3600
    assert downward["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"] == "v1"


def test_requests_come_from_limits_in_pods_only():
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}
    spec = {"containers": [{"image": "x:1", "resources": resources}]}
    assert pod_spec(copy.deepcopy(spec))["containers"][0]["resources"]["requests"] == {
        "cpu": "100m",
        "memory": "1Gi",
    }
    deployment = defaulted("apps", "Deployment", {"spec": {"template": {"spec": spec}}})
    inner = deployment["spec"]["template"]["spec"]
    assert inner["containers"][0]["resources"]["requests"] == {"cpu": "100m"}
    assert "enableServiceLinks" not in inner


def test_host_network_takes_host_ports():
    (container,) = pod_spec(
        {"hostNetwork": True, "containers": [{"image": "x:1", "ports": [{"containerPort": 80}]}]}
    )["containers"]
    assert container["ports"][0]["hostPort"] == 80


def test_the_old_name_of_the_service_account_follows():
    assert pod_spec({"serviceAccountName": "a"})["serviceAccount"] == "a"
    assert pod_spec({"serviceAccount": "a"})["serviceAccountName"] == "a"


TEMPLATE = {"metadata": {}, "spec": SPEC}


@pytest.mark.parametrize(
    ("group", "kind", "obj", "expected"),
    [
        (
            "apps",
            "Deployment",
            {},
            {
                "replicas": 1,
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"},
                },
                "template": TEMPLATE,
            },
        ),
        ("apps", "ReplicaSet", {"replicas": 0}, {"replicas": 0, "template": TEMPLATE}),
        (
            "apps",
            "DaemonSet",
            {},
            {
                "updateStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
                },
                "revisionHistoryLimit": 10,
                "template": TEMPLATE,
            },
        ),
        (
            "apps",
            "StatefulSet",
            {},
            {
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                "persistentVolumeClaimRetentionPolicy": {
                    "whenDeleted": "Retain",
                    "whenScaled": "Retain",
                },
                "replicas": 1,
                "revisionHistoryLimit": 10,
                "template": TEMPLATE,
            },
        ),
        (
            "batch",
            "Job",
            {},
            {
                "completions": 1,
                "parallelism": 1,
                "backoffLimit": 6,
                "completionMode": "NonIndexed",
                "suspend": False,
                "podReplacementPolicy": "TerminatingOrFailed",
                "template": TEMPLATE,
            },
        ),
        (
            "batch",
            "CronJob",
            {},
            {
                "concurrencyPolicy": "Allow",
                "suspend": False,
                "successfulJobsHistoryLimit": 3,
                "failedJobsHistoryLimit": 1,
                "jobTemplate": {"spec": {"template": TEMPLATE}},
            },
        ),
        (
            "",
            "Service",
            {"ports": [{"port": 80}], "type": "NodePort"},
            {
                "type": "NodePort",
                "sessionAffinity": "None",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "externalTrafficPolicy": "Cluster",
                "internalTrafficPolicy": "Cluster",
            },
        ),
        (
            "",
            "Service",
            {"type": "ExternalName", "sessionAffinity": "ClientIP"},
            {
                "type": "ExternalName",
                "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
            },
        ),
        ("networking.k8s.io", "NetworkPolicy", {}, {"policyTypes": ["Ingress"]}),
        (
            "networking.k8s.io",
            "NetworkPolicy",
            {"egress": [{"ports": [{"port": 1}]}]},
            {
                "egress": [{"ports": [{"port": 1, "protocol": "TCP"}]}],
                "policyTypes": ["Ingress", "Egress"],
            },
        ),
        (
            "",
            "PersistentVolume",
            {"hostPath": {"path": "/x"}},
            {
                "hostPath": {"path": "/x", "type": ""},
                "persistentVolumeReclaimPolicy": "Retain",
                "volumeMode": "Filesystem",
            },
        ),
        ("", "PersistentVolumeClaim", {}, {"volumeMode": "Filesystem"}),
    ],
)
def test_specs(group, kind, obj, expected):
    assert defaulted(group, kind, {"spec": obj})["spec"] == expected


def test_secrets_take_string_data():
    secret = defaulted("", "Secret", {"data": {"a": "eA=="}, "stringData": {"a": "y", "b": "ü"}})
    assert secret == {"type": "Opaque", "data": {"a": "eQ==", "b": "w7w="}}


def test_an_address_of_a_balancer_has_a_mode():
    ingress = [{"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "a.b"}]
    service = {"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": ingress}}}
    shown = defaulted("", "Service", service)["status"]["loadBalancer"]["ingress"]
    assert [item.get("ipMode") for item in shown] == ["VIP", "Proxy", None]


def test_other_kinds():
    assert defaulted("", "Namespace", {"metadata": {"name": "a"}}) == {
        "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
        "status": {"phase": "Active"},
    }
    assert defaulted("storage.k8s.io", "StorageClass", {}) == {
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }
    binding = {
        "roleRef": {"kind": "Role"},
        "subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}],
    }
    group = "rbac.authorization.k8s.io"
    assert defaulted(group, "RoleBinding", binding) == {
        "roleRef": {"kind": "Role", "apiGroup": group},
        "subjects": [{"kind": "User", "apiGroup": group}, {"kind": "ServiceAccount"}],
    }
    hook = defaulted(
        "admissionregistration.k8s.io", "MutatingWebhookConfiguration", {"webhooks": [{}]}
    )
    assert hook["webhooks"][0] == {
        "failurePolicy": "Fail",
        "timeoutSeconds": 10,
        "matchPolicy": "Equivalent",
        "namespaceSelector": {},
        "objectSelector": {},
        "reinvocationPolicy": "Never",
    }
    autoscaler = defaulted("autoscaling", "HorizontalPodAutoscaler", {"spec": {}}, "v2")
    assert autoscaler["spec"]["minReplicas"] == 1
    assert autoscaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] == 80
    level = {
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}
    }
    (item,) = defaulted("", "LimitRange", level)["spec"]["limits"]
    assert item["default"] == {"cpu": "2"}
    assert item["defaultRequest"] == {"cpu": "2", "memory": "1Mi"}


BUILT_IN = sorted(key for key in schema.kinds() if tuple(key.split("/")[::2]) in _TABLE)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(BUILT_IN).flatmap(lambda key: st.tuples(st.just(key), fitting(key))))
def test_defaulting_is_idempotent_and_stays_in_the_schema(chosen):
    """Whatever fits the schema is defaulted to what fits the schema, once and for all; validation never breaks."""
    key, obj = chosen
    group, version, kind = key.split("/")
    gvk = GVK(group, version, kind)
    name = schema.for_gvk(gvk)
    default(gvk, obj)
    assert conform.conform(copy.deepcopy(obj), name) == []
    again = copy.deepcopy(obj)
    default(gvk, again)
    assert again == obj
    validate_create(gvk, obj)
    assert validate_update(gvk, obj, obj) is not None
    assert again == obj
