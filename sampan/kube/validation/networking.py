"""Who may talk to whom, endpoint slices, and the addresses of services: ServiceCIDR and IPAddress."""

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
from sampan.kube.names import Rule
from sampan.kube.validation import ingress, rules
from sampan.kube.validation.containers import PROTOCOLS
from sampan.kube.validation.core import endpoint_ip
from sampan.kube.validation.rules import Causes, Object, Rules

GROUP: Final = "networking.k8s.io"
_POLICY_TYPES: Final = ("Ingress", "Egress")
_ADDRESS_TYPES: Final = frozenset(("FQDN", "IPv4", "IPv6"))
_MAX_ENDPOINTS: Final = 1000
_MAX_ADDRESSES: Final = 100
_MAX_PORTS: Final = 20_000
_MAX_HINTS: Final = 8


# --- NetworkPolicy ----------------------------------------------------------------------------------


def _network_policy(policy: Object, causes: Causes, known: frozenset[str] = frozenset()) -> None:
    """`known`: networks that the policy already names, in forms that are refused by now (KEP-4858)."""
    spec = policy.get("spec") or {}
    rules.label_selector(causes, "spec.podSelector", spec.get("podSelector"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{index}]"
            for at, port in enumerate(rule.get("ports") or ()):
                _policy_port(port, causes, f"{path}.ports[{at}]")
            for at, peer in enumerate(rule.get(peers) or ()):
                _policy_peer(peer, causes, f"{path}.{peers}[{at}]", known)
    kinds = spec.get("policyTypes") or []
    if len(kinds) > 2:
        text = "may not specify more than two policyTypes"
        causes.append(invalid_value("spec.policyTypes", kinds, text))
        return
    for index, kind in enumerate(kinds):
        if kind not in _POLICY_TYPES:
            where = f"spec.policyTypes[{index}]"
            causes.append(not_supported(where, kind, _POLICY_TYPES))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _network_policy_update(new: Object, old: Object, causes: Causes) -> None:
    spec = old.get("spec") or {}
    blocks = [
        peer.get("ipBlock") or {}
        for direction, peers in (("ingress", "from"), ("egress", "to"))
        for rule in spec.get(direction) or ()
        for peer in rule.get(peers) or ()
    ]
    named = [text for each in blocks for text in (each.get("cidr"), *(each.get("except") or ()))]
    _network_policy(new, causes, frozenset(filter(None, named)))


def _policy_port(port: Object, causes: Causes, path: str) -> None:
    protocol = port.get("protocol")
    if protocol is not None and protocol not in PROTOCOLS:
        causes.append(not_supported(f"{path}.protocol", protocol, ("TCP", "UDP", "SCTP")))
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


def _policy_peer(peer: Object, causes: Causes, path: str, known: frozenset[str]) -> None:
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
        _ip_block(block, causes, f"{path}.ipBlock", known)


def _ip_block(block: Object, causes: Causes, path: str, known: frozenset[str]) -> None:
    cidr = block.get("cidr") or ""
    if not cidr:
        causes.append(required(f"{path}.cidr"))
        return
    if cidr not in known:
        rules.name(causes, f"{path}.cidr", cidr, names.cidr)
    if (whole := _network(cidr)) is None:
        return
    for index, text in enumerate(block.get("except") or ()):
        where = f"{path}.except[{index}]"
        if text not in known:
            rules.name(causes, where, text, names.cidr)
        if (part := _network(text)) is None:
            continue
        if part.version != whole.version or not (
            int(whole.network_address) <= int(part.network_address)
            and int(part.broadcast_address) <= int(whole.broadcast_address)
            and part.prefixlen > whole.prefixlen
        ):
            causes.append(invalid_value(where, text, "must be a strict subset of `cidr`"))


# --- EndpointSlice ----------------------------------------------------------------------------------


def _endpoint_slice(found: Object, causes: Causes, before: list[Object] | None = None) -> None:
    """Endpoints that are as they were `before` are not looked at again, whatever was allowed then."""
    kind = found.get("addressType") or ""
    rules.choice(causes, "addressType", kind, _ADDRESS_TYPES)
    endpoints, ports = found.get("endpoints") or [], found.get("ports") or []
    if len(endpoints) > _MAX_ENDPOINTS and endpoints != before:
        causes.append(too_many("endpoints", len(endpoints), _MAX_ENDPOINTS))
        return
    for index, endpoint in enumerate(endpoints if endpoints != before else ()):
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
        rules.choice(causes, f"{path}.protocol", port.get("protocol"), PROTOCOLS)
        if port.get("port") is not None:
            rules.name(causes, f"{path}.port", port["port"], names.port_number)
        if port.get("appProtocol") is not None:
            rules.name(causes, f"{path}.appProtocol", port["appProtocol"], names.qualified_name)


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
            rules.name(causes, where, address, _domain)
            continue
        if kind in ("IPv4", "IPv6") and not names.ip(address):
            if (":" in address) != (kind == "IPv6"):
                text = f"must be an {kind} address"  # Kubernetes names no index
                causes.append(invalid_value(f"{path}.addresses", address, text))
        endpoint_ip(address, causes, where)
    if endpoint.get("hostname") is not None:
        rules.name(causes, f"{path}.hostname", endpoint["hostname"], names.dns1123_label)
    if endpoint.get("nodeName") is not None:
        rules.name(causes, f"{path}.nodeName", endpoint["nodeName"], names.dns1123_subdomain)
    hints = endpoint.get("hints") or {}
    _hints(hints.get("forZones") or [], names.label_value, causes, f"{path}.hints.forZones")
    _hints(hints.get("forNodes") or [], names.dns1123_subdomain, causes, f"{path}.hints.forNodes")


def _hints(hints: list[Object], rule: Rule, causes: Causes, path: str) -> None:
    if len(hints) > _MAX_HINTS:
        causes.append(too_many(path, len(hints), _MAX_HINTS))
        return
    seen = set()
    for index, hint in enumerate(hints):
        where, name = f"{path}[{index}].name", hint.get("name") or ""
        if name in seen:
            causes.append(duplicate(where, name))
        seen.add(name)
        rules.name(causes, where, name, rule)


def _domain(name: str) -> list[str]:
    """A DNS name of two labels or more; the root's dot may end it."""
    labels = name.removesuffix(".").split(".")
    if reasons := names.dns1123_subdomain(name.removesuffix(".")):
        return reasons
    if len(labels) < 2:
        return ["should be a domain with at least two segments separated by dots"]
    return [names.max_length(63) for label in labels if len(label) > 63]


def _endpoint_slice_update(new: Object, old: Object, causes: Causes) -> None:
    _endpoint_slice(new, causes, old.get("endpoints"))
    rules.immutable(causes, "addressType", new.get("addressType"), old.get("addressType"))


# --- ServiceCIDR and IPAddress ----------------------------------------------------------------------


def _service_cidr(found: Object, causes: Causes) -> None:
    spec = found.get("spec") or {}
    cidrs = spec.get("cidrs") or []
    if not cidrs:
        causes.append(required("spec.cidrs", "at least one CIDR required"))
        return
    if len(cidrs) > 2:
        causes.append(invalid_value("spec.cidrs", spec, "may only hold up to 2 values"))
        return
    for index, cidr in enumerate(cidrs):
        rules.name(causes, f"spec.cidrs[{index}]", cidr, _canonical_cidr)
    if (
        len(cidrs) == 2
        and all("/" in cidr for cidr in cidrs)
        and (":" in cidrs[0]) == (":" in cidrs[1])
    ):
        text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        causes.append(invalid_value("spec.cidrs", cidrs, text))


def _service_cidr_update(new: Object, old: Object, causes: Causes) -> None:
    before = (old.get("spec") or {}).get("cidrs") or []
    after = (new.get("spec") or {}).get("cidrs") or []
    if len(before) == len(after):
        for index, (one, other) in enumerate(zip(after, before, strict=True)):
            rules.immutable(causes, f"spec.cidrs[{index}]", one, other)
    elif len(before) == 1 and len(after) == 2:  # a second family may be added
        rules.immutable(causes, "spec.cidrs[0]", after[0], before[0])
        _service_cidr(new, causes)
    else:
        causes.append(invalid_value("spec.cidrs", after, rules.IMMUTABLE))


def _canonical_cidr(text: str) -> list[str]:
    if reasons := names.cidr(text):
        return reasons
    wanted = str(ipaddress.ip_network(text, strict=False))
    return [] if text == wanted else [f'must be in canonical form ("{wanted}")']


def _canonical_ip(name: str) -> list[str]:
    if reasons := names.ip(name):
        return reasons
    wanted = str(ipaddress.ip_address(name))
    return [] if name == wanted else [f'must be in canonical form ("{wanted}")']


def _ip_address(found: Object, causes: Causes) -> None:
    parent = (found.get("spec") or {}).get("parentRef")
    if parent is None:
        causes.append(required("spec.parentRef"))
        return
    if group := parent.get("group"):
        rules.name(causes, "spec.parentRef.group", group, names.dns1123_subdomain)
    for field in ("resource", "name"):
        path = f"spec.parentRef.{field}"
        rules.required_name(causes, path, parent.get(field), names.path_segment)
    if namespace := parent.get("namespace"):
        rules.name(causes, "spec.parentRef.namespace", namespace, names.path_segment)


def _ip_address_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    rules.immutable(causes, "spec.parentRef", after.get("parentRef"), before.get("parentRef"))


RULES = {
    (GROUP, "Ingress"): Rules(
        ingress.validate, status=ingress.status, first=ingress.validate_new, kept=ingress.KEPT
    ),
    (GROUP, "IngressClass"): Rules(
        ingress.validate_class, ingress.validate_class_update, namespaced=False
    ),
    (GROUP, "NetworkPolicy"): Rules(_network_policy, _network_policy_update, update_is_whole=True),
    (GROUP, "ServiceCIDR"): Rules(
        _service_cidr, _service_cidr_update, namespaced=False, update_is_whole=True
    ),
    (GROUP, "IPAddress"): Rules(_ip_address, _ip_address_update, _canonical_ip, namespaced=False),
    ("discovery.k8s.io", "EndpointSlice"): Rules(
        _endpoint_slice, _endpoint_slice_update, update_is_whole=True
    ),
}
