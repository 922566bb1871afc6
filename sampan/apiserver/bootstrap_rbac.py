"""The roles and bindings that every cluster begins with.

One row per role; a rule is one line: `verbs; groups; resources; names` (comma-separated, `core` for the core group), or
`verbs; urls` when the second field begins with a slash. `objects()` expands the rows. They are made when absent and
their missing rules and subjects are added on start, as kube-apiserver's own reconciliation does, unless the annotation
`rbac.authorization.kubernetes.io/autoupdate` is "false". `admin`, `edit` and `view` aggregate, so that charts extend them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sampan.apiserver.bootstrap_controller_rbac import CONTROLLER_ROLES, EVENTS, READ
from sampan.apiserver.rbac import RBAC_GROUP, Rule, missing_rules

API_VERSION = f"{RBAC_GROUP}/v1"
LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
AUTOUPDATE = "rbac.authorization.kubernetes.io/autoupdate"
AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-"

MEMBER = "system:aggregate-to-"

WRITE = "create,delete,deletecollection,patch,update"
REQUESTS = "system:certificates.k8s.io:certificatesigningrequests:"
APPROVERS = (
    "legacy-unknown",
    "kubelet-serving",
    "kube-apiserver-client",
    "kube-apiserver-client-kubelet",
)

CORE_KINDS = (
    "configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,"
    "secrets,serviceaccounts,services,services/proxy"
)
WORKLOADS = (
    "daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,"
    "statefulsets,statefulsets/scale"
)
VIEWED_WORKLOADS = (
    "controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,"
    "replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status"
)

ROLES: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("*; *; *", "*; /*"),
    "system:discovery": (
        "get; /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/",
    ),
    "system:public-info-viewer": ("get; /healthz,/livez,/readyz,/version,/version/",),
    "system:basic-user": (
        "create; authorization.k8s.io; selfsubjectaccessreviews,selfsubjectrulesreviews",
        "create; authentication.k8s.io; selfsubjectreviews",
    ),
    "system:monitoring": (
        "get; /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*",
    ),
    "system:service-account-issuer-discovery": (
        "get; /.well-known/openid-configuration,/.well-known/openid-configuration/,"
        "/openid/v1/jwks,/openid/v1/jwks/",
    ),
    "system:auth-delegator": (
        "create; authentication.k8s.io; tokenreviews",
        "create; authorization.k8s.io; subjectaccessreviews",
    ),
    "system:kubelet-api-admin": (
        f"{READ}; core; nodes",
        "proxy; core; nodes",
        "*; core; nodes/log,nodes/metrics,nodes/proxy,nodes/stats,nodes/configz,nodes/healthz,nodes/pods",
    ),
    "system:aggregate-to-admin": (
        "create; authorization.k8s.io; localsubjectaccessreviews",
        f"{WRITE},{READ}; rbac.authorization.k8s.io; rolebindings,roles",
    ),
    "system:aggregate-to-edit": (
        f"{READ}; core; pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy",
        "impersonate; core; serviceaccounts",
        f"{WRITE}; core; pods,pods/attach,pods/exec,pods/portforward,pods/proxy",
        "create; core; pods/eviction",
        f"{WRITE}; core; {CORE_KINDS}",
        "create; core; serviceaccounts/token",
        f"{WRITE}; apps; {WORKLOADS}",
        f"{WRITE}; autoscaling; horizontalpodautoscalers",
        f"{WRITE}; batch; cronjobs,jobs",
        f"{WRITE}; policy; poddisruptionbudgets",
        f"{WRITE}; networking.k8s.io; ingresses,networkpolicies",
        # A group that is served no more: charts still name it in the roles that they bring, and who installs one has to
        # hold what is in it.
        f"{WRITE}; extensions; daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,"
        "networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale",
        f"{WRITE},{READ}; coordination.k8s.io; leases",
        f"{WRITE}; resource.k8s.io; resourceclaims,resourceclaimtemplates",
    ),
    "system:aggregate-to-view": (
        f"{READ}; core; configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,"
        "replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status",
        f"{READ}; core; bindings,events,limitranges,namespaces/status,pods/log,pods/status,"
        "replicationcontrollers/status,resourcequotas,resourcequotas/status",
        f"{READ}; core; namespaces",
        f"{READ}; discovery.k8s.io; endpointslices",
        f"{READ}; apps; {VIEWED_WORKLOADS}",
        f"{READ}; autoscaling; horizontalpodautoscalers,horizontalpodautoscalers/status",
        f"{READ}; batch; cronjobs,cronjobs/status,jobs,jobs/status",
        f"{READ}; policy; poddisruptionbudgets,poddisruptionbudgets/status",
        f"{READ}; networking.k8s.io; ingresses,ingresses/status,networkpolicies",
        f"{READ}; extensions; daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,"
        "ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,"
        "replicationcontrollers/scale",
        f"{READ}; resource.k8s.io; resourceclaims,resourceclaims/status,resourceclaimtemplates",
    ),
    "system:node": (
        "create; authentication.k8s.io; tokenreviews",
        "create; authorization.k8s.io; localsubjectaccessreviews,subjectaccessreviews",
        f"{READ}; core; services",
        f"create,{READ}; core; nodes",
        "patch,update; core; nodes/status",
        "patch,update,delete; core; nodes",
        *EVENTS,
        f"{READ}; core; pods",
        "create,delete; core; pods",
        "patch,update; core; pods/status",
        "create; core; pods/eviction",
        f"{READ}; core; configmaps,secrets",
        "get; core; persistentvolumeclaims,persistentvolumes",
        "get; core; endpoints",
        f"create,{READ}; certificates.k8s.io; certificatesigningrequests",
        "get,create,update,patch,delete; coordination.k8s.io; leases",
        "get; storage.k8s.io; volumeattachments",
        "create; core; serviceaccounts/token",
        "get,patch,update; core; persistentvolumeclaims/status",
        f"{READ}; storage.k8s.io; csidrivers",
        "get,create,update,patch,delete; storage.k8s.io; csinodes",
        f"{READ}; node.k8s.io; runtimeclasses",
        f"{READ}; discovery.k8s.io; endpointslices",
        "get; core; namespaces,serviceaccounts",
        "get; resource.k8s.io; resourceclaims",
        f"{READ},deletecollection,create,update,patch,delete; resource.k8s.io; resourceslices",
    ),
    "system:node-bootstrapper": (
        f"create,{READ}; certificates.k8s.io; certificatesigningrequests",
    ),
    # What lets requests of nodes be approved without a person; the last is ours, for serving certificates.
    REQUESTS + "nodeclient": (
        "create; certificates.k8s.io; certificatesigningrequests/nodeclient",
    ),
    REQUESTS + "selfnodeclient": (
        "create; certificates.k8s.io; certificatesigningrequests/selfnodeclient",
    ),
    REQUESTS + "selfnodeserver": (
        "create; certificates.k8s.io; certificatesigningrequests/selfnodeserver",
    ),
    **{
        f"system:certificates.k8s.io:{signer}-approver": (
            f"approve; certificates.k8s.io; signers; kubernetes.io/{signer}",
        )
        for signer in APPROVERS
    },
    "system:kube-aggregator": (
        f"{READ}; core; endpoints,services",
        f"{READ}; discovery.k8s.io; endpointslices",
    ),
    "system:heapster": (
        f"{READ}; core; events,namespaces,nodes,pods",
        f"{READ}; apps; deployments",
    ),
    "system:node-problem-detector": (
        "get; core; nodes",
        "patch; core; nodes/status",
        *EVENTS,
    ),
    "system:node-proxier": (
        "list,watch; core; services,endpoints",
        f"{READ}; core; nodes",
        *EVENTS,
        "list,watch; discovery.k8s.io; endpointslices",
        "list,watch; networking.k8s.io; servicecidrs",
    ),
    "system:kube-dns": ("list,watch; core; endpoints,services",),
    "system:persistent-volume-provisioner": (
        f"{READ},create,delete; core; persistentvolumes",
        f"{READ},update; core; persistentvolumeclaims",
        f"{READ}; storage.k8s.io; storageclasses",
        "watch; core; events",
        *EVENTS,
    ),
    "system:volume-scheduler": (
        f"{READ},patch,update; core; persistentvolumes",
        f"{READ}; storage.k8s.io; storageclasses",
        f"{READ},patch,update; core; persistentvolumeclaims",
    ),
    "system:kube-scheduler": (
        *EVENTS,
        "create; coordination.k8s.io; leases",
        "get,list,update,watch; coordination.k8s.io; leases; kube-scheduler",
        f"{READ}; core; nodes",
        f"delete,{READ}; core; pods",
        "create; core; bindings,pods/binding",
        "patch,update; core; pods/status",
        f"{READ}; core; replicationcontrollers,services,namespaces",
        f"{READ}; apps; replicasets,statefulsets",
        f"{READ}; policy; poddisruptionbudgets",
        f"{READ}; core; persistentvolumeclaims,persistentvolumes",
        "create; authentication.k8s.io; tokenreviews",
        "create; authorization.k8s.io; subjectaccessreviews",
        f"{READ}; storage.k8s.io; csinodes,csidrivers,csistoragecapacities,volumeattachments",
        f"{READ}; scheduling.k8s.io; priorityclasses",
        f"{READ}; resource.k8s.io; deviceclasses,resourceslices",
        f"{READ},patch,update; resource.k8s.io; resourceclaims",
        "patch,update; resource.k8s.io; resourceclaims/status",
    ),
    "system:kube-controller-manager": (
        *EVENTS,
        "create; coordination.k8s.io; leases",
        "get,list,update,watch; coordination.k8s.io; leases; kube-controller-manager",
        "create; core; secrets,serviceaccounts",
        "delete; core; secrets",
        "get; core; configmaps,namespaces,secrets,serviceaccounts",
        "update; core; secrets,serviceaccounts",
        "create; authentication.k8s.io; tokenreviews",
        "create; authorization.k8s.io; subjectaccessreviews",
        "list,watch; *; *",
        "create; core; serviceaccounts/token",
    ),
}

# Role → whose rules it begins with. It sums up, by label, what is aggregated to it; `view` is part of `edit`, and that of
# `admin`.
AGGREGATED = {"admin": ("admin", "edit", "view"), "edit": ("edit", "view"), "view": ("view",)}

MASTERS, AUTHENTICATED, UNAUTHENTICATED = (
    "system:masters",
    "system:authenticated",
    "system:unauthenticated",
)
# Cluster role → subjects; a name without "group:" is a user.
BINDINGS: dict[str, tuple[str, ...]] = {
    "cluster-admin": (f"group:{MASTERS}",),
    "system:basic-user": (f"group:{AUTHENTICATED}",),
    "system:discovery": (f"group:{AUTHENTICATED}",),
    "system:public-info-viewer": (f"group:{AUTHENTICATED}", f"group:{UNAUTHENTICATED}"),
    "system:monitoring": ("group:system:monitoring",),
    "system:service-account-issuer-discovery": ("group:system:serviceaccounts",),
    "system:node": (),
    # Nodes renew their certificates themselves, as kubeadm's clusters have it.
    REQUESTS + "selfnodeclient": ("group:system:nodes",),
    REQUESTS + "selfnodeserver": ("group:system:nodes",),
    "system:node-proxier": ("system:kube-proxy",),
    "system:kube-scheduler": ("system:kube-scheduler",),
    "system:volume-scheduler": ("system:kube-scheduler",),
    "system:kube-controller-manager": ("system:kube-controller-manager",),
    "system:kube-dns": ("serviceaccount:kube-dns",),
}

NAMESPACED_ROLES: dict[tuple[str, str], tuple[str, ...]] = {
    ("kube-system", "extension-apiserver-authentication-reader"): (
        f"{READ}; core; configmaps; extension-apiserver-authentication",
    ),
    ("kube-system", "system::leader-locking-kube-controller-manager"): (
        "watch; core; configmaps",
        "get,update; core; configmaps; kube-controller-manager",
    ),
    ("kube-system", "system::leader-locking-kube-scheduler"): (
        "watch; core; configmaps",
        "get,update; core; configmaps; kube-scheduler",
    ),
    ("kube-system", "system:controller:bootstrap-signer"): (f"{READ}; core; secrets",),
    ("kube-system", "system:controller:token-cleaner"): (f"{READ},delete; core; secrets", *EVENTS),
    ("kube-system", "system:controller:cloud-provider"): (f"create,{READ}; core; configmaps",),
    ("kube-public", "system:controller:bootstrap-signer"): (
        f"{READ}; core; configmaps",
        "update; core; configmaps; cluster-info",
        *EVENTS,
    ),
}
NAMESPACED_BINDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    **{
        (namespace, f"system:controller:{name}"): (
            f"system:controller:{name}",
            f"serviceaccount:{name}",
        )
        for namespace, name in (
            ("kube-system", "bootstrap-signer"),
            ("kube-system", "cloud-provider"),
            ("kube-system", "token-cleaner"),
            ("kube-public", "bootstrap-signer"),
        )
    },
    ("kube-system", "system::extension-apiserver-authentication-reader"): (
        "extension-apiserver-authentication-reader",
        "system:kube-controller-manager",
        "system:kube-scheduler",
    ),
    ("kube-system", "system::leader-locking-kube-controller-manager"): (
        "system::leader-locking-kube-controller-manager",
        "system:kube-controller-manager",
    ),
    ("kube-system", "system::leader-locking-kube-scheduler"): (
        "system::leader-locking-kube-scheduler",
        "system:kube-scheduler",
    ),
}


def parse_rule(line: str) -> dict[str, Any]:
    """`get,list; core; pods; web` → a PolicyRule."""
    verbs, second, *rest = ([item.strip() for item in part.split(",")] for part in line.split(";"))
    if second[0].startswith("/"):
        urls = ["*" if url == "/*" else url for url in second]
        return {"nonResourceURLs": urls, "verbs": verbs}
    rule: dict[str, Any] = {
        "apiGroups": ["" if group == "core" else group for group in second],
        "resources": rest[0],
        "verbs": verbs,
    }
    if len(rest) > 1:
        rule["resourceNames"] = rest[1]
    return rule


def _metadata(
    name: str, namespace: str = "", labels: dict[str, str] | None = None
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    metadata["labels"] = LABELS | (labels or {})
    metadata["annotations"] = {AUTOUPDATE: "true"}
    return metadata


def _role(kind: str, metadata: dict[str, Any], lines: Iterable[str]) -> dict[str, Any]:
    rules = [parse_rule(line) for line in lines]
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "rules": rules}


def _binding(
    kind: str, metadata: dict[str, Any], role_kind: str, role: str, subjects: Iterable[str]
) -> dict[str, Any]:
    binding = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC_GROUP, "kind": role_kind, "name": role},
    }
    listed = [_subject(text) for text in subjects]
    return binding | ({"subjects": listed} if listed else {})


def _subject(text: str) -> dict[str, str]:
    if text.startswith("serviceaccount:"):
        return {
            "kind": "ServiceAccount",
            "name": text.removeprefix("serviceaccount:"),
            "namespace": "kube-system",
        }
    if text.startswith("group:"):
        return {"apiGroup": RBAC_GROUP, "kind": "Group", "name": text.removeprefix("group:")}
    return {"apiGroup": RBAC_GROUP, "kind": "User", "name": text}


def objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """(resource, object) of everything above, roles before the bindings that name them."""
    yield from (("clusterroles", role) for role in _cluster_roles())
    yield from (("clusterrolebindings", binding) for binding in _cluster_bindings())
    for (namespace, name), lines in NAMESPACED_ROLES.items():
        yield "roles", _role("Role", _metadata(name, namespace), lines)
    for (namespace, name), (role, *subjects) in NAMESPACED_BINDINGS.items():
        metadata = _metadata(name, namespace)
        yield "rolebindings", _binding("RoleBinding", metadata, "Role", role, subjects)


def _cluster_roles() -> Iterator[dict[str, Any]]:
    for name, lines in ROLES.items():
        member = name.removeprefix(MEMBER) if name.startswith(MEMBER) else ""
        labels = {AGGREGATE + member: "true"} if member else {}
        yield _role("ClusterRole", _metadata(name, labels=labels), lines)
    for name, members in AGGREGATED.items():
        # What `edit` may do, `admin` may too: the sums carry the label of the next one up.
        higher = {"view": "edit", "edit": "admin"}.get(name)
        metadata = _metadata(name, labels={AGGREGATE + higher: "true"} if higher else {})
        role = _role("ClusterRole", metadata, [r for m in members for r in ROLES[MEMBER + m]])
        role["aggregationRule"] = {
            "clusterRoleSelectors": [{"matchLabels": {AGGREGATE + name: "true"}}]
        }
        yield role
    for name, lines in CONTROLLER_ROLES.items():
        yield _role("ClusterRole", _metadata(f"system:controller:{name}"), lines)


def _cluster_bindings() -> Iterator[dict[str, Any]]:
    for name, subjects in BINDINGS.items():
        yield _binding("ClusterRoleBinding", _metadata(name), "ClusterRole", name, subjects)
    for short in CONTROLLER_ROLES:
        name = f"system:controller:{short}"
        subject = f"serviceaccount:{short}"
        yield _binding("ClusterRoleBinding", _metadata(name), "ClusterRole", name, [subject])


def reconciled(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> dict[str, Any] | None:
    """`present` with what it lacks of `wanted`: rules, subjects, selectors, labels; None when nothing is missing.

    What a user added stays; what a user removed comes back, unless they turned automatic updates off.
    """
    metadata = present["metadata"]
    if (metadata.get("annotations") or {}).get(AUTOUPDATE) == "false":
        return None
    changed: dict[str, Any] = {}
    for key in ("labels", "annotations"):
        have, stated = metadata.get(key) or {}, wanted["metadata"].get(key) or {}
        if stated.keys() - have.keys():
            changed["metadata"] = {**metadata, key: {**stated, **have}}
            metadata = changed["metadata"]
    if "roleRef" in wanted:
        subjects = present.get("subjects") or []
        lacking = [s for s in wanted.get("subjects", ()) if s not in subjects]
        if lacking:
            changed["subjects"] = [*subjects, *lacking]
    elif "aggregationRule" in wanted:  # its rules follow
        selectors = (present.get("aggregationRule") or {}).get("clusterRoleSelectors") or []
        default = wanted["aggregationRule"]["clusterRoleSelectors"]
        missing_selectors = [each for each in default if each not in selectors]
        if missing_selectors:
            changed["aggregationRule"] = {"clusterRoleSelectors": [*selectors, *missing_selectors]}
    else:
        rules = present.get("rules") or []
        if not all(rule in rules for rule in wanted["rules"]):  # seldom
            missing = missing_rules(
                [Rule.of(rule) for rule in rules], [Rule.of(rule) for rule in wanted["rules"]]
            )
            if missing:
                changed["rules"] = [*rules, *(rule.as_object() for rule in missing)]
    return {**present, **changed} if changed else None


NODE_RULES = tuple(Rule.of(parse_rule(line)) for line in ROLES["system:node"])
