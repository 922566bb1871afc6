"""Defaults of webhooks, admission policies, and the other kinds that extend the API server."""

from __future__ import annotations

from typing import Final

from sampan.kube.defaulting.fill import Object, each, empty, sub, unset

HTTPS: Final = 443
GROUP = "admissionregistration.k8s.io"


def _client_config(config: Object | None) -> None:
    if config and (service := config.get("service")):
        unset(service, port=HTTPS)


def _match(resources: Object) -> None:
    unset(resources, matchPolicy="Equivalent", namespaceSelector={}, objectSelector={})
    for field in ("resourceRules", "excludeResourceRules", "rules"):
        for rule in each(resources, field):
            unset(rule, scope="*")


def _webhooks(configuration: Object, *, mutating: bool) -> None:
    for webhook in each(configuration, "webhooks"):
        unset(webhook, failurePolicy="Fail", timeoutSeconds=10)
        _match(webhook)
        if mutating:
            unset(webhook, reinvocationPolicy="Never")
        _client_config(webhook.get("clientConfig"))


def _policy(policy: Object) -> None:
    spec = sub(policy, "spec")
    unset(spec, failurePolicy="Fail")
    if (constraints := spec.get("matchConstraints")) is not None:
        _match(constraints)


def _binding(binding: Object) -> None:
    if (resources := (binding.get("spec") or {}).get("matchResources")) is not None:
        _match(resources)


def _custom_resource_definition(crd: Object) -> None:
    spec = sub(crd, "spec")
    names = sub(spec, "names")
    if kind := names.get("kind"):
        empty(names, singular=kind.lower(), listKind=f"{kind}List")
    unset(spec, conversion={"strategy": "None"})
    if webhook := spec["conversion"].get("webhook"):
        _client_config(webhook.get("clientConfig"))


def _api_service(api_service: Object) -> None:
    _client_config(api_service.get("spec"))


DEFAULTS = {
    (GROUP, "ValidatingWebhookConfiguration"): lambda obj: _webhooks(obj, mutating=False),
    (GROUP, "MutatingWebhookConfiguration"): lambda obj: _webhooks(obj, mutating=True),
    (GROUP, "ValidatingAdmissionPolicy"): _policy,
    (GROUP, "ValidatingAdmissionPolicyBinding"): _binding,
    (GROUP, "MutatingAdmissionPolicy"): _policy,
    (GROUP, "MutatingAdmissionPolicyBinding"): _binding,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _custom_resource_definition,
    ("apiregistration.k8s.io", "APIService"): _api_service,
}
