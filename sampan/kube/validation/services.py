"""Services: ports, addresses, types and traffic policies. Addresses themselves are given out by the allocator."""

from __future__ import annotations

from typing import Final

from sampan.kube import names
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    not_supported,
    required,
)
from sampan.kube.validation import rules
from sampan.kube.validation.containers import PROTOCOLS
from sampan.kube.validation.rules import Causes, Object

_TYPES: Final = frozenset(("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"))
_AFFINITY: Final = frozenset(("ClientIP", "None"))
_POLICIES: Final = frozenset(("Cluster", "Local"))
_FAMILY_POLICIES: Final = frozenset(("PreferDualStack", "RequireDualStack", "SingleStack"))
_FAMILIES: Final = frozenset(("IPv4", "IPv6"))
_DAY: Final = 86_400


def validate(service: Object, causes: Causes) -> None:
    spec = service.get("spec") or {}
    get = spec.get
    kind = get("type") or ""
    headless = get("clusterIP") == "None"
    ports = get("ports") or []
    if not ports and not headless and kind != "ExternalName":
        causes.append(required("spec.ports"))
    if kind == "LoadBalancer" and headless:
        text = "may not be set to 'None' for LoadBalancer services"
        causes.append(invalid_value("spec.clusterIPs[0]", "None", text))
    if kind == "NodePort" and headless:
        text = "may not be set to 'None' for NodePort services"
        causes.append(invalid_value("spec.clusterIPs[0]", "None", text))
    if kind == "ExternalName":
        _external_name(spec, causes)
    _ports(ports, causes, kind)
    if found := get("selector"):
        rules.labels(causes, "spec.selector", found)
    rules.choice(causes, "spec.sessionAffinity", get("sessionAffinity"), _AFFINITY)
    _session(spec, causes)
    rules.choice(causes, "spec.type", kind, _TYPES)
    _addresses(spec, causes)
    _policies(spec, causes, kind)


def _external_name(spec: Object, causes: Causes) -> None:
    if spec.get("clusterIP"):
        text = "may not be set for ExternalName services"
        causes.append(forbidden_field("spec.clusterIPs", text))
    name = (spec.get("externalName") or "").removesuffix(".")
    if not name:
        causes.append(required("spec.externalName"))
    else:
        rules.name(causes, "spec.externalName", name, names.dns1123_subdomain)


def _ports(ports: list[Object], causes: Causes, kind: str) -> None:
    seen_names: set[str] = set()
    seen: set[tuple[str, int]] = set()
    seen_node: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        name = port.get("name") or ""
        if not name:
            if len(ports) > 1:
                causes.append(required(f"{path}.name"))
        elif reasons := names.dns1123_label(name):
            causes.extend(invalid_value(f"{path}.name", name, reason) for reason in reasons)
        elif name in seen_names:
            causes.append(duplicate(f"{path}.name", name))
        seen_names.add(name)
        number, protocol = port.get("port") or 0, port.get("protocol") or ""
        rules.name(causes, f"{path}.port", number, names.port_number)
        rules.choice(causes, f"{path}.protocol", protocol, PROTOCOLS)
        rules.port_or_name(causes, f"{path}.targetPort", port.get("targetPort"))
        if protocol_name := port.get("appProtocol"):
            rules.name(causes, f"{path}.appProtocol", protocol_name, names.qualified_name)
        node_port = port.get("nodePort") or 0
        if node_port:
            if kind == "ClusterIP":
                text = "may not be used when `type` is 'ClusterIP'"
                causes.append(forbidden_field(f"{path}.nodePort", text))
            if (protocol, node_port) in seen_node:
                causes.append(duplicate(f"{path}.nodePort", node_port))
            seen_node.add((protocol, node_port))
        if (protocol, number) in seen:
            causes.append(duplicate(path, {"protocol": protocol, "port": number}))
        seen.add((protocol, number))


def _session(spec: Object, causes: Causes) -> None:
    config = spec.get("sessionAffinityConfig")
    if spec.get("sessionAffinity") == "None":
        if config is not None:
            text = "must not be set when session affinity is None"
            causes.append(forbidden_field("spec.sessionAffinityConfig", text))
        return
    seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
    if seconds is not None and not 0 < seconds <= _DAY:
        text = f"must be greater than 0 and less than {_DAY}"
        path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        causes.append(invalid_value(path, seconds, text))


def _addresses(spec: Object, causes: Causes) -> None:
    addresses = spec.get("clusterIPs") or []
    address = spec.get("clusterIP") or ""
    if addresses and addresses[0] != address:
        text = "first value must match `clusterIP`"
        causes.append(invalid_value("spec.clusterIPs", addresses, text))
    for index, item in enumerate(addresses or ([address] if address else [])):
        if item != "None":
            rules.name(causes, f"spec.clusterIPs[{index}]", item, names.ip)
        elif len(addresses) > 1:
            text = "may not be set to 'None' together with other values"
            causes.append(invalid_value(f"spec.clusterIPs[{index}]", item, text))
    for index, item in enumerate(spec.get("externalIPs") or ()):
        rules.name(causes, f"spec.externalIPs[{index}]", item, names.ip)
    families = spec.get("ipFamilies") or []
    for index, family in enumerate(families):
        if family not in _FAMILIES:
            where = f"spec.ipFamilies[{index}]"
            causes.append(not_supported(where, family, sorted(_FAMILIES)))
    rules.unique(causes, "spec.ipFamilies", families)
    policy = spec.get("ipFamilyPolicy")
    rules.optional_choice(causes, "spec.ipFamilyPolicy", policy, _FAMILY_POLICIES)


def _policies(spec: Object, causes: Causes, kind: str) -> None:
    external, internal = spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy")
    reachable = kind in ("NodePort", "LoadBalancer") or (
        kind == "ClusterIP" and bool(spec.get("externalIPs"))
    )
    if reachable:
        rules.choice(causes, "spec.externalTrafficPolicy", external, _POLICIES)
    elif external:
        text = "may only be set for externally-accessible services"
        causes.append(invalid_value("spec.externalTrafficPolicy", external, text))
    rules.optional_choice(causes, "spec.internalTrafficPolicy", internal, _POLICIES)
    health = spec.get("healthCheckNodePort") or 0
    if health and not (kind == "LoadBalancer" and external == "Local"):
        text = (
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        )
        causes.append(invalid_value("spec.healthCheckNodePort", health, text))
    ranges = spec.get("loadBalancerSourceRanges") or []
    if ranges and kind != "LoadBalancer":
        text = "may only be used when `type` is 'LoadBalancer'"
        causes.append(forbidden_field("spec.loadBalancerSourceRanges", text))
    for index, item in enumerate(ranges):
        rules.name(causes, f"spec.loadBalancerSourceRanges[{index}]", item.strip(), names.cidr)
    if spec.get("allocateLoadBalancerNodePorts") is not None and kind != "LoadBalancer":
        text = "may only be used when `type` is 'LoadBalancer'"
        causes.append(forbidden_field("spec.allocateLoadBalancerNodePorts", text))
    if spec.get("loadBalancerClass") is not None and kind != "LoadBalancer":
        text = "may only be used when `type` is 'LoadBalancer'"
        causes.append(forbidden_field("spec.loadBalancerClass", text))


def validate_update(new: Object, old: Object, causes: Causes) -> None:
    """The cluster IP stays, except on the way from or to ExternalName."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    if "ExternalName" in (before.get("type"), after.get("type")):
        return
    if before.get("clusterIP") and after.get("clusterIP") != before["clusterIP"]:
        addresses = after.get("clusterIPs") or [after.get("clusterIP") or ""]
        text = "may not change once set"
        causes.append(invalid_value("spec.clusterIPs[0]", addresses[0], text))
