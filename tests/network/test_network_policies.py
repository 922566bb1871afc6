"""NetworkPolicies: what the compiled table lets pass is what the API's documentation says, for any policies and pods.

The oracle reads the objects as the documentation does; the table is evaluated rule by rule, as the kernel would.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.network import nftables
from sampan.network.nftables import Table
from sampan.network.policies import Pod, directions, disjoint, plan, pod_of
from sampan.network.policytable import build_table

Object = dict[str, Any]
NAMESPACES = ("x", "y")
NAMES = ("a", "b", "c")
LABELS = {"x": {"ns": "x", "team": "red"}, "y": {"ns": "y"}}


def world() -> list[Pod]:
    """Two namespaces of three pods; `serve` is port 80 of one and 81 of the others. y/c is on another node."""
    found = []
    for number, (space, name) in enumerate((s, n) for s in NAMESPACES for n in NAMES):
        ports = {("serve", "tcp"): 80 if name == "a" else 81}
        local = (space, name) != ("y", "c")
        labels = {"pod": name, "both": "yes"} if name != "c" else {"pod": name}
        found.append(Pod(space, labels, f"10.0.{space == 'y':d}.{number + 2}", ports, local))
    return found


PODS = world()
SPACES = [{"metadata": {"name": name, "labels": labels}} for name, labels in LABELS.items()]
STRANGER = "192.0.2.9"


# --- the table, evaluated ----------------------------------------------------------------------------


def passes(table: Table | None, source: str, target: str, protocol: str, port: int) -> bool:
    """Does the first packet of a connection get through the forward hook?"""
    if table is None:
        return True
    hooked = [(int(m[1]), name) for name, c in table.chains.items()
              if (m := re.search(r"hook forward priority (-?\d+)", c.hook))]  # fmt: skip
    packet = {"saddr": source, "daddr": target, "protocol": protocol, "port": port}
    return all(run(table, name, packet) != "refuse" for _, name in sorted(hooked))


def run(table: Table, chain: str, packet: Object) -> str:
    """accept, refuse, or "" at the end of the chain."""
    for rule in table.chains[chain].rules:
        verdict = decide(table, rule, packet)
        if verdict in ("accept", "refuse"):
            return verdict
        if verdict.startswith("jump "):
            if found := run(table, verdict.removeprefix("jump "), packet):
                return found
        elif verdict.startswith("goto "):
            return run(table, verdict.removeprefix("goto "), packet)
    return ""


def decide(table: Table, rule: str, packet: Object) -> str:
    """The verdict of a rule, "" when it does not match. A form that is not known here is a mistake."""
    here = {"ip saddr": packet["saddr"], "ip daddr": packet["daddr"]}
    here["ip daddr . meta l4proto . th dport"] = (
        f"{packet['daddr']} . {packet['protocol']} . {packet['port']}"
    )
    here["ip saddr . ip daddr"] = f"{packet['saddr']} . {packet['daddr']}"
    while rule:
        rule = rule.removeprefix("ct status & dnat != dnat ")
        if m := re.match(r"ct state established,related accept$|iifname .*", rule):
            return ""  # a first packet, of IPv4
        if m := re.match(r"(ip [sd]addr) vmap @(\S+)$", rule):
            return (table.maps[m[2]].elements or {}).get(here[m[1]], "")
        if m := re.match(r"((?:ip|meta|th) [^@]*?) @(\S+) ", rule):
            found = table.maps[m[2]]
            if not contains(found.elements or {}, here[m[1]], "interval" in found.spec):
                return ""
        elif m := re.match(r"meta l4proto (\w+) ", rule):
            if m[1] != packet["protocol"]:
                return ""
        elif m := re.match(r"(tcp|udp|sctp) dport \{ ([\d, -]+) \} ", rule):
            ranges = [[int(n) for n in part.split("-")] for part in m[2].split(", ")]
            if m[1] != packet["protocol"] or not any(
                r[0] <= packet["port"] <= r[-1] for r in ranges
            ):
                return ""
        elif rule.startswith("reject with "):
            return "refuse"
        elif re.match(r"accept$|jump \S+$|goto \S+$", rule):
            return rule
        else:
            raise AssertionError(f"a rule of unknown form: {rule}")
        rule = rule[m.end() :]
    raise AssertionError("a rule without a verdict")


def contains(elements: Object, key: str, interval: bool) -> bool:
    if not interval:
        return key in elements
    return any(ipaddress.ip_address(key) in ipaddress.ip_network(each) for each in elements)


# --- the oracle --------------------------------------------------------------------------------------


def allowed(
    policies: list[Object], source: Pod | str, target: Pod | str, protocol: str, port: int
) -> bool:
    """May `source` open a connection to `target`? Isolation holds on the node of the isolated pod alone."""
    if source == target:
        return True
    return all(
        permits(policies, side, own, other, target, protocol, port)
        for side, own, other in (("egress", source, target), ("ingress", target, source))
        if isinstance(own, Pod) and own.local
    )


def permits(
    policies: list[Object], side: str, own: Pod, other: Pod | str, target: Pod | str, *way: Any
) -> bool:
    chosen = [
        p
        for p in policies
        if p["metadata"]["namespace"] == own.namespace
        and side.capitalize() in p["spec"]["policyTypes"]
        and selects(p["spec"]["podSelector"], own.labels)
    ]
    if not chosen:
        return True
    return any(
        peer_fits(p["metadata"]["namespace"], rule, side, other) and port_fits(rule, target, *way)
        for p in chosen
        for rule in p["spec"].get(side) or ()
    )


def peer_fits(namespace: str, rule: Object, side: str, other: Pod | str) -> bool:
    peers = rule.get("from" if side == "ingress" else "to")
    return not peers or any(is_peer(namespace, peer, other) for peer in peers)


def is_peer(namespace: str, peer: Object, other: Pod | str) -> bool:
    if block := peer.get("ipBlock"):
        text = other.address if isinstance(other, Pod) else other
        address = ipaddress.ip_address(text)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(e) for e in block.get("except", ())
        )
    if not isinstance(other, Pod):
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], LABELS[other.namespace]):
            return False
    elif other.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), other.labels)


def selects(selector: Object, labels: Any) -> bool:
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items())


def port_fits(rule: Object, target: Pod | str, protocol: str, port: int) -> bool:
    if not rule.get("ports"):
        return True
    for each in rule["ports"]:
        if each.get("protocol", "TCP").lower() != protocol:
            continue
        wanted = each.get("port")
        if isinstance(wanted, str):
            if isinstance(target, Pod) and target.ports.get((wanted, protocol)) == port:
                return True
        elif wanted is None or wanted <= port <= each.get("endPort", wanted):
            return True
    return False


# --- any policies ------------------------------------------------------------------------------------

selectors = st.sampled_from(
    [
        {},
        {"matchLabels": {"pod": "a"}},
        {"matchLabels": {"pod": "b"}},
        {"matchLabels": {"both": "yes"}},
    ]
)
space_selectors = st.sampled_from(
    [
        {},
        {"matchLabels": {"ns": "y"}},
        {"matchLabels": {"team": "red"}},
        {"matchLabels": {"no": "one"}},
    ]
)
blocks = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0"},
        {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]},
        {"cidr": "10.0.0.0/24", "except": ["10.0.0.2/32", "10.0.0.4/31"]},
        {"cidr": "192.0.2.0/24"},
        {"cidr": "10.0.0.3/32", "except": ["10.0.0.3/32"]},
    ]
)
peers = st.one_of(
    st.fixed_dictionaries({"podSelector": selectors}),
    st.fixed_dictionaries({"namespaceSelector": space_selectors}),
    st.fixed_dictionaries({"namespaceSelector": space_selectors, "podSelector": selectors}),
    st.fixed_dictionaries({"ipBlock": blocks}),
)
ports = st.sampled_from(
    [
        {"port": 80},
        {"port": 80, "endPort": 81},
        {"port": 81, "protocol": "UDP"},
        {"protocol": "UDP"},
        {"port": "serve"},
        {"port": "nobody"},
        {"port": 82, "protocol": "TCP"},
    ]
)


def rules(side: str) -> Any:
    peer = "from" if side == "ingress" else "to"
    return st.lists(
        st.fixed_dictionaries(
            {}, optional={peer: st.lists(peers, max_size=2), "ports": st.lists(ports, max_size=3)}
        ),
        max_size=2,
    )


@st.composite
def policies(draw: Any) -> list[Object]:
    return [
        {
            "metadata": {"name": f"p{number}", "namespace": draw(st.sampled_from(NAMESPACES))},
            "spec": {
                "podSelector": draw(selectors),
                "policyTypes": draw(st.sampled_from([["Ingress"], ["Egress"], ["Ingress", "Egress"]])),
                "ingress": draw(rules("ingress")),
                "egress": draw(rules("egress")),
            },
        }
        for number in range(draw(st.integers(0, 4)))
    ]  # fmt: skip


@settings(max_examples=70, deadline=None)
@given(policies())
def test_the_table_says_what_the_policies_say(found: list[Object]) -> None:
    table = build_table("inet t", plan(found, PODS, SPACES), "br0")
    everyone: list[Pod | str] = [*PODS, STRANGER]
    for source in everyone:
        for target in everyone:
            for protocol, port in (("tcp", 80), ("tcp", 81), ("tcp", 82), ("udp", 81)):
                a, b = (e.address if isinstance(e, Pod) else e for e in (source, target))
                assert passes(table, a, b, protocol, port) == allowed(
                    found, source, target, protocol, port
                ), (a, b, protocol, port)


@settings(max_examples=60, deadline=None)
@given(policies(), policies(), st.sets(st.sampled_from(range(len(PODS)))))
def test_a_transition_ends_at_the_new_table(
    before: list[Object], after: list[Object], gone: set[int]
) -> None:
    """Applied to the old table as text, the script gives the new one."""
    old = build_table("inet t", plan(before, PODS, SPACES), "br0")
    left = [pod for index, pod in enumerate(PODS) if index not in gone]
    new = build_table("inet t", plan(after, left, SPACES), "br0")
    chains = {name: list(chain.rules) for name, chain in old.chains.items()}
    maps = {name: dict(entry.elements or {}) for name, entry in old.maps.items()}
    for line in nftables.transition(old, new).splitlines():
        verb, what, _family, _table, name, *rest = line.split(" ", 5)
        if what in ("set", "map") and verb == "add":
            maps[name] = {}
        elif what in ("set", "map"):
            assert not any(f"@{name} " in rule for each in chains.values() for rule in each)
            del maps[name]
        elif what == "element":
            for part in rest[0].strip("{} ").split(", "):
                key, _, value = part.partition(" : ")
                if verb == "add":
                    assert key not in maps[name]
                    maps[name][key] = value
                else:
                    del maps[name][key]
        elif (what == "chain" and verb == "add") or (what == "chain" and verb == "flush"):
            chains[name] = []
        elif what == "chain":
            assert not any(r.endswith(f" {name}") for each in chains.values() for r in each)
            del chains[name]
        else:
            chains[name].append(rest[0])
    assert {name: tuple(each) for name, each in chains.items()} == {
        name: chain.rules for name, chain in new.chains.items()
    }
    assert maps == {name: entry.elements for name, entry in new.maps.items()}


def test_one_pod_more_changes_elements_only() -> None:
    policy = {
        "metadata": {"name": "p", "namespace": "x"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]},
    }
    one, two = (build_table("inet t", plan([policy], PODS[:n], SPACES), "br0") for n in (1, 2))
    lines = nftables.transition(one, two).splitlines()
    assert lines and all(line.startswith("add element ") for line in lines)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ("ingress",)),
        ({"ingress": []}, ("ingress",)),
        ({"egress": []}, ("ingress",)),
        ({"egress": [{}]}, ("ingress", "egress")),
        ({"policyTypes": ["Egress"]}, ("egress",)),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, ("egress",)),
    ],
)
def test_which_directions_a_policy_is_about(spec: Object, expected: tuple[str, ...]) -> None:
    assert directions(spec) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([{"cidr": "10.0.0.0/30", "except": ["10.0.0.1/32"]}], ("10.0.0.0/32", "10.0.0.2/31")),
        ([{"cidr": "10.0.0.0/31"}, {"cidr": "10.0.0.0/24"}], ("10.0.0.0/24",)),
        ([{"cidr": "10.0.0.0/24", "except": ["10.0.0.0/8"]}], ()),
        ([{"cidr": "fd00::/8"}, {"cidr": "10.0.0.5/24"}], ("10.0.0.0/24",)),
        # what one rule leaves out another one may name
        ([{"cidr": "10.0.0.0/31", "except": ["10.0.0.1/32"]}, {"cidr": "10.0.0.1/32"}], ("10.0.0.0/31",)),
    ],
)  # fmt: skip
def test_blocks_do_not_overlap(found: list[Object], expected: tuple[str, ...]) -> None:
    assert disjoint(found) == expected


def test_pods_that_no_policy_sees() -> None:
    def pod(phase: str = "Running", **spec: Any) -> Object:
        return {
            "metadata": {"namespace": "x"},
            "spec": {"nodeName": "n", "containers": [], **spec},
            "status": {"podIP": "10.0.0.2", "phase": phase},
        }

    assert pod_of(pod()) is not None and pod_of(pod(), "n", "10.0.0.9").address == "10.0.0.9"  # type: ignore[union-attr]
    assert pod_of(pod(hostNetwork=True)) is None
    assert pod_of(pod("Succeeded")) is None and pod_of(pod("Failed"), "n", "10.0.0.2") is None
    assert pod_of({**pod(), "status": {}}) is None
    assert pod_of(pod(), "elsewhere").local is False  # type: ignore[union-attr]
