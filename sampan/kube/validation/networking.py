"""networking.k8s.io and discovery.k8s.io."""

from __future__ import annotations

import ipaddress
from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
    too_many,
)
from sampan.kube.validation import rules
from sampan.kube.validation.containers import PROTOCOLS
from sampan.kube.validation.core import endpoint_ip
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "networking.k8s.io"
_PATH_TYPES: Final = frozenset(("Exact", "ImplementationSpecific", "Prefix"))
_BAD_SEQUENCES: Final = ("//", "/./", "/../", "%2f", "%2F")
_BAD_ENDS: Final = ("/..", "/.")
_POLICY_TYPES: Final = frozenset(("Egress", "Ingress"))
_ADDRESS_TYPES: Final = frozenset(("FQDN", "IPv4", "IPv6"))
_MAX_ENDPOINTS: Final = 1000
_MAX_ADDRESSES: Final = 100
_MAX_PORTS: Final = 20_000


# --- Ingress ----------------------------------------------------------------------------------------


def _ingress(ingress: Object, causes: Causes) -> None:
    spec = ingress.get("spec") or {}
    found, backend = spec.get("rules") or [], spec.get("defaultBackend")
    if not found and backend is None:
        text = "either `defaultBackend` or `rules` must be specified"
        causes.append(invalid_value("spec", spec, text))
    if backend is not None:
        _backend(backend, causes, "spec.defaultBackend")
    if name := spec.get("ingressClassName"):
        rules.name(causes, "spec.ingressClassName", name, names.dns1123_subdomain)
    for index, rule in enumerate(found):
        _ingress_rule(rule, causes, f"spec.rules[{index}]")
    for index, tls in enumerate(spec.get("tls") or ()):
        for at, host in enumerate(tls.get("hosts") or ()):
            rule = names.wildcard_subdomain if "*" in host else names.dns1123_subdomain
            rules.name(causes, f"spec.tls[{index}].hosts[{at}]", host, rule)


def _ingress_rule(rule: Object, causes: Causes, path: str) -> None:
    host = rule.get("host") or ""
    if host:
        if not names.ip(host):
            text = "must be a DNS name, not an IP address"
            causes.append(invalid_value(f"{path}.host", host, text))
        check = names.wildcard_subdomain if "*" in host else names.dns1123_subdomain
        rules.name(causes, f"{path}.host", host, check)
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
    kind, value = item.get("pathType"), item.get("path") or ""
    if not kind:
        causes.append(required(f"{path}.pathType", "pathType must be specified"))
        return
    if kind not in _PATH_TYPES:
        causes.append(not_supported(f"{path}.pathType", kind, sorted(_PATH_TYPES)))
        return
    if kind == "ImplementationSpecific":
        if value and not value.startswith("/"):
            causes.append(invalid_value(f"{path}.path", value, "must be an absolute path"))
        return
    if not value.startswith("/"):
        causes.append(invalid_value(f"{path}.path", value, "must be an absolute path"))
    for bad in _BAD_SEQUENCES:
        if bad in value:
            text = f"must not contain '{bad}'"
            causes.append(invalid_value(f"{path}.path", value, text))
    for bad in _BAD_ENDS:
        if value.endswith(bad):
            text = f"cannot end with '{bad}'"
            causes.append(invalid_value(f"{path}.path", value, text))


def _backend(backend: Object, causes: Causes, path: str) -> None:
    service, resource = backend.get("service"), backend.get("resource")
    if service is not None and resource is not None:
        text = "cannot set both resource and service backends"
        causes.append(invalid_value(path, "", text))
    elif resource is not None:
        for field in ("kind", "name"):
            if not resource.get(field):
                causes.append(required(f"{path}.resource.{field}"))
    elif service is None:
        causes.append(required(path, "resource or service backend is required"))
    else:
        rules.required_name(
            causes, f"{path}.service.name", service.get("name"), names.dns1035_label
        )
        port = service.get("port") or {}
        name, number = port.get("name"), port.get("number") or 0
        if name and number:
            text = "cannot set both port name & port number"
            causes.append(invalid_value(f"{path}.service.port", port, text))
        elif name:
            rules.name(causes, f"{path}.service.port.name", name, names.port_name)
        elif number:
            rules.name(causes, f"{path}.service.port.number", number, names.port_number)
        else:
            causes.append(required(f"{path}.service.port", "port name or number is required"))


def _ingress_class(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    controller = spec.get("controller") or ""
    if len(controller) > 250:
        text = "must be no more than 250 characters"
        causes.append(invalid_value("spec.controller", controller, text))
    domain, slash, rest = controller.partition("/")
    if not slash or not rest or names.dns1123_subdomain(domain):
        text = 'must be a domain-prefixed path (such as "acme.io/foo")'
        causes.append(
            required("spec.controller")
            if not controller
            else invalid_value("spec.controller", controller, text)
        )
    if (parameters := spec.get("parameters")) is not None:
        scope = parameters.get("scope")
        rules.choice(causes, "spec.parameters.scope", scope, ("Cluster", "Namespace"))
        for field in ("kind", "name"):
            if not parameters.get(field):
                causes.append(required(f"spec.parameters.{field}"))
        if scope == "Namespace" and not parameters.get("namespace"):
            text = "`parameters.scope` is set to 'Namespace'"
            causes.append(required("spec.parameters.namespace", text))
        if scope == "Cluster" and parameters.get("namespace") is not None:
            text = "`parameters.scope` is set to 'Cluster'"
            causes.append(forbidden_field("spec.parameters.namespace", text))


def _ingress_class_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    path = "spec.controller"
    rules.immutable(causes, path, after.get("controller"), before.get("controller"))


# --- NetworkPolicy ----------------------------------------------------------------------------------


def _network_policy(policy: Object, causes: Causes) -> None:
    spec = policy.get("spec") or {}
    rules.label_selector(causes, "spec.podSelector", spec.get("podSelector"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for at, port in enumerate(rule.get("ports") or ()):
                _policy_port(port, causes, f"{path}.ports[{at}]")
            for at, peer in enumerate(rule.get(peers) or ()):
                _policy_peer(peer, causes, f"{path}.{peers}[{at}]")
    kinds = spec.get("policyTypes") or []
    if len(kinds) > 2:
        text = "may not specify more than two policyTypes"
        causes.append(invalid_value("spec.policyTypes", kinds, text))
        return
    for index, kind in enumerate(kinds):
        if kind not in _POLICY_TYPES:
            where = f"spec.policyTypes[{index}]"
            causes.append(not_supported(where, kind, sorted(_POLICY_TYPES)))


def _policy_port(port: Object, causes: Causes, path: str) -> None:
    protocol = port.get("protocol")
    if protocol is not None and protocol not in PROTOCOLS:
        causes.append(not_supported(f"{path}.protocol", protocol, sorted(PROTOCOLS)))
    number, end = port.get("port"), port.get("endPort")
    if number is not None:
        rules.port_or_name(causes, f"{path}.port", number)
    if end is None:
        return
    if number is None:
        text = "may not be specified when `port` is not specified"
        causes.append(invalid_value(f"{path}.endPort", end, text))
    elif isinstance(number, str):
        text = "may not be specified when `port` is non-numeric"
        causes.append(invalid_value(f"{path}.endPort", end, text))
    else:
        if end < number:
            text = "must be greater than or equal to `port`"
            causes.append(invalid_value(f"{path}.endPort", end, text))
        rules.name(causes, f"{path}.endPort", end, names.port_number)


def _policy_peer(peer: Object, causes: Causes, path: str) -> None:
    pods, spaces, block = (
        peer.get("podSelector"),
        peer.get("namespaceSelector"),
        peer.get("ipBlock"),
    )
    if block is not None and (pods is not None or spaces is not None):
        text = "may not specify both ipBlock and another peer"
        causes.append(forbidden_field(path, text))
    if pods is None and spaces is None and block is None:
        causes.append(required(path, "must specify a peer"))
    rules.label_selector(causes, f"{path}.podSelector", pods)
    rules.label_selector(causes, f"{path}.namespaceSelector", spaces)
    if block is not None:
        _ip_block(block, causes, f"{path}.ipBlock")


def _ip_block(block: Object, causes: Causes, path: str) -> None:
    cidr = block.get("cidr") or ""
    if not cidr:
        causes.append(required(f"{path}.cidr"))
        return
    if reasons := names.cidr(cidr):
        causes.extend(invalid_value(f"{path}.cidr", cidr, reason) for reason in reasons)
        return
    whole = ipaddress.ip_network(cidr, strict=False)
    for index, text in enumerate(block.get("except") or ()):
        where = f"{path}.except[{index}]"
        if reasons := names.cidr(text):
            causes.extend(invalid_value(where, text, reason) for reason in reasons)
            continue
        part = ipaddress.ip_network(text, strict=False)
        if part.version != whole.version or not (
            int(whole.network_address) <= int(part.network_address)
            and int(part.broadcast_address) <= int(whole.broadcast_address)
            and part.prefixlen > whole.prefixlen
        ):
            reason = f'must be a strict subset of `cidr`: "{cidr}"'
            causes.append(invalid_value(where, text, reason))


# --- EndpointSlice ----------------------------------------------------------------------------------


def _endpoint_slice(found: Object, causes: Causes) -> None:
    kind = found.get("addressType") or ""
    rules.choice(causes, "addressType", kind, _ADDRESS_TYPES)
    endpoints, ports = found.get("endpoints") or [], found.get("ports") or []
    if len(endpoints) > _MAX_ENDPOINTS:
        causes.append(too_many("endpoints", len(endpoints), _MAX_ENDPOINTS))
        return
    for index, endpoint in enumerate(endpoints):
        _endpoint(endpoint, kind, causes, f"endpoints[{index}]")
    if len(ports) > _MAX_PORTS:
        causes.append(too_many("ports", len(ports), _MAX_PORTS))
        return
    seen = set()
    for index, port in enumerate(ports):
        path = f"ports[{index}]"
        name = port.get("name") or ""
        if name:
            rules.name(causes, f"{path}.name", name, names.dns1123_label)
        if name in seen:
            causes.append(duplicate(f"{path}.name", name))
        seen.add(name)
        if port.get("protocol") not in PROTOCOLS:
            value = port.get("protocol") or ""
            causes.append(not_supported(f"{path}.protocol", value, sorted(PROTOCOLS)))
        if port.get("port") is not None:
            rules.name(causes, f"{path}.port", port["port"], names.port_number)


def _endpoint(endpoint: Object, kind: str, causes: Causes, path: str) -> None:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        text = "must contain at least 1 address"
        causes.append(required(f"{path}.addresses", text))
    elif len(addresses) > _MAX_ADDRESSES:
        causes.append(too_many(f"{path}.addresses", len(addresses), _MAX_ADDRESSES))
    for index, address in enumerate(addresses):
        where = f"{path}.addresses[{index}]"
        if kind == "FQDN":
            rules.name(causes, where, address, names.dns1123_subdomain)
            continue
        if kind in ("IPv4", "IPv6") and not names.ip(address):
            version = ipaddress.ip_address(address).version
            if f"IPv{version}" != kind:
                causes.append(invalid_value(where, address, f"must be an {kind} address"))
                continue
        endpoint_ip(address, causes, where)
    if hostname := endpoint.get("hostname"):
        rules.name(causes, f"{path}.hostname", hostname, names.dns1123_label)
    if node := endpoint.get("nodeName"):
        rules.name(causes, f"{path}.nodeName", node, names.dns1123_subdomain)


def _endpoint_slice_update(new: Object, old: Object, causes: Causes) -> None:
    rules.immutable(causes, "addressType", new.get("addressType"), old.get("addressType"))


# --- ServiceCIDR and IPAddress ----------------------------------------------------------------------


def _service_cidr(found: Object, causes: Causes) -> None:
    cidrs = (found.get("spec") or {}).get("cidrs") or []
    if not cidrs:
        causes.append(required("spec.cidrs", "at least one CIDR required"))
    elif len(cidrs) > 2:
        text = "may only hold up to 2 values"
        causes.append(invalid_value("spec", cidrs, text))
    for index, cidr in enumerate(cidrs):
        rules.name(causes, f"spec.cidrs[{index}]", cidr, names.cidr)


def _service_cidr_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    rules.immutable(causes, "spec.cidrs", after.get("cidrs"), before.get("cidrs"))


def _canonical_ip(name: str) -> list[str]:
    reasons = names.ip(name)
    if not reasons and str(ipaddress.ip_address(name)) != name:
        reasons = ["must be a canonical format IP address"]
    return reasons


def _ip_address(found: Object, causes: Causes) -> None:
    parent = (found.get("spec") or {}).get("parentRef")
    if parent is None:
        causes.append(required("spec.parentRef"))
        return
    for field in ("resource", "name"):
        if not parent.get(field):
            causes.append(required(f"spec.parentRef.{field}"))


def _ip_address_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    rules.immutable(causes, "spec.parentRef", after.get("parentRef"), before.get("parentRef"))


RULES = {
    (GROUP, "Ingress"): Rules(_ingress),
    (GROUP, "IngressClass"): Rules(_ingress_class, _ingress_class_update, namespaced=False),
    (GROUP, "NetworkPolicy"): Rules(_network_policy),
    (GROUP, "ServiceCIDR"): Rules(_service_cidr, _service_cidr_update, namespaced=False),
    (GROUP, "IPAddress"): Rules(_ip_address, _ip_address_update, _canonical_ip, namespaced=False),
    ("discovery.k8s.io", "EndpointSlice"): Rules(_endpoint_slice, _endpoint_slice_update),
}
