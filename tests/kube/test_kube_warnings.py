"""Warnings: the sentences of Kubernetes v1.36, and silence about what is as it should be."""

from __future__ import annotations

import copy
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sampan.kube.defaulting import default
from sampan.kube.types import GVK
from sampan.kube.warnings import warnings_for

POD, SERVICE = GVK("", "v1", "Pod"), GVK("", "v1", "Service")


def pod(
    name: str = "web", annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if annotations:
        metadata["annotations"] = annotations
    return {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "x"}], **spec}}


def container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "c", "image": "x", **fields}])


def said(gvk: GVK, obj: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    obj = copy.deepcopy(obj)
    default(gvk, obj)
    return warnings_for(gvk, obj, old)


TERM = {"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "In", "values": ["-"]}]}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
OS = 'beta.kubernetes.io/os is deprecated since v1.14; use "kubernetes.io/os" instead'

PODS: list[tuple[dict[str, Any], list[str]]] = [
    (pod(), []),
    (
        pod("a.b"),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising "
            "behavior; a DNS label is recommended: [must not contain dots]"
        ],
    ),
    (
        pod(nodeSelector={"beta.kubernetes.io/arch": "x"}),
        [
            "spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; "
            'use "kubernetes.io/arch" instead'
        ],
    ),
    (
        pod(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [TERM]}}}),
        [f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[0].matchExpressions[0].key: {OS}"],
    ),
    (
        pod(topologySpreadConstraints=[{"topologyKey": "failure-domain.beta.kubernetes.io/zone"}]),
        [
            "spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is "
            'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
        ],
    ),
    (
        pod(affinity={"podAffinity": {REQUIRED: [{"topologyKey": "x"}]}}),
        [
            f"spec.affinity.podAffinity.{REQUIRED}[0].labelSelector: "
            "a null labelSelector results in matching no pod"
        ],
    ),
    (
        pod(affinity={"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": {}}]}}),
        [
            f"spec.affinity.podAntiAffinity.{PREFERRED}[0].podAffinityTerm.labelSelector: "
            "a null labelSelector results in matching no pod"
        ],
    ),
    (
        pod(annotations={"scheduler.alpha.kubernetes.io/critical-pod": ""}),
        [
            "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: "
            'non-functional in v1.16+; use the "priorityClassName" field instead'
        ],
    ),
    (
        pod(annotations={"seccomp.security.alpha.kubernetes.io/pod": "x"}),
        [
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: "
            'non-functional in v1.27+; use the "seccompProfile" field instead'
        ],
    ),
    (
        pod(volumes=[{"name": "v", "gitRepo": {"repository": "x"}}]),
        ["spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+"],
    ),
    (
        pod(volumes=[{"name": "v", "rbd": {}}]),
        ["spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+"],
    ),
    (
        pod(hostAliases=[{"ip": "1.1.1.1"}, {"ip": "1.1.1.1"}]),
        ['spec.hostAliases[1].ip: duplicate ip "1.1.1.1"'],
    ),
    (
        pod(imagePullSecrets=[{"name": "a"}, {"name": "a"}]),
        ['spec.imagePullSecrets[1].name: duplicate name "a"'],
    ),
    (
        pod(imagePullSecrets=[{"name": ""}]),
        ['spec.imagePullSecrets[0].name: invalid empty name ""'],
    ),
    (
        container(resources={"limits": {"memory": "1500m"}, "requests": {"memory": "1Gi"}}),
        [
            "spec.containers[0].resources.limits[memory]: "
            'fractional byte value "1500m" is invalid, must be an integer'
        ],
    ),
    (container(resources={"limits": {"memory": "1.5Gi", "ephemeral-storage": "1"}}), []),
    (
        container(env=[{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]),
        [
            'spec.containers[0].env[1]: hides previous definition of "A", '
            "which may be dropped when using apply"
        ],
    ),
    (container(env=[{"name": "A", "value": "x"}, {"name": "A", "value": "$(A)y"}]), []),
    (
        container(ports=[{"containerPort": 80}, {"containerPort": 80, "name": "b"}]),
        ["spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"],
    ),
    (
        container(ports=[{"containerPort": 80}, {"containerPort": 80, "hostPort": 8}]),
        ["spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]"],
    ),
    (
        container(
            ports=[
                {"containerPort": 80, "hostPort": 8, "hostIP": "1.1.1.1"},
                {"containerPort": 80, "hostPort": 8},
            ]
        ),
        [
            "spec.containers[0].ports[1]: dangerously ambiguous port definition with "
            "spec.containers[0].ports[0]"
        ],
    ),
    (
        container(ports=[{"containerPort": 80, "hostIP": "1.1.1.1"}]),
        [
            "spec.containers[0].ports[0]: hostIP set without hostPort: "
            "{Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.1.1.1}"
        ],
    ),
    (container(ports=[{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}]), []),
    (
        pod(terminationGracePeriodSeconds=-1),
        [
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will "
            "be treated as 1"
        ],
    ),
    (
        pod(
            volumes=[
                {
                    "name": "v",
                    "configMap": {
                        "name": "m",
                        "items": [{"key": "a", "path": "x"}, {"key": "b", "path": "x/y"}],
                    },
                }
            ]
        ),
        ['volume "v" (ConfigMap "m"): overlapping paths: "x/y" with "x"'],
    ),
    (
        pod(
            volumes=[
                {
                    "name": "v",
                    "projected": {
                        "sources": [
                            {"serviceAccountToken": {"path": "token"}},
                            {"secret": {"name": "s", "items": [{"key": "a", "path": "token"}]}},
                        ]
                    },
                }
            ]
        ),
        [
            'volume "v" (Projected): overlapping paths: "token" (Secret "s") with "token" '
            "(ServiceAccountToken)"
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("obj", "wanted"), PODS)
def test_pods(obj: dict[str, Any], wanted: list[str]) -> None:
    assert said(POD, obj) == wanted
    assert said(POD, obj, pod()) == []  # a pod that exists is left in peace


@pytest.mark.parametrize(
    ("obj", "wanted"), [each for each in PODS if each[0]["metadata"]["name"] == "web"]
)
def test_templates(obj: dict[str, Any], wanted: list[str]) -> None:
    gvk = GVK("apps", "v1", "Deployment")
    deployment = {"metadata": {"name": "web", "generation": 1}, "spec": {"template": obj}}
    prefix = "spec.template."

    def moved(text: str) -> str:
        text = text.replace(" spec.containers", f" {prefix}spec.containers")
        return text if text.startswith("volume ") else prefix + text

    assert said(gvk, deployment) == [moved(text) for text in wanted]
    assert said(gvk, deployment, deployment) == []
    assert len(said(gvk, deployment, {"metadata": {"generation": 0}})) == len(wanted)


def service(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], **spec}}


OTHERS: list[tuple[GVK, dict[str, Any], list[str]]] = [
    (SERVICE, service(), []),
    (
        SERVICE,
        service(externalIPs=["1.1.1.1"]),
        ["spec.externalIPs is deprecated and may no longer be implemented in some clusters"],
    ),
    (
        SERVICE,
        service(clusterIP="None", loadBalancerIP="1.1.1.1", sessionAffinity="ClientIP"),
        [
            "spec.loadBalancerIP is ignored for headless services",
            "spec.SessionAffinity is ignored for headless services",
        ],
    ),
    (
        SERVICE,
        service(type="ExternalName", externalName="a.b", externalIPs=["1.1.1.1"]),
        ['spec.externalIPs is ignored when spec.type is "ExternalName"'],
    ),
    (
        SERVICE,
        service(externalName="a.b"),
        ['spec.externalName is ignored when spec.type is not "ExternalName"'],
    ),
    (
        SERVICE,
        service(trafficDistribution="PreferClose"),
        ['spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"'],
    ),
    (
        SERVICE,
        service(loadBalancerSourceRanges=["10.0.0.1/8"]),
        [
            'spec.loadBalancerSourceRanges[0]: CIDR value "10.0.0.1/8" is ambiguous in this context '
            '(should be "10.0.0.0/8" or "10.0.0.1/32"?)'
        ],
    ),
    (
        SERVICE,
        service(loadBalancerIP="2001:DB8::1"),
        [
            'spec.loadBalancerIP: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format '
            '("2001:db8::1")'
        ],
    ),
    (
        SERVICE,
        {**service(), "metadata": {"annotations": {"service.kubernetes.io/topology-aware-hints": "x"}}},
        [
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use "
            "service.kubernetes.io/topology-mode instead"
        ],
    ),
    (
        GVK("networking.k8s.io", "v1", "Ingress"),
        {"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}},
        [
            'annotation "kubernetes.io/ingress.class" is deprecated, '
            "please use 'spec.ingressClassName' instead"
        ],
    ),
    (
        GVK("", "v1", "PersistentVolume"),
        {
            "metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "x"}},
            "spec": {"persistentVolumeReclaimPolicy": "Recycle"},
        },
        [
            "metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; "
            'use "storageClassName" attribute instead',
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, "
            "the recommended approach is to use dynamic provisioning.",
        ],
    ),
    (
        GVK("", "v1", "PersistentVolumeClaim"),
        {"metadata": {}, "spec": {"resources": {"requests": {"storage": "1m"}}}},
        [
            "spec.resources.requests[storage]: "
            'fractional byte value "1m" is invalid, must be an integer'
        ],
    ),
    (
        GVK("apps", "v1", "StatefulSet"),
        {"metadata": {}, "spec": {"revisionHistoryLimit": -1}},
        [
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; "
            "a value >= 0 is recommended"
        ],
    ),
    (
        GVK("node.k8s.io", "v1", "RuntimeClass"),
        {"metadata": {}, "scheduling": {"nodeSelector": {"node-role.kubernetes.io/master": ""}}},
        ['scheduling.nodeSelector: use "node-role.kubernetes.io/control-plane" instead'],
    ),
    (
        GVK("discovery.k8s.io", "v1", "EndpointSlice"),
        {"metadata": {}, "addressType": "FQDN"},
        ["spec.addressType: FQDN endpoints are deprecated"],
    ),
    (GVK("", "v1", "ConfigMap"), {"metadata": {}}, []),
]  # fmt: skip


@pytest.mark.parametrize(("gvk", "obj", "wanted"), OTHERS)
def test_other_kinds(gvk: GVK, obj: dict[str, Any], wanted: list[str]) -> None:
    assert said(gvk, obj) == wanted


def pem(key: Any) -> tuple[bytes, bytes]:
    """A certificate that the key signed for itself, and the key."""
    name = x509.Name([])
    day = datetime(2026, 1, 1, tzinfo=UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day).sign(
        key, hashes.SHA256()
    )
    forms = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return (
        made.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, *forms),
    )


def test_key_pairs() -> None:
    certificate, key = pem(ec.generate_private_key(ec.SECP256R1()))
    _, other = pem(ec.generate_private_key(ec.SECP256R1()))
    _, of_another_type = pem(rsa.generate_private_key(65537, 1024))
    none, mangled = b"x", certificate.replace(b"M", b"N")
    for crt, own, wanted in (
        (certificate, key, []),
        (certificate, other, ["tls: private key does not match public key"]),
        (certificate, of_another_type, ["tls: private key type does not match public key type"]),
        (none, key, ["tls: failed to find any PEM data in certificate input"]),
        (certificate, none, ["tls: failed to find any PEM data in key input"]),
        (key, certificate, ["tls: failed to find certificate PEM data in certificate input, but did find a private "
                            "key; PEM inputs may have been switched"]),
        (certificate, certificate, ["tls: found a certificate rather than a key in the PEM for the private key"]),
        (mangled, key, ["x509: malformed certificate"]),
    ):  # fmt: skip
        data = {"tls.crt": b64encode(crt).decode(), "tls.key": b64encode(own).decode()}
        secret = {"metadata": {}, "type": "kubernetes.io/tls", "data": data}
        assert said(GVK("", "v1", "Secret"), secret) == wanted
