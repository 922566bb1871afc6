"""Services: ports, addresses, types and traffic policies. Addresses themselves are given out by the allocator."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any, Final

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
from sampan.kube.validation.ratchet import same
from sampan.kube.validation.rules import Causes, Object

_TYPES: Final = frozenset(("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"))
_AFFINITY: Final = frozenset(("ClientIP", "None"))
_POLICIES: Final = frozenset(("Cluster", "Local"))
_FAMILY_POLICIES: Final = ("PreferDualStack", "RequireDualStack", "SingleStack")
_FAMILIES: Final = ("IPv4", "IPv6")
_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameZone", "PreferSameNode")
_IP_MODES: Final = ("Proxy", "VIP")
# Addresses written when zeros in front of a number were still allowed.
KEPT: Final = (
    same(r"spec\.(clusterIPs|externalIPs|LoadBalancerSourceRanges)\[\d+\]$"),
    same(r"metadata\.annotations\[service\.beta\.kubernetes\.io/load-balancer-source-ranges\]$"),
    same(r"status\.loadBalancer\.ingress\[\d+\]\.ip$"),
)
_DAY: Final = 86_400
_ONLY_BALANCERS: Final = "may only be used when `type` is 'LoadBalancer'"
_FIXED: Final = "may not change once set"
_HINTS: Final = "service.kubernetes.io/topology-aware-hints"
_MODE: Final = "service.kubernetes.io/topology-mode"
_RANGES: Final = "service.beta.kubernetes.io/load-balancer-source-ranges"


def _is_headless(spec: Object) -> bool:
    return (spec.get("clusterIPs") or [spec.get("clusterIP")]) == ["None"]


def validate(service: Object, causes: Causes) -> None:
    spec = service.get("spec") or {}
    get = spec.get
    kind, ports = get("type") or "", get("ports") or []
    headless = _is_headless(spec)
    marks = (service.get("metadata") or {}).get("annotations") or {}
    if _MODE in marks and marks.get(_HINTS, marks[_MODE]) != marks[_MODE]:
        text = f"must match annotations[{_HINTS}] when both are specified"
        causes.append(invalid_value(f"metadata.annotations[{_MODE}]", marks[_MODE], text))
    if not ports and not headless and kind != "ExternalName":
        causes.append(required("spec.ports"))
    if headless and kind in ("LoadBalancer", "NodePort"):
        text = f"may not be set to 'None' for {kind} services"
        causes.append(invalid_value("spec.clusterIPs[0]", "None", text))
    if kind == "ExternalName":
        _external_name(spec, causes)
    _ports(ports, causes, kind)
    if found := get("selector"):
        rules.labels(causes, "spec.selector", found)
    rules.choice(causes, "spec.sessionAffinity", get("sessionAffinity"), _AFFINITY)
    _session(spec, causes)
    if kind != "ExternalName":
        addresses(spec, causes)
    for index, item in enumerate(get("externalIPs") or ()):
        non_special_ip(item, causes, f"spec.externalIPs[{index}]")
    rules.choice(causes, "spec.type", kind, _TYPES)
    _balancer(spec, marks, causes, kind)
    _policies(spec, causes, kind)


def _external_name(spec: Object, causes: Causes) -> None:
    text = "may not be set for ExternalName services"
    if spec.get("clusterIP") or spec.get("clusterIPs"):
        causes.append(forbidden_field("spec.clusterIPs", text))
    for field in ("ipFamilies", "ipFamilyPolicy"):
        if spec.get(field):
            causes.append(forbidden_field(f"spec.{field}", text))
    # A trailing dot says that the name is complete.
    name = (spec.get("externalName") or "").removesuffix(".")
    rules.required_name(causes, "spec.externalName", name, names.dns1123_subdomain)


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
        else:
            rules.name(causes, f"{path}.name", name, names.dns1123_label)
            if name in seen_names:
                causes.append(duplicate(f"{path}.name", name))
            seen_names.add(name)
        number, protocol = port.get("port") or 0, port.get("protocol") or ""
        rules.name(causes, f"{path}.port", number, names.port_number)
        rules.choice(causes, f"{path}.protocol", protocol, PROTOCOLS)
        rules.port_or_name(causes, f"{path}.targetPort", port.get("targetPort"))
        if (protocol_name := port.get("appProtocol")) is not None:
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
            shown = {"Name": "", "Protocol": protocol, "AppProtocol": None, "Port": number,
                     "TargetPort": 0, "NodePort": 0}  # fmt: skip
            causes.append(duplicate(path, shown))
        seen.add((protocol, number))


def _session(spec: Object, causes: Causes) -> None:
    affinity = spec.get("sessionAffinity")
    config: Any = spec.get("sessionAffinityConfig")
    path = "spec.sessionAffinityConfig"
    if affinity == "None" and config is not None:
        causes.append(forbidden_field(path, "must not be set when session affinity is None"))
    if affinity != "ClientIP":
        return
    for field in ("clientIP", "timeoutSeconds", ""):
        if config is None:
            causes.append(required(path, "when session affinity type is ClientIP"))
            return
        if field:
            config, path = config.get(field), f"{path}.{field}"
    if not 0 < config <= _DAY:
        text = f"must be greater than 0 and less than {_DAY}"
        causes.append(invalid_value(path, config, text))


def _version(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def addresses(spec: Object, causes: Causes) -> None:
    """clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy say the same."""
    given, address = spec.get("clusterIPs") or [], spec.get("clusterIP") or ""
    path, families = "spec.clusterIPs", spec.get("ipFamilies") or []
    if address and not given:
        causes.append(required(path))
    elif address and given[0] != address:
        causes.append(invalid_value(path, given, "first value must match `clusterIP`"))
    elif given and not address:
        text = "must be empty when `clusterIP` is not specified"
        causes.append(invalid_value(path, given, text))
    for index, family in enumerate(families):
        where = f"spec.ipFamilies[{index}]"
        if family not in _FAMILIES:
            causes.append(not_supported(where, family, _FAMILIES))
        if family in families[:index]:
            causes.append(duplicate(where, family))
    policy = spec.get("ipFamilyPolicy")
    if policy is not None and policy not in _FAMILY_POLICIES:
        causes.append(not_supported("spec.ipFamilyPolicy", policy, _FAMILY_POLICIES))
    before = len(causes)
    for index, item in enumerate(given):
        if index or item != "None":
            rules.name(causes, f"{path}[{index}]", item, names.ip)
        elif len(given) > 1:
            text = "'None' must be the first and only value"
            causes.append(invalid_value(path, given, text))
    if len(given) > 2:
        causes.append(invalid_value(path, given, "may only hold up to 2 values"))
    if len(causes) > before or given == ["None"]:
        return
    if len(given) > 1 and len({_version(each) for each in given}) < 2:
        text = "may specify no more than one IP for each IP family"
        causes.append(invalid_value(path, given, text))
    for index, (item, family) in enumerate(zip(given, families, strict=False)):
        if family in _FAMILIES and _version(item) != family:
            text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            causes.append(invalid_value(f"{path}[{index}]", item, text))


def _balancer(spec: Object, marks: Object, causes: Causes, kind: str) -> None:
    is_balancer = kind == "LoadBalancer"
    ranges, path = spec.get("loadBalancerSourceRanges") or [], "spec.LoadBalancerSourceRanges"
    if ranges:
        if not is_balancer:
            causes.append(forbidden_field(path, _ONLY_BALANCERS))
        for index, item in enumerate(ranges):
            # An annotation had these once, with blanks around them.
            rules.name(causes, f"{path}[{index}]", item.strip(), names.cidr)
    elif _RANGES in marks:
        path = f"metadata.annotations[{_RANGES}]"
        if not is_balancer:
            causes.append(forbidden_field(path, _ONLY_BALANCERS))
        for item in marks[_RANGES].split(",") if marks[_RANGES].strip() else ():
            rules.name(causes, path, item.strip(), names.cidr)
    allocate = spec.get("allocateLoadBalancerNodePorts")
    if allocate is not None and not is_balancer:
        causes.append(forbidden_field("spec.allocateLoadBalancerNodePorts", _ONLY_BALANCERS))
    if allocate is None and is_balancer:
        causes.append(required("allocateLoadBalancerNodePorts"))
    if (name := spec.get("loadBalancerClass")) is not None:
        if is_balancer:
            rules.name(causes, "spec.loadBalancerClass", name, names.qualified_name)
        else:
            causes.append(forbidden_field("spec.loadBalancerClass", _ONLY_BALANCERS))


def _needs_health(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


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
    health = spec.get("healthCheckNodePort") or 0
    if _needs_health(spec):
        rules.required_name(causes, "spec.healthCheckNodePort", health, names.port_number)
    elif health:
        text = (
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        )
        causes.append(invalid_value("spec.healthCheckNodePort", health, text))
    if internal is None and kind in ("ClusterIP", "LoadBalancer", "NodePort"):
        causes.append(required("spec.internalTrafficPolicy"))
    elif internal is not None and internal not in _POLICIES:
        causes.append(not_supported("spec.internalTrafficPolicy", internal, sorted(_POLICIES)))
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        causes.append(not_supported("spec.trafficDistribution", distribution, _DISTRIBUTIONS))


_SPECIAL: Final = (
    ("is_unspecified", "may not be unspecified ({})"),
    ("is_loopback", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
    ("is_link_local", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
    ("is_multicast", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
)
_MULTICAST: Final = (ipaddress.ip_network("224.0.0.0/24"), ipaddress.ip_network("ff02::/16"))


def non_special_ip(
    text: str, causes: Causes, path: str, allowed: frozenset[str] = frozenset()
) -> None:
    """An address that can be sent to from anywhere in the cluster. `allowed` are special ranges that are fine."""
    if reasons := names.ip(text):
        causes.extend(invalid_value(path, text, reason) for reason in reasons)
        return
    for attribute, reason in _special(text):
        if attribute not in allowed:
            causes.append(invalid_value(path, text, reason))


@lru_cache(maxsize=4096)
def _special(text: str) -> tuple[tuple[str, str], ...]:
    """The special ranges that an address lies in, and what to say of each."""
    address = ipaddress.ip_address(text)
    return tuple(
        (attribute, reason.format(text))
        for attribute, reason in _SPECIAL
        if (
            any(address in network for network in _MULTICAST)
            if attribute == "is_multicast"
            else getattr(address, attribute)
        )
    )


# --- updates ----------------------------------------------------------------------------------------


def validate_update(new: Object, old: Object, causes: Causes) -> None:
    before, after = old.get("spec") or {}, new.get("spec") or {}
    if "ExternalName" not in (before.get("type"), after.get("type")):
        _kept_addresses(after, before, causes)
    if before.get("type") == after.get("type") == "LoadBalancer":
        name = after.get("loadBalancerClass")
        if name != before.get("loadBalancerClass"):
            causes.append(invalid_value("spec.loadBalancerClass", name, _FIXED))
    if _needs_health(before) and _needs_health(after):
        if after.get("healthCheckNodePort") != before.get("healthCheckNodePort"):
            causes.append(forbidden_field("spec.healthCheckNodePort", rules.IMMUTABLE))


def _kept_addresses(after: Object, before: Object, causes: Causes) -> None:
    """The first address and family stay; a second may come, and go when the Service wants a single one."""
    was_headless, is_headless = _is_headless(before), _is_headless(after)
    single = after.get("ipFamilyPolicy") == "SingleStack"
    if not (was_headless and is_headless):
        old, new = before.get("clusterIPs") or [], after.get("clusterIPs") or []
        if old and not new:
            text = "primary clusterIP can not be unset"
            causes.append(invalid_value("spec.clusterIPs[0]", new, text))
        for index, (one, other) in enumerate(zip(new, old, strict=False)):
            if one != other and (index == 0 or len(new) == len(old)):
                causes.append(invalid_value(f"spec.clusterIPs[{index}]", new, _FIXED))
        if len(new) == 1 < len(old) and not single:
            text = "must be set to 'SingleStack' when releasing the secondary clusterIP"
            causes.append(invalid_value("spec.ipFamilyPolicy", after.get("ipFamilyPolicy"), text))
    if was_headless or is_headless:
        return
    old, new = before.get("ipFamilies") or [], after.get("ipFamilies") or []
    for index, (one, other) in enumerate(zip(new, old, strict=False)):
        if one != other and (index == 0 or len(new) == len(old)):
            causes.append(invalid_value("spec.ipFamilies[0]", new, _FIXED))
    if len(new) == 1 < len(old) and not single:
        text = "must be set to 'SingleStack' when releasing the secondary ipFamily"
        causes.append(invalid_value("spec.ipFamilyPolicy", after.get("ipFamilyPolicy"), text))


def validate_status(new: Object, old: Object, causes: Causes) -> None:
    kind = (new.get("spec") or {}).get("type")
    balancer = (new.get("status") or {}).get("loadBalancer") or {}
    ingress = balancer.get("ingress") or []
    path = "status.loadBalancer.ingress"
    if ingress and kind != "LoadBalancer":
        text = "may only be used when `spec.type` is 'LoadBalancer'"
        causes.append(forbidden_field(path, text))
        return
    for index, item in enumerate(ingress):
        where, mode, address = f"{path}[{index}]", item.get("ipMode"), item.get("ip") or ""
        if address:
            rules.name(causes, f"{where}.ip", address, names.ip)
        if mode is None and address:
            causes.append(required(f"{where}.ipMode", "must be specified when `ip` is set"))
        elif mode is not None and not address:
            text = "may not be specified when `ip` is not set"
            causes.append(forbidden_field(f"{where}.ipMode", text))
        elif mode is not None and mode not in _IP_MODES:
            causes.append(not_supported(f"{where}.ipMode", mode, _IP_MODES))
        host_name(item.get("hostname") or "", causes, f"{where}.hostname")


def host_name(name: str, causes: Causes, path: str) -> None:
    """A name in a load balancer's status, when it has one."""
    if not name:
        return
    rules.name(causes, path, name, names.dns1123_subdomain)
    if not names.ip(name):
        text = "must be a DNS name, not an IP address"
        causes.append(invalid_value(path, name, text))
