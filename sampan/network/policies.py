"""What NetworkPolicies mean on one node: pure planning from policies, pods and namespaces to who may reach whom.

A pod that a policy selects for a direction is isolated in it: only what some rule of some policy grants passes. Everything
else stays open. Answers follow their question (conntrack), a pod reaches itself, and what the node itself sends always
arrives; those three are the table's business (policytable.py), not this plan's.

Policies speak of pods, packets have addresses: a pod without an address yet, one that has ended, and one on its node's own
network are nobody here. Addresses are IPv4, as pods' are.
https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.kube import objects
from sampan.kube.selectors import LabelSelector, from_object
from sampan.network.services import is_ipv4

INGRESS, EGRESS = "ingress", "egress"
LAST_PORT = 65535
Object = dict[str, Any]
NamedPort = tuple[str, str]  # name, protocol


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    labels: Mapping[str, str]
    address: str
    ports: Mapping[NamedPort, int] = field(default_factory=dict)
    local: bool = True  # on this node


@dataclass(frozen=True, slots=True, order=True)
class Ports:
    """Ports `first` to `last` of one protocol."""

    protocol: str  # tcp | udp | sctp
    first: int = 0
    last: int = LAST_PORT


@dataclass(frozen=True, slots=True, order=True)
class Destination:
    """A named port of one pod."""

    address: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Grant:
    """One rule of one policy: these peers, at these ports.

    `named` are the destinations that named ports lead to: of the selected pods for ingress, of the peers for egress.
    """

    everyone: bool
    peers: frozenset[str] = frozenset()  # addresses of pods
    blocks: tuple[str, ...] = ()  # disjoint CIDRs
    every_port: bool = True
    ports: tuple[Ports, ...] = ()  # disjoint
    names_ports: bool = False
    named: frozenset[Destination] = frozenset()


@dataclass(slots=True)
class Plan:
    """By direction: the policies that isolate an address, and what each policy grants."""

    isolated: dict[str, dict[str, tuple[str, ...]]] = field(
        default_factory=lambda: {INGRESS: {}, EGRESS: {}}
    )
    grants: dict[str, dict[str, tuple[Grant, ...]]] = field(
        default_factory=lambda: {INGRESS: {}, EGRESS: {}}
    )


def pod_of(obj: Object, node: str = "", address: str = "") -> Pod | None:
    """None for a pod that no policy sees. `address` is what the runtime gave it, if the API does not know yet."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    found = address or status.get("podIP") or ""
    if spec.get("hostNetwork") or objects.pod_finished(obj) or not is_ipv4(found):
        return None
    ports = {
        (port["name"], (port.get("protocol") or "TCP").lower()): int(port["containerPort"])
        for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
        for port in container.get("ports") or ()
        if port.get("name")
    }
    local = not node or spec.get("nodeName") == node
    return Pod(objects.namespace(obj), objects.labels(obj), found, ports, local)


class _Cluster:
    """The pods, by what policies select them by."""

    def __init__(self, pods: Iterable[Pod], namespaces: Iterable[Object]) -> None:
        self.pods = list(pods)
        self.in_namespace: dict[str, list[Pod]] = {}
        for pod in self.pods:
            self.in_namespace.setdefault(pod.namespace, []).append(pod)
        self.namespaces = {objects.name(each): objects.labels(each) for each in namespaces}

    def select(self, namespace: str, selector: LabelSelector) -> list[Pod]:
        return [pod for pod in self.in_namespace.get(namespace, ()) if selector.matches(pod.labels)]

    def peers(self, namespace: str, peer: Object) -> list[Pod]:
        """The pods of a peer of a policy in `namespace`; none for an ipBlock."""
        among, pods = peer.get("namespaceSelector"), peer.get("podSelector")
        if among is None and pods is None:
            return []
        selector = from_object(pods if pods is not None else {})
        if among is None:
            return self.select(namespace, selector)
        wanted = from_object(among)
        return [
            pod
            for name, labels in self.namespaces.items()
            if wanted.matches(labels)
            for pod in self.select(name, selector)
        ]


def directions(spec: Object) -> tuple[str, ...]:
    """policyTypes, or what their absence means: ingress always, egress when there are rules for it."""
    types = spec.get("policyTypes")
    if not types:
        types = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    return tuple(each for each in (INGRESS, EGRESS) if each.capitalize() in types)


def plan(policies: Iterable[Object], pods: Iterable[Pod], namespaces: Iterable[Object]) -> Plan:
    """The same for the same objects, whatever their order."""
    cluster = _Cluster(pods, namespaces)
    made = Plan()
    isolated: dict[str, dict[str, list[str]]] = {INGRESS: {}, EGRESS: {}}
    for policy in policies:
        spec, namespace = policy.get("spec") or {}, objects.namespace(policy)
        selected = cluster.select(namespace, from_object(spec.get("podSelector") or {}))
        here = sorted(pod.address for pod in selected if pod.local)
        if not here:
            continue
        key = f"{namespace}/{objects.name(policy)}"
        for direction in directions(spec):
            for address in here:
                isolated[direction].setdefault(address, []).append(key)
            made.grants[direction][key] = tuple(
                _grant(rule, direction, namespace, selected, cluster)
                for rule in spec.get(direction) or ()
            )
    for direction, found in isolated.items():
        made.isolated[direction] = {a: tuple(sorted(keys)) for a, keys in sorted(found.items())}
    return made


def _grant(
    rule: Object, direction: str, namespace: str, selected: list[Pod], cluster: _Cluster
) -> Grant:
    peers = rule.get("from" if direction == INGRESS else "to") or ()
    ports = rule.get("ports") or ()
    everyone = not peers
    pods = [pod for peer in peers for pod in cluster.peers(namespace, peer)]
    blocks = disjoint(peer["ipBlock"] for peer in peers if peer.get("ipBlock"))
    names = {(port["port"], _protocol(port)) for port in ports if isinstance(port.get("port"), str)}
    named: frozenset[Destination] = frozenset()
    if names and direction == INGRESS:
        named = _destinations((pod for pod in selected if pod.local), names)
    elif names:
        inside = [ipaddress.IPv4Network(block) for block in blocks]
        known = {pod.address for pod in pods}
        named = _destinations(
            (
                pod
                for pod in cluster.pods
                if everyone
                or pod.address in known
                or any(ipaddress.IPv4Address(pod.address) in block for block in inside)
            ),
            names,
        )
    return Grant(
        everyone,
        frozenset(pod.address for pod in pods),
        blocks,
        not ports,
        _merged(port for port in ports if not isinstance(port.get("port"), str)),
        bool(names),
        named,
    )


def _destinations(pods: Iterable[Pod], names: set[NamedPort]) -> frozenset[Destination]:
    return frozenset(
        Destination(pod.address, name[1], pod.ports[name])
        for pod in pods
        for name in names
        if name in pod.ports
    )


def _protocol(port: Object) -> str:
    return str(port.get("protocol") or "TCP").lower()


def _merged(ports: Iterable[Object]) -> tuple[Ports, ...]:
    """Ranges in order, those that touch or overlap made one: a set in the kernel takes no overlaps."""
    found: list[Ports] = []
    for each in sorted(_range(port) for port in ports):
        last = found[-1] if found else None
        if last and last.protocol == each.protocol and each.first <= last.last + 1:
            found[-1] = Ports(last.protocol, last.first, max(last.last, each.last))
        else:
            found.append(each)
    return tuple(found)


def _range(port: Object) -> Ports:
    number = port.get("port")
    if number is None:
        return Ports(_protocol(port))
    return Ports(_protocol(port), int(number), int(port.get("endPort") or number))


def disjoint(blocks: Iterable[Object]) -> tuple[str, ...]:
    """The addresses of these ipBlocks as CIDRs that do not overlap. IPv6 is left out."""
    found: list[ipaddress.IPv4Network] = []
    for block in blocks:
        whole = ipaddress.ip_network(block["cidr"], strict=False)
        if not isinstance(whole, ipaddress.IPv4Network):
            continue
        parts = [whole]
        for text in block.get("except") or ():
            hole = ipaddress.ip_network(text, strict=False)
            if isinstance(hole, ipaddress.IPv4Network):
                parts = [rest for part in parts for rest in _without(part, hole)]
        found += parts
    return tuple(str(each) for each in ipaddress.collapse_addresses(found))


def _without(
    part: ipaddress.IPv4Network, hole: ipaddress.IPv4Network
) -> Iterable[ipaddress.IPv4Network]:
    if not part.overlaps(hole):
        return (part,)
    if part.subnet_of(hole):
        return ()
    return part.address_exclude(hole)
