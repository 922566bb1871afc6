"""rbac.authorization.k8s.io: roles and bindings. Names only have to survive in a URL path."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import invalid_value, not_supported, required
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "rbac.authorization.k8s.io"


def policy_rule(rule: Object, causes: Causes, path: str, *, namespaced: bool) -> None:
    if not rule.get("verbs"):
        causes.append(required(f"{path}.verbs", "verbs must contain at least one value"))
    urls = rule.get("nonResourceURLs")
    if urls:
        if namespaced:
            text = "namespaced rules cannot apply to non-resource URLs"
            causes.append(invalid_value(f"{path}.nonResourceURLs", urls, text))
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            text = "rules cannot apply to both regular resources and non-resource URLs"
            causes.append(invalid_value(f"{path}.nonResourceURLs", urls, text))
        return
    if not rule.get("apiGroups"):
        text = "resource rules must supply at least one api group"
        causes.append(required(f"{path}.apiGroups", text))
    if not rule.get("resources"):
        text = "resource rules must supply at least one resource"
        causes.append(required(f"{path}.resources", text))


def _role(role: Object, causes: Causes) -> None:
    for index, rule in enumerate(role.get("rules") or ()):
        policy_rule(rule, causes, f"rules[{index}]", namespaced=True)


def _cluster_role(role: Object, causes: Causes) -> None:
    for index, rule in enumerate(role.get("rules") or ()):
        policy_rule(rule, causes, f"rules[{index}]", namespaced=False)
    selectors = (role.get("aggregationRule") or {}).get("clusterRoleSelectors")
    if role.get("aggregationRule") is not None and not selectors:
        text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        causes.append(required("aggregationRule.clusterRoleSelectors", text))
    for index, selector in enumerate(selectors or ()):
        path = f"aggregationRule.clusterRoleSelectors[{index}]"
        before = len(causes)
        rules.label_selector(causes, path, selector)
        if len(causes) > before:
            causes.append(invalid_value(path, selector, "invalid label selector."))


def _binding(binding: Object, causes: Causes, kinds: tuple[str, ...], *, cluster: bool) -> None:
    ref = binding.get("roleRef") or {}
    if ref.get("apiGroup") != GROUP:
        causes.append(not_supported("roleRef.apiGroup", ref.get("apiGroup") or "", [GROUP]))
    if ref.get("kind") not in kinds:
        causes.append(not_supported("roleRef.kind", ref.get("kind") or "", kinds))
    rules.required_name(causes, "roleRef.name", ref.get("name"), names.path_segment)
    for index, subject in enumerate(binding.get("subjects") or ()):
        _subject(subject, causes, f"subjects[{index}]", cluster=cluster)


def _subject(subject: Object, causes: Causes, path: str, *, cluster: bool) -> None:
    name, group = subject.get("name") or "", subject.get("apiGroup") or ""
    if not name:
        causes.append(required(f"{path}.name"))
    match subject.get("kind"):
        case "ServiceAccount":
            if name:
                rules.name(causes, f"{path}.name", name, names.dns1123_subdomain)
            if group:
                causes.append(not_supported(f"{path}.apiGroup", group, [""]))
            if cluster and not subject.get("namespace"):
                causes.append(required(f"{path}.namespace"))
        case "User" | "Group" as kind:
            if not name:
                text = f"{kind.lower()} name cannot be empty"
                causes.append(invalid_value(f"{path}.name", name, text))
            if group != GROUP:
                causes.append(not_supported(f"{path}.apiGroup", group, [GROUP]))
        case other:
            allowed = ["ServiceAccount", "User", "Group"]
            causes.append(not_supported(f"{path}.kind", other or "", allowed))


def _role_binding(binding: Object, causes: Causes) -> None:
    # A subject without namespace is in the binding's own.
    _binding(binding, causes, ("Role", "ClusterRole"), cluster=False)


def _cluster_role_binding(binding: Object, causes: Causes) -> None:
    _binding(binding, causes, ("ClusterRole",), cluster=True)


def _role_ref(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(
        causes, "roleRef", new.get("roleRef"), old.get("roleRef"), "cannot change roleRef"
    )


RULES = {
    (GROUP, "Role"): Rules(_role, name=names.path_segment),
    (GROUP, "ClusterRole"): Rules(_cluster_role, name=names.path_segment, namespaced=False),
    (GROUP, "RoleBinding"): Rules(_role_binding, _role_ref, names.path_segment),
    (GROUP, "ClusterRoleBinding"): Rules(
        _cluster_role_binding, _role_ref, names.path_segment, namespaced=False
    ),
}
