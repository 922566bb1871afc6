"""What a pod may say: one thing changed in a pod that is right, and the field and reason that Kubernetes answers with."""

from __future__ import annotations

from typing import Any

import pytest
from kube_tables import (
    ABSENT,
    DUPLICATE,
    FORBIDDEN,
    GONE,
    INVALID,
    LONG,
    REQUIRED,
    UNSUPPORTED,
    Row,
    check,
    of_create,
    of_update,
)

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "default"},
    "spec": {"containers": [{"name": "c", "image": "busybox"}]},
}
C = "spec.containers[0]"
NAME64, SUB254 = "a" * 64, "a" * 254


def vols(*sources: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": f"v{index}", **source} for index, source in enumerate(sources)]


METADATA: list[Row] = [
    ({"metadata.name": GONE}, [("metadata.name", REQUIRED)]),
    ({"metadata.name": "A"}, [("metadata.name", INVALID)]),
    ({"metadata.name": SUB254}, [("metadata.name", INVALID)]),
    ({"metadata.namespace": "a.b"}, [("metadata.namespace", INVALID)]),
    ({"metadata.labels": {"a b": "x"}}, [("metadata.labels", INVALID)]),
    ({"metadata.labels": {"a": "x y"}}, [("metadata.labels", INVALID)]),
    ({"metadata.annotations": {"a/b/c": "x"}}, [("metadata.annotations", INVALID)]),
    ({"metadata.annotations": {"a": "x" * (256 * 1024)}}, [("metadata.annotations", LONG)]),
    ({"metadata.ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": ""}]},
     [("metadata.ownerReferences.uid", INVALID)]),
    ({"metadata.finalizers": ["a b/c"]}, [("metadata.finalizers", INVALID)]),
]  # fmt: skip

CONTAINERS: list[Row] = [
    ({"spec.containers": []}, [("spec.containers", REQUIRED)]),
    ({f"{C}.name": GONE}, [(f"{C}.name", REQUIRED)]),
    ({f"{C}.name": "a.b"}, [(f"{C}.name", INVALID)]),
    ({f"{C}.image": GONE}, [(f"{C}.image", REQUIRED)]),
    ({f"{C}.image": " busybox"}, [(f"{C}.image", INVALID)]),
    ({f"{C}.imagePullPolicy": "Sometimes"}, [(f"{C}.imagePullPolicy", UNSUPPORTED)]),
    ({"spec.containers[1]": {"name": "c", "image": "x"}}, [("spec.containers[1].name", DUPLICATE)]),
    ({"spec.initContainers": [{"name": "c", "image": "x"}]},
     [("spec.initContainers[0].name", DUPLICATE)]),
    ({f"{C}.terminationMessagePolicy": "x"}, [(f"{C}.terminationMessagePolicy", UNSUPPORTED)]),
    ({f"{C}.ports": [{"containerPort": 0}]}, [(f"{C}.ports[0].containerPort", REQUIRED)]),
    ({f"{C}.ports": [{"containerPort": 65536}]}, [(f"{C}.ports[0].containerPort", INVALID)]),
    ({f"{C}.ports": [{"containerPort": 80, "hostPort": 70000}]},
     [(f"{C}.ports[0].hostPort", INVALID)]),
    ({f"{C}.ports": [{"containerPort": 80, "protocol": "tcp"}]},
     [(f"{C}.ports[0].protocol", UNSUPPORTED)]),
    ({f"{C}.ports": [{"containerPort": 80, "name": "a" * 16}]}, [(f"{C}.ports[0].name", INVALID)]),
    ({f"{C}.ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]},
     [(f"{C}.ports[1].name", DUPLICATE)]),
    ({f"{C}.ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]},
     [(f"{C}.ports[1].hostPort", DUPLICATE)]),
    ({"spec.hostNetwork": True, f"{C}.ports": [{"containerPort": 80, "hostPort": 81}]},
     [(f"{C}.ports[0].hostPort", INVALID)]),
    ({f"{C}.env": [{"name": ""}]}, [(f"{C}.env[0].name", REQUIRED)]),
    ({f"{C}.env": [{"name": "a=b"}]}, [(f"{C}.env[0].name", INVALID)]),
    ({f"{C}.env": [{"name": "A", "valueFrom": {}}]}, [(f"{C}.env[0].valueFrom", INVALID)]),
    ({f"{C}.env": [{"name": "A", "value": "x", "valueFrom":
                    {"fieldRef": {"fieldPath": "metadata.name"}}}]},
     [(f"{C}.env[0].valueFrom", INVALID)]),
    ({f"{C}.env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.x"}}}]},
     [(f"{C}.env[0].valueFrom.fieldRef.fieldPath", INVALID)]),
    ({f"{C}.env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]},
     [(f"{C}.env[0].valueFrom.fieldRef.fieldPath", UNSUPPORTED)]),
    ({f"{C}.env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]},
     [(f"{C}.env[0].valueFrom.secretKeyRef.key", REQUIRED)]),
    ({f"{C}.env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.x"}}}]},
     [(f"{C}.env[0].valueFrom.resourceFieldRef.resource", UNSUPPORTED)]),
    ({f"{C}.envFrom": [{}]}, [(f"{C}.envFrom", INVALID)]),
    ({f"{C}.envFrom": [{"configMapRef": {}}]}, [(f"{C}.envFrom[0].configMapRef.name", REQUIRED)]),
    ({f"{C}.volumeMounts": [{"name": "v", "mountPath": "/a"}]},
     [(f"{C}.volumeMounts[0].name", ABSENT)]),
    ({f"{C}.workingDir": "relative"}, []),
    ({f"{C}.stdinOnce": True}, []),
    ({f"{C}.restartPolicy": "Never"}, []),
    ({f"{C}.lifecycle": {"preStop": {}}}, [(f"{C}.lifecycle.preStop", REQUIRED)]),
    ({f"{C}.lifecycle": {"preStop": {"sleep": {"seconds": 31}}}},
     [(f"{C}.lifecycle.preStop.sleep", INVALID)]),
    ({f"{C}.lifecycle": {"preStop": {"exec": {"command": []}}}},
     [(f"{C}.lifecycle.preStop.exec.command", REQUIRED)]),
    ({f"{C}.livenessProbe": {}}, [(f"{C}.livenessProbe", REQUIRED)]),
    ({f"{C}.livenessProbe": {"httpGet": {"path": "", "port": 0}}},
     [(f"{C}.livenessProbe.httpGet.port", INVALID)]),
    ({f"{C}.livenessProbe": {"tcpSocket": {"port": "Not_A_Port"}}},
     [(f"{C}.livenessProbe.tcpSocket.port", INVALID)]),
    ({f"{C}.livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}},
     [(f"{C}.livenessProbe.tcpSocket", FORBIDDEN)]),
    ({f"{C}.livenessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}},
     [(f"{C}.livenessProbe.successThreshold", INVALID)]),
    ({f"{C}.readinessProbe": {"exec": {"command": ["a"]}, "successThreshold": 2}}, []),
    ({f"{C}.readinessProbe": {"exec": {"command": ["a"]}, "terminationGracePeriodSeconds": 1}},
     [(f"{C}.readinessProbe.terminationGracePeriodSeconds", INVALID)]),
    ({f"{C}.readinessProbe": {"exec": {"command": ["a"]}, "periodSeconds": -1}},
     [(f"{C}.readinessProbe.periodSeconds", INVALID)]),
    ({f"{C}.resizePolicy": [{"resourceName": "cpu", "restartPolicy": "x"}]},
     [(f"{C}.resizePolicy", UNSUPPORTED)]),
    ({f"{C}.resizePolicy": [{"resourceName": "pods", "restartPolicy": "NotRequired"}]},
     [(f"{C}.resizePolicy", UNSUPPORTED)]),
]  # fmt: skip

INIT = {"name": "i", "image": "x"}
INITS: list[Row] = [
    ({"spec.initContainers": [INIT]}, []),
    ({"spec.initContainers": [{**INIT, "restartPolicy": "Always"}]}, []),
    ({"spec.initContainers": [{**INIT, "livenessProbe": {"exec": {"command": ["a"]}}}]},
     [("spec.initContainers[0].livenessProbe", FORBIDDEN)]),
    ({"spec.initContainers": [{**INIT, "restartPolicy": "Always",
                               "livenessProbe": {"exec": {"command": ["a"]}}}]}, []),
    ({"spec.initContainers": [{**INIT, "lifecycle": {"preStop": {"exec": {"command": ["a"]}}}}]},
     [("spec.initContainers[0].lifecycle", FORBIDDEN)]),
    ({"spec.ephemeralContainers": [{"name": "e", "image": "x", "terminationMessagePolicy": "File",
                                    "imagePullPolicy": "Always"}]},
     [("spec.ephemeralContainers", FORBIDDEN)]),
]  # fmt: skip

V = "spec.volumes[0]"
VOLUMES: list[Row] = [
    ({"spec.volumes": [{"name": "", "emptyDir": {}}]}, [(f"{V}.name", REQUIRED)]),
    ({"spec.volumes": [{"name": "a.b", "emptyDir": {}}]}, [(f"{V}.name", INVALID)]),
    ({"spec.volumes": [{"name": "a", "emptyDir": {}}] * 2}, [("spec.volumes[1].name", DUPLICATE)]),
    ({"spec.volumes": vols({"emptyDir": {}, "hostPath": {"path": "/a"}})},
     [(f"{V}.hostPath", FORBIDDEN)]),
    ({"spec.volumes": vols({"emptyDir": {"sizeLimit": "-1"}})},
     [(f"{V}.emptyDir.sizeLimit", FORBIDDEN)]),
    ({"spec.volumes": vols({"hostPath": {}})}, [(f"{V}.hostPath.path", REQUIRED)]),
    ({"spec.volumes": vols({"hostPath": {"path": "/a/../b"}})}, [(f"{V}.hostPath.path", INVALID)]),
    ({"spec.volumes": vols({"hostPath": {"path": "/a", "type": "x"}})},
     [(f"{V}.hostPath.type", UNSUPPORTED)]),
    ({"spec.volumes": vols({"secret": {}})}, [(f"{V}.secret.secretName", REQUIRED)]),
    ({"spec.volumes": vols({"secret": {"secretName": "s", "defaultMode": 0o1000}})},
     [(f"{V}.secret.defaultMode", INVALID)]),
    ({"spec.volumes": vols({"secret": {"secretName": "s", "items": [{"key": "", "path": "a"}]}})},
     [(f"{V}.secret.items[0].key", REQUIRED)]),
    ({"spec.volumes": vols({"configMap": {"name": "s", "items": [{"key": "k", "path": "/a"}]}})},
     [(f"{V}.configMap.items[0].path", INVALID)]),
    ({"spec.volumes": vols({"configMap": {"name": "s", "items": [{"key": "k", "path": "../a"}]}})},
     [(f"{V}.configMap.items[0].path", INVALID)]),
    ({"spec.volumes": vols({"persistentVolumeClaim": {}})},
     [(f"{V}.persistentVolumeClaim.claimName", REQUIRED)]),
    ({"spec.volumes": vols({"nfs": {"server": "", "path": "a"}})},
     [(f"{V}.nfs.server", REQUIRED), (f"{V}.nfs.path", INVALID)]),
    ({"spec.volumes": vols({"csi": {"driver": ""}})}, [(f"{V}.csi.driver", REQUIRED)]),
    ({"spec.volumes": vols({"downwardAPI": {"items": [
        {"path": "a", "fieldRef": {"fieldPath": "spec.nodeName"}}]}})},
     [(f"{V}.downwardAPI.fieldRef.fieldPath", UNSUPPORTED)]),
    ({"spec.volumes": vols({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})},
     [(f"{V}.projected.sources[0].serviceAccountToken", FORBIDDEN)]),
    ({"spec.serviceAccountName": "a", "spec.volumes": vols({"projected": {"sources": [
        {"serviceAccountToken": {"path": "t", "expirationSeconds": 599}}]}})},
     [(f"{V}.projected.sources[0].serviceAccountToken.expirationSeconds", INVALID)]),
    ({"spec.volumes": vols({"projected": {"sources": [
        {"secret": {"name": "s", "items": [{"key": "a", "path": "p"}]}},
        {"configMap": {"name": "c", "items": [{"key": "a", "path": "p"}]}}]}})},
     [(f"{V}.projected", INVALID)]),
    ({"spec.volumes": vols({"image": {}})}, [(f"{V}.image.reference", REQUIRED)]),
    ({"spec.volumes": vols({"gitRepo": {"repository": ""}})}, [(f"{V}.gitRepo.repository", REQUIRED)]),
]  # fmt: skip

MOUNTED = {"spec.volumes": vols({"emptyDir": {}})}
M = f"{C}.volumeMounts"
MOUNTS: list[Row] = [
    ({**MOUNTED, M: [{"name": "v0", "mountPath": ""}]}, [(f"{M}[0].mountPath", REQUIRED)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a"}, {"name": "v0", "mountPath": "/a"}]},
     [(f"{M}[1].mountPath", INVALID)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a", "subPath": "/b"}]},
     [(f"{M}.subPath", INVALID)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a", "subPath": "b/../c"}]},
     [(f"{M}.subPath", INVALID)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a", "subPath": "b", "subPathExpr": "c"}]},
     [(f"{M}[0].subPathExpr", INVALID)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a", "mountPropagation": "x"}]},
     [(f"{M}.mountPropagation", UNSUPPORTED)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a", "mountPropagation": "Bidirectional"}]},
     [(f"{M}.mountPropagation", FORBIDDEN)]),
    ({**MOUNTED, M: [{"name": "v0", "mountPath": "/a", "recursiveReadOnly": "Enabled"}]},
     [(f"{M}.recursiveReadOnly", FORBIDDEN)]),
    ({**MOUNTED, f"{C}.volumeDevices": [{"name": "v0", "devicePath": "/dev/x"}]},
     [(f"{C}.volumeDevices[0].name", INVALID)]),
]  # fmt: skip

R = f"{C}.resources"
RESOURCES: list[Row] = [
    ({R: {"requests": {"cpu": "-1"}}}, [(f"{R}.requests[cpu]", INVALID)]),
    ({R: {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}, [(f"{R}.requests", INVALID)]),
    ({R: {"requests": {"x": "1"}}},
     [(f"{R}.requests[x]", INVALID), (f"{R}.requests[x]", INVALID)]),
    ({R: {"limits": {"example.com/gpu": "1500m"}}},
     [(f"{R}.{of}[example.com/gpu]", INVALID) for of in ("limits", "requests")]),
    ({R: {"requests": {"example.com/gpu": "1"}}}, [(f"{R}.limits", REQUIRED)]),
    ({R: {"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "2"}}},
     [(f"{R}.requests", INVALID)]),
    ({R: {"limits": {"hugepages-2Mi": "4Mi"}}}, [(R, FORBIDDEN)]),
    ({R: {"limits": {"hugepages-2Mi": "3Mi", "memory": "1Gi"}}},
     [(f"{R}.{of}[hugepages-2Mi]", INVALID) for of in ("limits", "requests")]),
    ({R: {"claims": [{"name": "x"}]}}, [(f"{R}.claims[0]", ABSENT)]),
    ({"spec.resourceClaims": [{"name": "x", "resourceClaimName": "c"}], R: {"claims": [{"name": "x"}]}},
     []),
    ({"spec.resourceClaims": [{"name": "x"}]}, [("spec.resourceClaims[0]", INVALID)]),
    ({"spec.resourceClaims": [{"name": "x", "resourceClaimName": "c"}] * 2},
     [("spec.resourceClaims[1].name", DUPLICATE)]),
    ({"spec.overhead": {"cpu": "-1"}}, [("spec.overhead.limits[cpu]", INVALID)]),
]  # fmt: skip

A = "spec.affinity"
NODE = f"{A}.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
PODS = f"{A}.podAffinity.requiredDuringSchedulingIgnoredDuringExecution"
WISH = f"{A}.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"
S = "spec.topologySpreadConstraints"
SPREAD = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
T = "spec.tolerations"
PLACEMENT: list[Row] = [
    ({"spec.nodeName": "A_B"}, [("spec.nodeName", INVALID)]),
    ({"spec.nodeSelector": {"a b": "c"}}, [("spec.nodeSelector", INVALID)]),
    ({"spec.schedulingGates": [{"name": "a"}, {"name": "a"}]},
     [("spec.schedulingGates[1]", DUPLICATE)]),
    ({"spec.schedulingGates": [{"name": ".x"}]}, [("spec.schedulingGates[0]", INVALID)]),
    ({"spec.schedulingGates": [{"name": "a"}], "spec.nodeName": "n"},
     [("spec.nodeName", FORBIDDEN)]),
    ({NODE: {"nodeSelectorTerms": []}}, [(f"{NODE}.nodeSelectorTerms", REQUIRED)]),
    ({NODE: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}},
     [(f"{NODE}.nodeSelectorTerms[0].matchExpressions[0].values", REQUIRED)]),
    ({NODE: {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "a", "operator": "Exists", "values": ["b"]}]}]}},
     [(f"{NODE}.nodeSelectorTerms[0].matchExpressions[0].values", FORBIDDEN)]),
    ({NODE: {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "a", "operator": "Gt", "values": ["1", "2"]}]}]}},
     [(f"{NODE}.nodeSelectorTerms[0].matchExpressions[0].values", REQUIRED)]),
    ({NODE: {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "x"}]}]}},
     [(f"{NODE}.nodeSelectorTerms[0].matchExpressions[0].operator", INVALID)]),
    ({NODE: {"nodeSelectorTerms": [{"matchFields": [
        {"key": "metadata.uid", "operator": "In", "values": ["b"]}]}]}},
     [(f"{NODE}.nodeSelectorTerms[0].matchFields[0].key", INVALID)]),
    ({WISH: [{"weight": 101, "preference": {"matchExpressions": [
        {"key": "a", "operator": "Exists"}]}}]}, [(f"{WISH}[0].weight", INVALID)]),
    ({PODS: [{"topologyKey": ""}]}, [(f"{PODS}[0].topologyKey", why) for why in (REQUIRED, INVALID, INVALID)]),
    ({PODS: [{"topologyKey": "a b"}]}, [(f"{PODS}[0].topologyKey", INVALID)]),
    ({PODS: [{"topologyKey": "a", "namespaces": ["A"]}]}, [(f"{PODS}[0].namespace", INVALID)]),
    ({PODS: [{"topologyKey": "a", "matchLabelKeys": ["x"]}]},
     [(f"{PODS}[0].matchLabelKeys", FORBIDDEN)]),
    ({S: [{**SPREAD, "maxSkew": 0}]}, [(f"{S}[0].maxSkew", INVALID)]),
    ({S: [{**SPREAD, "topologyKey": ""}]}, [(f"{S}[0].topologyKey", REQUIRED)]),
    ({S: [{**SPREAD, "whenUnsatisfiable": "x"}]}, [(f"{S}[0].whenUnsatisfiable", UNSUPPORTED)]),
    ({S: [SPREAD, SPREAD]}, [(f"{S}[0].{{topologyKey, whenUnsatisfiable}}", DUPLICATE)]),
    ({S: [{**SPREAD, "minDomains": 0}]}, [(f"{S}[0].minDomains", INVALID)]),
    ({S: [{**SPREAD, "minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"}]},
     [(f"{S}[0].minDomains", INVALID)]),
    ({S: [{**SPREAD, "nodeAffinityPolicy": "x"}]}, [(f"{S}[0].nodeAffinityPolicy", UNSUPPORTED)]),
    ({T: [{"key": "a b", "operator": "Exists"}]}, [(f"{T}[0].key", INVALID)]),
    ({T: [{"key": "a", "operator": "Exists", "value": "b"}]}, [(f"{T}[0].operator", INVALID)]),
    ({T: [{"operator": "Equal"}]}, [(f"{T}[0].operator", INVALID)]),
    ({T: [{"key": "a", "operator": "x"}]}, [(f"{T}[0].operator", UNSUPPORTED)]),
    ({T: [{"key": "a", "effect": "x"}]}, [(f"{T}[0].effect", UNSUPPORTED)]),
    ({T: [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]},
     [(f"{T}[0].effect", INVALID)]),
]  # fmt: skip

X = "spec.securityContext"
SECURITY: list[Row] = [
    ({f"{X}.runAsUser": -1}, [(f"{X}.runAsUser", INVALID)]),
    ({f"{X}.fsGroup": -1}, [(f"{X}.fsGroup", INVALID)]),
    ({f"{X}.supplementalGroups": [-1]}, [(f"{X}.supplementalGroups[0]", INVALID)]),
    ({f"{X}.fsGroupChangePolicy": "x"}, [(f"{X}.fsGroupChangePolicy", UNSUPPORTED)]),
    ({f"{X}.sysctls": [{"name": "a b", "value": "1"}]}, [(f"{X}.sysctls[0].name", INVALID)]),
    ({f"{X}.sysctls": [{"name": "", "value": "1"}]}, [(f"{X}.sysctls[0].name", REQUIRED)]),
    ({f"{X}.sysctls": [{"name": "net.a", "value": "1"}, {"name": "net.a", "value": "2"}]},
     [(f"{X}.sysctls[1].name", DUPLICATE)]),
    ({f"{X}.sysctls": [{"name": "net.a", "value": "1"}], "spec.hostNetwork": True},
     [(f"{X}.sysctls[0].name", INVALID)]),
    ({f"{X}.sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}], "spec.hostIPC": True},
     [(f"{X}.sysctls[0].name", INVALID)]),
    ({f"{X}.seccompProfile": {"type": "x"}}, [(f"{X}.seccompProfile.type", UNSUPPORTED)]),
    ({f"{X}.seccompProfile": {"type": "Localhost"}},
     [(f"{X}.seccompProfile.localhostProfile", REQUIRED)]),
    ({f"{X}.seccompProfile": {"type": "RuntimeDefault", "localhostProfile": "a"}},
     [(f"{X}.seccompProfile.localhostProfile", INVALID)]),
    ({f"{X}.appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}},
     [(f"{X}.appArmorProfile.localhostProfile", INVALID)]),
    ({f"{X}.windowsOptions": {"hostProcess": True}},
     [("spec.hostNetwork", INVALID)]),
    ({f"{C}.securityContext": {"privileged": True, "allowPrivilegeEscalation": False}},
     [(f"{C}.securityContext", INVALID)]),
    ({f"{C}.securityContext": {"capabilities": {"add": ["CAP_SYS_ADMIN"]},
                               "allowPrivilegeEscalation": False}},
     [(f"{C}.securityContext", INVALID)]),
    ({f"{C}.securityContext": {"procMount": "x"}}, [(f"{C}.securityContext.procMount", UNSUPPORTED)]),
    ({f"{C}.securityContext": {"procMount": "Unmasked"}},
     [(f"{C}.securityContext.procMount", INVALID)]),
    ({"spec.hostPID": True, f"{X}.shareProcessNamespace": True, "spec.shareProcessNamespace": True},
     [(f"{X}.shareProcessNamespace", INVALID)]),
    ({"spec.hostUsers": False, "spec.hostNetwork": True},
     [("spec.hostNetwork", FORBIDDEN)]),
    ({"spec.os": {"name": "plan9"}}, [("spec.os", UNSUPPORTED)]),
    ({"spec.os": {"name": ""}}, [("spec.os.name", REQUIRED)]),
    ({"spec.os": {"name": "windows"}, f"{X}.runAsUser": 1}, [(f"{X}.runAsUser", FORBIDDEN)]),
    ({"spec.os": {"name": "windows"}, "spec.hostPID": True}, [("spec.hostPID", FORBIDDEN)]),
    ({"spec.os": {"name": "linux"}, f"{X}.windowsOptions": {"runAsUserName": "x"}},
     [(f"{X}.windowsOptions", FORBIDDEN)]),
]  # fmt: skip

SPEC: list[Row] = [
    ({"spec.restartPolicy": "x"}, [("spec.restartPolicy", UNSUPPORTED)]),
    ({"spec.dnsPolicy": "x"}, [("spec.dnsPolicy", UNSUPPORTED)]),
    ({"spec.dnsPolicy": "None"}, [("spec.dnsConfig", REQUIRED)]),
    ({"spec.dnsPolicy": "None", "spec.dnsConfig": {"searches": ["a"]}},
     [("spec.dnsConfig.nameservers", REQUIRED)]),
    ({"spec.dnsConfig": {"nameservers": ["1.1.1.1"] * 4}}, [("spec.dnsConfig.nameservers", INVALID)]),
    ({"spec.dnsConfig": {"nameservers": ["x"]}}, [("spec.dnsConfig.nameservers[0]", INVALID)]),
    ({"spec.dnsConfig": {"options": [{"name": ""}]}}, [("spec.dnsConfig.options[0]", REQUIRED)]),
    ({"spec.hostname": "a.b"}, [("spec.hostname", INVALID)]),
    ({"spec.subdomain": "a.b"}, [("spec.subdomain", INVALID)]),
    ({"spec.hostAliases": [{"ip": "x", "hostnames": ["a"]}]}, [("spec.hostAliases[0].ip", INVALID)]),
    ({"spec.hostAliases": [{"ip": "1.1.1.1", "hostnames": ["A"]}]},
     [("spec.hostAliases[0].hostnames[0]", INVALID)]),
    ({"spec.activeDeadlineSeconds": 0}, [("spec.activeDeadlineSeconds", INVALID)]),
    ({"spec.terminationGracePeriodSeconds": -1}, []),
    ({"spec.serviceAccountName": "A"}, [("spec.serviceAccountName", INVALID)]),
    ({"spec.priorityClassName": "A"}, [("spec.priorityClassName", INVALID)]),
    ({"spec.preemptionPolicy": "x"}, [("spec.preemptionPolicy", UNSUPPORTED)]),
    ({"spec.runtimeClassName": "A"}, [("spec.runtimeClassName", INVALID)]),
    ({"spec.readinessGates": [{"conditionType": "a b"}]},
     [("spec.readinessGates[0].conditionType", INVALID)]),
    ({"spec.imagePullSecrets": [{"name": "s"}]}, []),
]  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [METADATA, CONTAINERS, INITS, VOLUMES, MOUNTS, RESOURCES, PLACEMENT, SECURITY, SPEC],
    ids=["metadata", "containers", "inits", "volumes", "mounts", "resources", "placement", "security", "spec"],
)  # fmt: skip
def test_new_pods(rows: list[Row]) -> None:
    assert not of_create(POD, {})
    check(rows, of_create, POD)


GATED = {**POD, "spec": {**POD["spec"], "schedulingGates": [{"name": "a"}]}}  # type: ignore[dict-item]
RUNNING: list[Row] = [
    ({"metadata.labels": {"a": "b"}}, []),
    ({f"{C}.image": "nginx"}, []),
    ({f"{C}.image": ""}, [(f"{C}.image", REQUIRED)]),
    ({f"{C}.name": "d"}, [("spec", FORBIDDEN)]),
    ({"spec.activeDeadlineSeconds": 5}, []),
    ({"spec.containers[1]": {"name": "d", "image": "x"}}, [("spec.containers", FORBIDDEN)]),
    ({"spec.nodeName": "n"}, [("spec", FORBIDDEN)]),
    ({"spec.tolerations": [{"key": "a", "operator": "Exists"}]}, []),
    ({"spec.nodeSelector": {"a": "b"}}, [("spec", FORBIDDEN)]),
    ({"spec.terminationGracePeriodSeconds": 5}, [("spec", FORBIDDEN)]),
    ({f"{C}.resources.requests.cpu": "1"}, [("spec", FORBIDDEN)]),
    ({"spec.schedulingGates": [{"name": "a"}]}, [("spec.schedulingGates[0].name", FORBIDDEN)]),
    ({"metadata.name": "q"}, [("metadata.name", INVALID)]),
    ({"metadata.namespace": "q"}, [("metadata.namespace", INVALID)]),
    ({"metadata.resourceVersion": GONE}, []),
    ({"metadata.uid": "v"}, [("metadata.uid", INVALID)]),
]  # fmt: skip
BEFORE_SCHEDULING: list[Row] = [
    ({"spec.schedulingGates": GONE}, []),
    ({"spec.schedulingGates[1]": {"name": "b"}}, [("spec.schedulingGates[1].name", FORBIDDEN)]),
    ({"spec.nodeSelector": {"a": "b"}}, []),
]


def test_pods_that_run() -> None:
    check(RUNNING, of_update, POD)
    check(BEFORE_SCHEDULING, of_update, GATED)
