"""What `kubectl explain` says of the kinds that are asked for most: a sentence for a type, one for each of its fields.

Short and our own words; a field without a sentence has a name that says it, or belongs to a kind that few read about here.
The keys are names of definitions without `io.k8s.`; the entry `""` is the type itself. Every object's own five fields
(`ROOT`) are told for all kinds. The texts are put in when a document of OpenAPI v3 is written, which is seldom.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

PREFIX: Final = "io.k8s."
ROOT: Final = {
    "apiVersion": "Group and version of this object's form: apps/v1, or v1 for the core group.",
    "kind": "What this object is, in CamelCase. It never changes.",
    "metadata": "Name, namespace, labels and what else all objects have.",
    "spec": "What is wanted.",
    "status": "What is, as controllers and nodes see it. Written by them, not by you.",
    "items": "The objects of this list.",
}
TEXTS: Final[dict[str, dict[str, str]]] = {
    "apimachinery.pkg.apis.meta.v1.ObjectMeta": {
        "": "What every stored object has.",
        "annotations": "Free text by key, for tools and people. Objects cannot be selected by it.",
        "creationTimestamp": "When the server created the object.",
        "deletionGracePeriodSeconds": "Seconds that the object was given to end, once it is being deleted.",
        "deletionTimestamp": "When the object shall be gone. Set by a DELETE; cannot be taken back.",
        "finalizers": "Who must finish before the object is removed. Each takes out its own entry.",
        "generateName": "Start of a name that the server completes when `name` is empty.",
        "generation": "Grows with every change of what is wanted.",
        "labels": "Short values by key, which selectors choose objects by.",
        "managedFields": "Who owns which field, kept by the server for server-side apply.",
        "name": "Unique among objects of this kind in the namespace. Cannot be changed.",
        "namespace": "The space that the name is unique in; empty for cluster-wide kinds.",
        "ownerReferences": "Objects that this one belongs to. It is deleted when the last of them is gone.",
        "resourceVersion": "Changes with every write. An update that sends an older one is refused.",
        "uid": "Unique over all objects that ever were.",
    },
    "apimachinery.pkg.apis.meta.v1.LabelSelector": {
        "": "Chooses objects by labels. All requirements must hold; an empty selector chooses everything.",
        "matchExpressions": "Requirements: a key, an operator (In, NotIn, Exists, DoesNotExist) and values.",
        "matchLabels": "Labels that must be there with just this value.",
    },
    "api.core.v1.Pod": {"": "One or more containers that run together on one node and share its network."},
    "api.core.v1.PodSpec": {
        "": "How a pod shall run.",
        "activeDeadlineSeconds": "Seconds after which the pod is ended and marked Failed.",
        "affinity": "Which nodes, and which pods beside it, it wants or avoids.",
        "automountServiceAccountToken": "Whether a token of the service account is mounted. Default: as the account says.",
        "containers": "What runs. At least one; they start together.",
        "dnsConfig": "Name servers, search domains and options beside those of `dnsPolicy`.",
        "dnsPolicy": "ClusterFirst, ClusterFirstWithHostNet, Default (the node's) or None (only `dnsConfig`).",
        "enableServiceLinks": "Whether services of the namespace are told in environment variables.",
        "ephemeralContainers": "Containers added for debugging, through the subresource of this name.",
        "hostAliases": "Lines for the pod's /etc/hosts.",
        "hostIPC": "Share the node's IPC namespace.",
        "hostNetwork": "Use the node's network instead of the pod's own.",
        "hostPID": "See the node's processes.",
        "hostUsers": "False: root in the pod is nobody on the node.",
        "hostname": "The pod's host name; its own name if empty.",
        "imagePullSecrets": "Secrets with credentials for registries.",
        "initContainers": "Run one after the other before the containers; one that restarts Always goes on beside them.",
        "nodeName": "The node it is bound to. The scheduler fills it in.",
        "nodeSelector": "Labels that the node must have.",
        "os": "The operating system it is for: linux or windows.",
        "overhead": "What the sandbox itself takes; from the RuntimeClass.",
        "preemptionPolicy": "Whether pods of lower priority may be ended to make room.",
        "priority": "The number behind `priorityClassName`.",
        "priorityClassName": "Name of the PriorityClass that says how important it is.",
        "readinessGates": "Conditions beside those of the containers without which the pod is not Ready.",
        "resourceClaims": "Devices that were claimed for the pod, to be used by containers.",
        "resources": "Requests and limits of the pod as a whole.",
        "restartPolicy": "When ended containers start again: Always, OnFailure or Never.",
        "runtimeClassName": "Name of the RuntimeClass: the kind of sandbox. Without it, the image decides.",
        "schedulerName": "Who binds it to a node.",
        "schedulingGates": "As long as there is one, the pod is not scheduled.",
        "securityContext": "Users, groups, sysctls and profiles of all containers.",
        "serviceAccountName": "The ServiceAccount that it acts as.",
        "setHostnameAsFQDN": "Make the host name the whole domain name.",
        "shareProcessNamespace": "Containers see each other's processes.",
        "subdomain": "With `hostname`, a name in DNS below the Service of this name.",
        "terminationGracePeriodSeconds": "Seconds between being asked to end and being killed.",
        "tolerations": "Taints of nodes that do not keep it away.",
        "topologySpreadConstraints": "How evenly pods like it shall be spread over zones or nodes.",
        "volumes": "What containers may mount.",
    },
    "api.core.v1.PodTemplateSpec": {"": "What pods shall be made like."},
    "api.core.v1.PodStatus": {
        "": "How the pod is, as its node last said.",
        "conditions": "What holds: PodScheduled, Initialized, ContainersReady, Ready and others.",
        "containerStatuses": "State, restarts and image of each container.",
        "message": "Why it is so, for people.",
        "phase": "Pending, Running, Succeeded, Failed or Unknown.",
        "podIP": "The pod's address.",
        "qosClass": "Guaranteed, Burstable or BestEffort, from requests and limits: who is ended last when memory is short.",
        "reason": "Why it is so, in a word.",
        "startTime": "When its node took it on.",
    },
    "api.core.v1.Container": {
        "": "One program, or more, from an image.",
        "args": "Arguments. Without them, the image's.",
        "command": "What is started, not in a shell. Without it, the image's entry point.",
        "env": "Environment variables.",
        "envFrom": "ConfigMaps and Secrets all of whose keys become variables.",
        "image": "Name of the image; how registries are written says OCI's distribution specification.",
        "imagePullPolicy": "Always, IfNotPresent or Never. Default: Always for the tag latest, else IfNotPresent.",
        "lifecycle": "What is done after it has started and before it is ended.",
        "livenessProbe": "When this fails, the container is started again.",
        "name": "Unique in the pod.",
        "ports": "Ports it listens on. More for readers than for the system, but for `hostPort` and names.",
        "readinessProbe": "While this fails, services do not send it anything.",
        "resizePolicy": "Whether it must start again when its resources change.",
        "resources": "What it asks for (requests) and may use (limits).",
        "restartPolicy": "Its own rule instead of the pod's.",
        "securityContext": "User, capabilities and profiles of this container.",
        "startupProbe": "Until this succeeds, the other probes wait.",
        "stdin": "Keep its standard input open.",
        "terminationMessagePath": "A file whose content is told when it ends.",
        "tty": "Give it a terminal.",
        "volumeMounts": "Where the pod's volumes appear in its files.",
        "workingDir": "Directory it starts in.",
    },
    "api.core.v1.Probe": {
        "": "How the node finds out whether a container is well.",
        "exec": "A command that ends with 0.",
        "failureThreshold": "So many failures in a row count as one.",
        "grpc": "A gRPC health check.",
        "httpGet": "A GET answered with 200 to 399.",
        "initialDelaySeconds": "Seconds from the start to the first try.",
        "periodSeconds": "Seconds between two tries.",
        "successThreshold": "So many successes in a row make it well again.",
        "tcpSocket": "A port that can be connected to.",
        "timeoutSeconds": "Seconds after which a try has failed.",
    },
    "api.core.v1.ResourceRequirements": {
        "": "Amounts by resource: cpu, memory, ephemeral-storage, devices.",
        "claims": "Which of the pod's claims it uses.",
        "limits": "The most it may use.",
        "requests": "What is kept for it. Default: the limit.",
    },
    "api.core.v1.Service": {"": "One name and address for a set of pods."},
    "api.core.v1.ServiceSpec": {
        "": "Which pods are reached, and how.",
        "clusterIP": "Its address in the cluster; \"None\" for a headless one. Given out by the server.",
        "externalIPs": "Addresses of nodes that traffic to this service may also come to.",
        "externalName": "The name that DNS answers with, for the type ExternalName.",
        "externalTrafficPolicy": "Cluster, or Local: only pods of the node that traffic came to, which see the client's address.",
        "internalTrafficPolicy": "Cluster, or Local: clients reach pods of their own node only.",
        "ipFamilies": "IPv4, IPv6 or both, the first being that of `clusterIP`.",
        "ipFamilyPolicy": "SingleStack, PreferDualStack or RequireDualStack.",
        "loadBalancerClass": "Who makes the load balancer. Cannot be changed.",
        "ports": "Ports that it serves, and those of the pods behind them.",
        "publishNotReadyAddresses": "Pods are reached before they are ready.",
        "selector": "Labels of the pods behind it. Without it, you keep the endpoints.",
        "sessionAffinity": "ClientIP: a client stays with its pod. Default: None.",
        "trafficDistribution": "Which endpoints are preferred, such as PreferSameZone.",
        "type": "ClusterIP, NodePort, LoadBalancer or ExternalName.",
    },
    "api.core.v1.ServicePort": {
        "nodePort": "The port on every node, for NodePort and LoadBalancer.",
        "port": "The port of the service.",
        "targetPort": "The pods' port: a number, or a container port's name. Default: `port`.",
    },
    "api.core.v1.ConfigMap": {
        "": "Settings for pods, as files or variables.",
        "binaryData": "Bytes by key, in base64.",
        "data": "Text by key.",
        "immutable": "True: data can no longer be changed.",
    },
    "api.core.v1.Secret": {
        "": "Secret settings for pods.",
        "data": "Bytes by key, in base64.",
        "immutable": "True: data can no longer be changed.",
        "stringData": "Text by key, written into `data`; never shown again.",
        "type": "What it holds, such as kubernetes.io/tls. Cannot be changed.",
    },
    "api.core.v1.Namespace": {"": "A space for names. Deleting it deletes all that is in it."},
    "api.core.v1.Node": {"": "A machine that runs pods."},
    "api.core.v1.PersistentVolumeClaim": {"": "Storage that somebody asks for, to be used by pods."},
    "api.core.v1.PersistentVolumeClaimSpec": {
        "accessModes": "ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod.",
        "resources": "How much is asked for: requests.storage.",
        "storageClassName": "Who makes the volume. Default: the default class; \"\" means none.",
        "volumeMode": "Filesystem or Block.",
        "volumeName": "The PersistentVolume it is bound to.",
    },
    "api.apps.v1.Deployment": {"": "Keeps a number of like pods, and replaces them step by step when the template changes."},
    "api.apps.v1.DeploymentSpec": {
        "minReadySeconds": "Seconds that a new pod must have been ready to count as available.",
        "paused": "Changes of the template wait.",
        "progressDeadlineSeconds": "Seconds without progress after which it is said to have failed.",
        "replicas": "How many pods. Default: 1.",
        "revisionHistoryLimit": "Old ReplicaSets kept to go back to. Default: 10.",
        "selector": "Which pods are its own; must match the template's labels. Cannot be changed.",
        "strategy": "RollingUpdate, or Recreate: all old pods end first.",
        "template": "What its pods are like.",
    },
    "api.apps.v1.StatefulSet": {"": "Pods with lasting names and storage, made and ended in order."},
    "api.apps.v1.StatefulSetSpec": {
        "podManagementPolicy": "OrderedReady, or Parallel: all at once.",
        "replicas": "How many pods. Default: 1.",
        "selector": "Which pods are its own; must match the template's labels. Cannot be changed.",
        "serviceName": "The headless Service that gives its pods names in DNS.",
        "template": "What its pods are like.",
        "updateStrategy": "RollingUpdate, or OnDelete: you delete, it makes the new one.",
        "volumeClaimTemplates": "Claims that each pod gets of its own, and keeps over restarts.",
    },
    "api.apps.v1.DaemonSet": {"": "One pod on each node that fits."},
    "api.apps.v1.ReplicaSet": {"": "Keeps a number of like pods. Usually made by a Deployment."},
    "api.batch.v1.Job": {"": "Runs pods until enough of them have succeeded."},
    "api.batch.v1.JobSpec": {
        "activeDeadlineSeconds": "Seconds after which it is ended as failed.",
        "backoffLimit": "Failures after which it is given up. Default: 6.",
        "completionMode": "NonIndexed, or Indexed: each pod has a number and each number must succeed.",
        "completions": "How many pods must succeed.",
        "parallelism": "How many run at once. Default: 1.",
        "podFailurePolicy": "Which failures end it at once, and which do not count.",
        "suspend": "True: no pods, those that run are ended.",
        "template": "What its pods are like; restartPolicy is OnFailure or Never.",
        "ttlSecondsAfterFinished": "Seconds after its end until it is deleted. Default: never.",
    },
    "api.batch.v1.CronJob": {"": "Makes Jobs at set times."},
    "api.batch.v1.CronJobSpec": {
        "concurrencyPolicy": "When the last one still runs: Allow, Forbid or Replace.",
        "failedJobsHistoryLimit": "Failed Jobs that are kept. Default: 1.",
        "jobTemplate": "What its Jobs are like.",
        "schedule": "When, in cron's five fields.",
        "startingDeadlineSeconds": "Seconds that a missed start may still be made up for.",
        "successfulJobsHistoryLimit": "Successful Jobs that are kept. Default: 3.",
        "suspend": "True: no new Jobs.",
        "timeZone": "Name of the time zone of `schedule`.",
    },
    "api.networking.v1.Ingress": {"": "Which requests from outside go to which service."},
    "api.networking.v1.IngressSpec": {
        "defaultBackend": "Where requests go that no rule is for.",
        "ingressClassName": "Who sees to it: the name of an IngressClass.",
        "rules": "Backends by host and path.",
        "tls": "Certificates by host.",
    },
    "api.networking.v1.NetworkPolicy": {"": "Who may talk to the chosen pods, and whom they may talk to."},
}  # fmt: skip


def told(name: str, raw: bytes) -> bytes:
    """The definition of that name with what there is to say of it."""
    texts = TEXTS.get(name.removeprefix(PREFIX), {})
    if not texts and b'"x-kubernetes-group-version-kind"' not in raw:
        return raw
    definition: dict[str, Any] = orjson.loads(raw)
    properties = definition.get("properties") or {}
    if "apiVersion" in properties:
        texts = ROOT | texts
    for field, text in texts.items():
        if not field:
            definition["description"] = text
        elif (known := properties.get(field)) is not None:
            properties[field] = {"description": text, **_beside_reference(known)}
    return orjson.dumps(definition)


def _beside_reference(known: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI v3 ignores what stands beside a plain $ref."""
    if "$ref" not in known:
        return known
    rest = {key: value for key, value in known.items() if key != "$ref"}
    return {"allOf": [{"$ref": known["$ref"]}], **rest}
