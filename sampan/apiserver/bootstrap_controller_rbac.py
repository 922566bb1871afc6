"""The roles of Kubernetes' controllers, `system:controller:NAME`, each bound to the service account NAME in kube-system.

Ours run inside the server as system:masters, but charts and operators bind to these by name, and so do stock controllers that
somebody runs beside ours. Rows are written as those of `bootstrap_rbac.py`.
"""

from __future__ import annotations

READ = "get,list,watch"
EVENTS = ("create,patch,update; core,events.k8s.io; events",)

CONTROLLER_ROLES: dict[str, tuple[str, ...]] = {
    "attachdetach-controller": (
        "list,watch; core; persistentvolumeclaims,persistentvolumes",
        f"{READ}; core; nodes",
        "patch,update; core; nodes/status",
        "list,watch; core; pods",
        *EVENTS,
        f"{READ},create,delete; storage.k8s.io; volumeattachments",
        f"{READ}; storage.k8s.io; csidrivers,csinodes",
    ),
    "clusterrole-aggregation-controller": (
        f"escalate,{READ},patch,update; rbac.authorization.k8s.io; clusterroles",
    ),
    "cronjob-controller": (
        f"{READ},update; batch; cronjobs",
        f"create,delete,{READ},patch,update; batch; jobs",
        "update; batch; cronjobs/status,cronjobs/finalizers",
        "delete,list; core; pods",
        *EVENTS,
    ),
    "daemon-set-controller": (
        f"{READ}; apps; daemonsets",
        "update; apps; daemonsets/status,daemonsets/finalizers",
        "list,watch; core; nodes",
        "create,delete,list,patch,watch; core; pods",
        "create; core; pods/binding",
        f"create,delete,{READ},patch,update; apps; controllerrevisions",
        *EVENTS,
    ),
    "deployment-controller": (
        f"{READ},update; apps; deployments",
        "update; apps; deployments/status,deployments/finalizers",
        f"create,delete,{READ},patch,update; apps; replicasets",
        f"{READ},update; core; pods",
        *EVENTS,
    ),
    "disruption-controller": (
        f"{READ}; apps; deployments,replicasets,statefulsets",
        f"{READ}; core; replicationcontrollers",
        f"{READ}; policy; poddisruptionbudgets",
        "update; policy; poddisruptionbudgets/status",
        "get; *; */scale",
        *EVENTS,
    ),
    "endpoint-controller": (
        f"{READ}; core; pods,services",
        f"create,delete,{READ},update; core; endpoints",
        "create; core; endpoints/restricted",
        *EVENTS,
    ),
    "endpointslice-controller": (
        f"{READ}; core; nodes,pods,services",
        "update; core; services/finalizers",
        f"create,delete,{READ},update; discovery.k8s.io; endpointslices",
        "create; discovery.k8s.io; endpointslices/restricted",
        *EVENTS,
    ),
    "expand-controller": (
        f"{READ},patch,update; core; persistentvolumes",
        "patch,update; core; persistentvolumeclaims/status",
        f"{READ}; core; persistentvolumeclaims",
        *EVENTS,
    ),
    "generic-garbage-collector": ("delete,get,list,patch,update,watch; *; *", *EVENTS),
    "horizontal-pod-autoscaler": (
        f"{READ}; autoscaling; horizontalpodautoscalers",
        "update; autoscaling; horizontalpodautoscalers/status",
        "get,update; *; */scale",
        "list; core; pods",
        "list; metrics.k8s.io; pods",
        "get,list; custom.metrics.k8s.io,external.metrics.k8s.io; *",
        *EVENTS,
    ),
    "job-controller": (
        f"{READ},patch,update; batch; jobs",
        "update; batch; jobs/status,jobs/finalizers",
        "create,delete,list,patch,watch; core; pods",
        *EVENTS,
    ),
    "namespace-controller": (
        f"delete,{READ}; core; namespaces",
        "update; core; namespaces/finalize,namespaces/status",
        "delete,deletecollection,get,list; *; *",
    ),
    "node-controller": (
        f"delete,{READ},patch,update; core; nodes",
        "patch,update; core; nodes/status",
        "patch,update; core; pods/status",
        f"delete,{READ}; core; pods",
        *EVENTS,
    ),
    "persistent-volume-binder": (
        f"create,delete,{READ},update; core; persistentvolumes",
        "update; core; persistentvolumes/status,persistentvolumeclaims/status",
        f"{READ},update; core; persistentvolumeclaims",
        f"{READ}; storage.k8s.io; storageclasses",
        f"create,delete,{READ}; core; pods",
        *EVENTS,
    ),
    "pod-garbage-collector": (
        "delete,list,watch; core; pods",
        "get,list; core; nodes",
        "patch; core; pods/status",
    ),
    "pv-protection-controller": (f"{READ},update; core; persistentvolumes", *EVENTS),
    "pvc-protection-controller": (
        f"{READ},update; core; persistentvolumeclaims",
        f"{READ}; core; pods",
        *EVENTS,
    ),
    "replicaset-controller": (
        f"{READ},update; apps; replicasets",
        "update; apps; replicasets/status,replicasets/finalizers",
        "create,delete,list,patch,watch; core; pods",
        *EVENTS,
    ),
    "replication-controller": (
        f"{READ},update; core; replicationcontrollers",
        "update; core; replicationcontrollers/status,replicationcontrollers/finalizers",
        "create,delete,list,patch,watch; core; pods",
        *EVENTS,
    ),
    "resourcequota-controller": (
        "list,watch; *; *",
        "update; core; resourcequotas/status",
        *EVENTS,
    ),
    "root-ca-cert-publisher": ("create,update; core; configmaps", *EVENTS),
    "service-account-controller": ("create; core; serviceaccounts", *EVENTS),
    "statefulset-controller": (
        "list,watch; core; pods",
        f"{READ}; apps; statefulsets",
        "update; apps; statefulsets/status,statefulsets/finalizers",
        "create,delete,get,patch,update; core; pods",
        f"create,delete,{READ},patch,update; apps; controllerrevisions",
        "create,get; core; persistentvolumeclaims",
        *EVENTS,
    ),
    "ttl-after-finished-controller": (f"delete,{READ}; batch; jobs", *EVENTS),
    "ttl-controller": ("list,patch,update,watch; core; nodes", *EVENTS),
    "certificate-controller": (
        f"delete,{READ}; certificates.k8s.io; certificatesigningrequests",
        "update; certificates.k8s.io; certificatesigningrequests/approval,certificatesigningrequests/status",
        "approve; certificates.k8s.io; signers; kubernetes.io/kube-apiserver-client-kubelet",
        "sign; certificates.k8s.io; signers; kubernetes.io/legacy-unknown,"
        "kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,"
        "kubernetes.io/kubelet-serving",
        "create; authorization.k8s.io; subjectaccessreviews",
        *EVENTS,
    ),
    "endpointslicemirroring-controller": (
        f"{READ}; core; endpoints,services",
        "update; core; services/finalizers",
        "update; core; endpoints/finalizers",
        f"create,delete,{READ},update; discovery.k8s.io; endpointslices",
        "create; discovery.k8s.io; endpointslices/restricted",
        *EVENTS,
    ),
    "ephemeral-volume-controller": (
        "update; core; pods/finalizers",
        f"{READ}; core; pods",
        f"create,{READ}; core; persistentvolumeclaims",
        *EVENTS,
    ),
    "legacy-service-account-token-cleaner": (
        "get; core; configmaps; kube-apiserver-legacy-service-account-token-tracking",
        "delete,patch; core; secrets",
    ),
    "resource-claim-controller": (
        f"{READ}; core; pods",
        "update; core; pods/finalizers",
        f"create,delete,{READ}; resource.k8s.io; resourceclaims",
        f"{READ}; resource.k8s.io; resourceclaimtemplates",
        "update; resource.k8s.io; resourceclaims/finalizers",
        "patch,update; resource.k8s.io; resourceclaims/status",
        "patch,update; core; pods/status",
        *EVENTS,
    ),
    "route-controller": (
        "list,watch; core; nodes",
        "patch; core; nodes/status",
        *EVENTS,
    ),
    "selinux-warning-controller": (
        f"{READ}; core; persistentvolumeclaims,persistentvolumes,pods",
        f"{READ}; storage.k8s.io; csidrivers",
        *EVENTS,
    ),
    "service-cidrs-controller": (
        f"{READ},patch,update; networking.k8s.io; servicecidrs",
        "patch,update; networking.k8s.io; servicecidrs/finalizers",
        "patch,update; networking.k8s.io; servicecidrs/status",
        f"{READ}; networking.k8s.io; ipaddresses",
        *EVENTS,
    ),
    "service-controller": (
        f"{READ}; core; services",
        "patch,update; core; services/status",
        "list,watch; core; nodes",
        *EVENTS,
    ),
    "validatingadmissionpolicy-status-controller": (
        f"{READ}; admissionregistration.k8s.io; validatingadmissionpolicies",
        "get,patch,update; admissionregistration.k8s.io; validatingadmissionpolicies/status",
        *EVENTS,
    ),
    "volumeattributesclass-protection-controller": (
        f"{READ}; core; persistentvolumeclaims,persistentvolumes",
        f"{READ},update; storage.k8s.io; volumeattributesclasses",
        *EVENTS,
    ),
}
