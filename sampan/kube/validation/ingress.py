"""Ingress and IngressClass: which requests from outside go to which service, and who sees to it."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, required, too_long
from sampan.kube.objects import metadata
from sampan.kube.validation import rules, services
from sampan.kube.validation.ratchet import anything, same
from sampan.kube.validation.rules import Causes, Object

CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
KEPT: Final = (
    anything(r"spec\.tls\[\d+\]\.secretName$"),
    anything(r"spec\.rules\[\d+\]\.http\."),
    same(r"status\.loadBalancer\.ingress\[\d+\]\.ip$"),
)
_PATH_TYPES: Final = frozenset(("Exact", "ImplementationSpecific", "Prefix"))
_BAD_SEQUENCES: Final = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDS: Final = ("/..", "/.")
_MAX_CONTROLLER: Final = 250
_SCOPES: Final = frozenset(("Cluster", "Namespace"))


def validate(ingress: Object, causes: Causes) -> None:
    _spec(ingress.get("spec") or {}, causes)


def validate_new(ingress: Object, causes: Causes) -> None:
    """The annotation came before the field; a new object may have both when they agree."""
    annotation = (metadata(ingress).get("annotations") or {}).get(CLASS_ANNOTATION)
    name = (ingress.get("spec") or {}).get("ingressClassName")
    if annotation is not None and name is not None and annotation != name:
        text = "must match `ingressClassName` when both are specified"
        causes.append(invalid_value(f"annotations.{CLASS_ANNOTATION}", annotation, text))


def _spec(spec: Object, causes: Causes) -> None:
    found, backend = spec.get("rules") or [], spec.get("defaultBackend")
    if not found and backend is None:
        text = "either `defaultBackend` or `rules` must be specified"
        causes.append(invalid_value("spec", found, text))
    if backend is not None:
        _backend(backend, causes, "spec.defaultBackend")
    for index, rule in enumerate(found):
        _rule(rule, causes, f"spec.rules[{index}]")
    for index, tls in enumerate(spec.get("tls") or ()):
        for at, host in enumerate(tls.get("hosts") or ()):
            _host(host, causes, f"spec.tls[{index}].hosts[{at}]")
        if secret := tls.get("secretName"):
            rules.name(causes, f"spec.tls[{index}].secretName", secret, names.dns1123_subdomain)
    if (name := spec.get("ingressClassName")) is not None:
        rules.name(causes, "spec.ingressClassName", name, names.dns1123_subdomain)


def _host(host: str, causes: Causes, path: str) -> None:
    rule = names.wildcard_subdomain if "*" in host else names.dns1123_subdomain
    rules.name(causes, path, host, rule)


def _rule(rule: Object, causes: Causes, path: str) -> None:
    host = rule.get("host") or ""
    if host:
        if not names.ip(host):
            text = "must be a DNS name, not an IP address"
            causes.append(invalid_value(f"{path}.host", host, text))
        _host(host, causes, f"{path}.host")
    http = rule.get("http")
    if http is None:
        return
    if not http.get("paths"):
        causes.append(required(f"{path}.http.paths"))
    for index, item in enumerate(http.get("paths") or ()):
        where = f"{path}.http.paths[{index}]"
        _http_path(item, causes, where)
        _backend(item.get("backend") or {}, causes, f"{where}.backend")


def _http_path(item: Object, causes: Causes, path: str) -> None:
    kind, value, where = item.get("pathType"), item.get("path") or "", f"{path}.path"
    if kind is None:
        causes.append(required(f"{path}.pathType", "pathType must be specified"))
        return
    if kind not in _PATH_TYPES:
        rules.choice(causes, f"{path}.pathType", kind, _PATH_TYPES)
        return
    relative = not value.startswith("/")
    if kind == "ImplementationSpecific":
        if value and relative:
            causes.append(invalid_value(where, value, "must be an absolute path"))
        return
    if relative:
        causes.append(invalid_value(where, value, "must be an absolute path"))
    for bad in _BAD_SEQUENCES:
        if bad in value:
            causes.append(invalid_value(where, value, f"must not contain '{bad}'"))
    for bad in _BAD_ENDS:
        if value.endswith(bad):
            causes.append(invalid_value(where, value, f"cannot end with '{bad}'"))


def _backend(backend: Object, causes: Causes, path: str) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        causes.append(invalid_value(path, "", "cannot set both resource and service backends"))
    elif resource is not None:
        _reference(resource, causes, f"{path}.resource")
    elif service is None:
        causes.append(invalid_value(path, "", "resource or service backend is required"))
    else:
        name = service.get("name")
        rules.required_name(causes, f"{path}.service.name", name, names.dns1123_label)
        port = service.get("port") or {}
        text, number = port.get("name"), port.get("number") or 0
        if text and number:
            both = "cannot set both port name & port number"
            causes.append(invalid_value(path, "", both))
        elif text:
            rules.name(causes, f"{path}.service.port.name", text, names.port_name)
        elif number:
            rules.name(causes, f"{path}.service.port.number", number, names.port_number)
        else:
            causes.append(required(path, "port name or number is required"))


def _reference(resource: Object, causes: Causes, path: str, detail: str = "{} is required") -> None:
    """A reference to an object of any kind."""
    if group := resource.get("apiGroup"):
        rules.name(causes, f"{path}.apiGroup", group, names.dns1123_subdomain)
    for field in ("kind", "name"):
        value, text = resource.get(field), detail.format(field)
        rules.required_name(causes, f"{path}.{field}", value, names.path_segment, text)


def status(new: Object, old: Object, causes: Causes) -> None:
    balancer = (new.get("status") or {}).get("loadBalancer") or {}
    for index, point in enumerate(balancer.get("ingress") or ()):
        path = f"status.loadBalancer.ingress[{index}]"
        if address := point.get("ip"):
            rules.name(causes, f"{path}.ip", address, names.ip)
        services.host_name(point.get("hostname") or "", causes, f"{path}.hostname")


# --- IngressClass -----------------------------------------------------------------------------------


def validate_class(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    controller = spec.get("controller") or ""
    if len(controller) > _MAX_CONTROLLER:
        causes.append(too_long("spec.controller", controller, _MAX_CONTROLLER))
    if not controller:
        causes.append(required("spec.controller"))
    else:
        rules.name(causes, "spec.controller", controller, names.domain_prefixed_path)
    if (parameters := spec.get("parameters")) is not None:
        _reference(parameters, causes, "spec.parameters", "")
        _scope(parameters, causes, "spec.parameters")


def _scope(parameters: Object, causes: Causes, path: str) -> None:
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    if scope is None:
        causes.append(required(f"{path}.scope"))
        return
    if namespace and scope == "Namespace":
        rules.name(causes, f"{path}.namespace", namespace, names.dns1123_label)
    if scope not in _SCOPES:
        rules.choice(causes, f"{path}.scope", scope, _SCOPES)
    elif scope == "Namespace" and not namespace:
        text = "`parameters.scope` is set to 'Namespace'"
        causes.append(required(f"{path}.namespace", text))
    elif scope == "Cluster" and namespace is not None:
        text = "`parameters.scope` is set to 'Cluster'"
        causes.append(forbidden_field(f"{path}.namespace", text))


def validate_class_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    path = "spec.controller"
    rules.immutable(causes, path, after.get("controller"), before.get("controller"))
