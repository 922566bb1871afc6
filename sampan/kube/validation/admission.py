"""Admission policies, and the kinds that extend the API server."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    invalid_value,
    not_supported,
    required,
)
from sampan.kube.objects import name as name_of
from sampan.kube.validation import expressions, matching, rules, webhooks
from sampan.kube.validation.ratchet import in_place
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "admissionregistration.k8s.io"
_FAILURE: Final = frozenset(("Fail", "Ignore"))
_STATUSES: Final = ("True", "False", "Unknown")
_ACTIONS: Final = frozenset(("Audit", "Deny", "Warn"))


def _policy(policy: Object, causes: Causes) -> None:
    spec = policy.get("spec") or {}
    rules.choice(causes, "spec.failurePolicy", spec.get("failurePolicy"), _FAILURE)
    if (kind := spec.get("paramKind")) is not None:
        expressions.param_kind(kind, causes)
    constraints = spec.get("matchConstraints")
    if constraints is None:
        causes.append(required("spec.matchConstraints"))
    else:
        matching.match_resources(constraints, causes, "spec.matchConstraints")
        if not constraints.get("resourceRules"):
            causes.append(required("spec.matchConstraints.resourceRules"))


def _validating_policy(policy: Object, causes: Causes) -> None:
    _policy(policy, causes)
    expressions.validations(policy, causes)


def _mutating_policy(policy: Object, causes: Causes) -> None:
    _policy(policy, causes)
    spec = policy.get("spec") or {}
    constraints = spec.get("matchConstraints")
    matching.only_operations(constraints, matching.MUTABLE, causes, "spec.matchConstraints")
    expressions.mutations(spec, causes)


def _binding(binding: Object, causes: Causes) -> None:
    spec = binding.get("spec") or {}
    if not spec.get("policyName"):
        causes.append(required("spec.policyName"))
    else:
        rules.name(causes, "spec.policyName", spec["policyName"], names.dns1123_subdomain)
    if (reference := spec.get("paramRef")) is not None:
        expressions.param_ref(reference, causes)
    resources = spec.get("matchResources")
    matching.match_resources(resources, causes, "spec.matchResources")
    if binding.get("kind") == "MutatingAdmissionPolicyBinding":
        matching.only_operations(resources, matching.MUTABLE, causes, "spec.matchResources")
        return
    actions = spec.get("validationActions") or []
    if not actions:
        text = "at least one validation action is required"
        causes.append(required("spec.validationActions", text))
    for index, action in enumerate(actions):
        if action not in _ACTIONS:
            path = f"spec.validationActions[{index}]"
            causes.append(not_supported(path, action, sorted(_ACTIONS)))
    expressions.together(actions, causes)


# --- CustomResourceDefinition and APIService --------------------------------------------------------


def _definition(crd: Object, causes: Causes) -> None:
    from sampan.kube.structural import (
        definition,  # brings CEL and schemas, which few processes need
    )

    causes += definition.validate(crd)


def _definition_update(new: Object, old: Object, causes: Causes) -> None:
    from sampan.kube.structural import definition

    causes += definition.validate_changes(new, old)


def _api_service(service: Object, causes: Causes) -> None:
    spec = service.get("spec") or {}
    group, version = spec.get("group") or "", spec.get("version") or ""
    expected = f"{version}.{group}"
    if name_of(service) != expected and not names.path_segment(name_of(service)):
        text = f'must be `spec.version+"."+spec.group`: "{expected}"'
        causes.append(invalid_value("metadata.name", name_of(service), text))
    if group:
        rules.name(causes, "spec.group", group, names.dns1123_subdomain)
    elif version != "v1":
        text = "only v1 may have an empty group and it better be legacy kube"
        causes.append(required("spec.group", text))
    rules.name(causes, "spec.version", version, names.dns1035_label)
    for field, high in (("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)):
        value = spec.get(field) or 0
        if not 0 < value <= high:
            text = f"must be positive and less than {high}"
            causes.append(invalid_value(f"spec.{field}", value, text))
    bundle, insecure = spec.get("caBundle"), bool(spec.get("insecureSkipTLSVerify"))
    server = spec.get("service")
    if server is None:
        if bundle:
            size = len(bundle) * 3 // 4 - bundle[-2:].count("=")
            text = "local APIServices may not have a caBundle"
            causes.append(invalid_value("spec.caBundle", f"{size} bytes", text))
        if insecure:
            text = "local APIServices may not have insecureSkipTLSVerify"
            causes.append(invalid_value("spec.insecureSkipTLSVerify", insecure, text))
        return
    for field in ("namespace", "name"):
        if not server.get(field):
            causes.append(required(f"spec.service.{field}"))
    if insecure and bundle:
        text = "may not be true if caBundle is present"
        causes.append(invalid_value("spec.insecureSkipTLSVerify", insecure, text))


def _api_service_status(new: Object, old: Object, causes: Causes) -> None:
    for index, condition in enumerate((new.get("status") or {}).get("conditions") or ()):
        if condition.get("status") not in _STATUSES:
            path = f"status.conditions[{index}].status"
            causes.append(not_supported(path, condition.get("status") or "", _STATUSES))


# Compiled once already, by rules that may have known other variables.
_KEPT: Final = (in_place(r"spec\.matchConditions\[\d+\]\.expression$"),)

RULES = {
    (GROUP, "ValidatingWebhookConfiguration"): webhooks.RULES,
    (GROUP, "MutatingWebhookConfiguration"): webhooks.RULES,
    (GROUP, "ValidatingAdmissionPolicy"): Rules(_validating_policy, namespaced=False, kept=_KEPT),
    (GROUP, "ValidatingAdmissionPolicyBinding"): Rules(_binding, namespaced=False),
    (GROUP, "MutatingAdmissionPolicy"): Rules(_mutating_policy, namespaced=False, kept=_KEPT),
    (GROUP, "MutatingAdmissionPolicyBinding"): Rules(_binding, namespaced=False),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): Rules(
        _definition, _definition_update, namespaced=False
    ),
    ("apiregistration.k8s.io", "APIService"): Rules(
        _api_service, name=names.path_segment, namespaced=False, status=_api_service_status
    ),
}
