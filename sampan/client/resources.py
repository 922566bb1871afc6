"""Names of the resources in use: `PODS`, `DEPLOYMENTS` … are GVRs, ready for `Client` and `Informer`."""

from __future__ import annotations

from sampan.kube.types import GVR

BINDINGS = GVR("", "v1", "bindings")
CONFIGMAPS = GVR("", "v1", "configmaps")
ENDPOINTS = GVR("", "v1", "endpoints")
EVENTS = GVR("", "v1", "events")
LIMITRANGES = GVR("", "v1", "limitranges")
NAMESPACES = GVR("", "v1", "namespaces")
NODES = GVR("", "v1", "nodes")
PERSISTENTVOLUMECLAIMS = GVR("", "v1", "persistentvolumeclaims")
PERSISTENTVOLUMES = GVR("", "v1", "persistentvolumes")
PODS = GVR("", "v1", "pods")
PODTEMPLATES = GVR("", "v1", "podtemplates")
REPLICATIONCONTROLLERS = GVR("", "v1", "replicationcontrollers")
RESOURCEQUOTAS = GVR("", "v1", "resourcequotas")
SECRETS = GVR("", "v1", "secrets")
SERVICEACCOUNTS = GVR("", "v1", "serviceaccounts")
SERVICES = GVR("", "v1", "services")

CONTROLLERREVISIONS = GVR("apps", "v1", "controllerrevisions")
DAEMONSETS = GVR("apps", "v1", "daemonsets")
DEPLOYMENTS = GVR("apps", "v1", "deployments")
REPLICASETS = GVR("apps", "v1", "replicasets")
STATEFULSETS = GVR("apps", "v1", "statefulsets")

CRONJOBS = GVR("batch", "v1", "cronjobs")
JOBS = GVR("batch", "v1", "jobs")

HORIZONTALPODAUTOSCALERS = GVR("autoscaling", "v2", "horizontalpodautoscalers")
PODDISRUPTIONBUDGETS = GVR("policy", "v1", "poddisruptionbudgets")

ENDPOINTSLICES = GVR("discovery.k8s.io", "v1", "endpointslices")
INGRESSCLASSES = GVR("networking.k8s.io", "v1", "ingressclasses")
INGRESSES = GVR("networking.k8s.io", "v1", "ingresses")
IPADDRESSES = GVR("networking.k8s.io", "v1", "ipaddresses")
NETWORKPOLICIES = GVR("networking.k8s.io", "v1", "networkpolicies")
SERVICECIDRS = GVR("networking.k8s.io", "v1", "servicecidrs")

LEASES = GVR("coordination.k8s.io", "v1", "leases")
RUNTIMECLASSES = GVR("node.k8s.io", "v1", "runtimeclasses")
PRIORITYCLASSES = GVR("scheduling.k8s.io", "v1", "priorityclasses")

CLUSTERROLEBINDINGS = GVR("rbac.authorization.k8s.io", "v1", "clusterrolebindings")
CLUSTERROLES = GVR("rbac.authorization.k8s.io", "v1", "clusterroles")
ROLEBINDINGS = GVR("rbac.authorization.k8s.io", "v1", "rolebindings")
ROLES = GVR("rbac.authorization.k8s.io", "v1", "roles")

CERTIFICATESIGNINGREQUESTS = GVR("certificates.k8s.io", "v1", "certificatesigningrequests")
SELFSUBJECTACCESSREVIEWS = GVR("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
SUBJECTACCESSREVIEWS = GVR("authorization.k8s.io", "v1", "subjectaccessreviews")
TOKENREVIEWS = GVR("authentication.k8s.io", "v1", "tokenreviews")

CSIDRIVERS = GVR("storage.k8s.io", "v1", "csidrivers")
CSINODES = GVR("storage.k8s.io", "v1", "csinodes")
STORAGECLASSES = GVR("storage.k8s.io", "v1", "storageclasses")
VOLUMEATTACHMENTS = GVR("storage.k8s.io", "v1", "volumeattachments")

MUTATINGWEBHOOKCONFIGURATIONS = GVR(
    "admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations"
)
VALIDATINGWEBHOOKCONFIGURATIONS = GVR(
    "admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"
)
CUSTOMRESOURCEDEFINITIONS = GVR("apiextensions.k8s.io", "v1", "customresourcedefinitions")
APISERVICES = GVR("apiregistration.k8s.io", "v1", "apiservices")

VIRTUALMACHINES = GVR("sampan.dev", "v1alpha1", "virtualmachines")
