"""Validation: each rule with the path and the sentence that users of Kubernetes know."""

import copy

import pytest

from sampan.kube.defaulting import default
from sampan.kube.types import GVK
from sampan.kube.validation import validate_create, validate_update
from sampan.kube.validation.cron import cron_error
from sampan.kube.validation.pods import qos_class

META = {"name": "web", "namespace": "default"}
CONTAINER = {"name": "a", "image": "x:1"}


def made(group, kind, obj, version="v1"):
    gvk = GVK(group, version, kind)
    obj = {"metadata": dict(META)} | copy.deepcopy(obj)
    default(gvk, obj)
    return gvk, obj


def refused(group, kind, obj, version="v1"):
    gvk, obj = made(group, kind, obj, version)
    return [str(cause) for cause in validate_create(gvk, obj)]


def pod(**spec):
    return {"spec": {"containers": [dict(CONTAINER)]} | spec}


def container(**fields):
    return pod(containers=[CONTAINER | fields])


def deployment(**spec):
    template = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [dict(CONTAINER)]}}
    return {"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template} | spec}


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
        'ports[0].name: Invalid value: "too-long-for-a-port": must be no more than 15 bytes',
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
    assert any("must be no more than 253 bytes" in text for text in texts(name="a" * 254))
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


def changed(group, kind, obj, change, version="v1", subresource=""):
    gvk, old = made(group, kind, obj, version)
    assert validate_create(gvk, old) == []
    new = copy.deepcopy(old)
    change(new)
    return [str(cause) for cause in validate_update(gvk, new, old, subresource)]


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
