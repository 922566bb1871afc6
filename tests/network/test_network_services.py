"""Planning of services, and the nftables transaction: pure."""

from __future__ import annotations

from typing import Any

from sampan.network.nft import build_table
from sampan.network.nftables import Chain, Map, Table, transition
from sampan.network.services import Endpoint, plan


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    ports = spec.pop("ports", [{"port": 80, "targetPort": 8080}])
    return {
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": "10.43.0.5", "ports": ports, **spec},
    }


def endpoints(*entries: Any, name: str = "web", port: str = "", number: int = 8080) -> dict:
    """An entry is an address, or (address, conditions, node)."""
    found = []
    for entry in entries:
        address, conditions, node = entry if isinstance(entry, tuple) else (entry, {}, "")
        found.append({"addresses": [address], "conditions": conditions, "nodeName": node})
    return {
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": port, "port": number, "protocol": "TCP"}],
        "endpoints": found,
    }


def test_plain_service() -> None:
    (rule,) = plan([service()], [endpoints("10.42.0.3", "10.42.0.2")])
    assert (rule.service, rule.protocol, rule.port) == ("default/web", "tcp", 80)
    assert rule.cluster_ips == ("10.43.0.5",)
    assert rule.internal == (Endpoint("10.42.0.2", 8080), Endpoint("10.42.0.3", 8080))
    assert rule.affinity == 0 and rule.node_port == 0


def test_headless_and_external_names_have_no_rules() -> None:
    services = [
        service(clusterIP="None"),
        service(type="ExternalName", externalName="example.org"),
        service(clusterIP=""),
    ]
    assert plan(services, [endpoints("10.42.0.2")]) == []


def test_ports_are_matched_by_name_and_protocol() -> None:
    ports = [
        {"name": "http", "port": 80},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]
    http = endpoints("10.42.0.2", port="http")
    dns = endpoints("10.42.0.2", port="dns", number=5353)
    dns["ports"][0]["protocol"] = "UDP"
    rules = plan([service(ports=ports)], [http, dns])
    assert {rule.key: rule.internal for rule in rules} == {
        "default/web/tcp/80": (Endpoint("10.42.0.2", 8080),),
        "default/web/udp/53": (Endpoint("10.42.0.2", 5353),),
    }


def test_unready_endpoints_are_left_out() -> None:
    (rule,) = plan([service()], [endpoints("10.42.0.2", ("10.42.0.3", {"ready": False}, ""))])
    assert rule.internal == (Endpoint("10.42.0.2", 8080),)


def test_serving_and_terminating_is_the_last_resort() -> None:
    leaving = ("10.42.0.3", {"ready": False, "serving": True, "terminating": True}, "")
    broken = ("10.42.0.4", {"ready": False, "serving": False, "terminating": True}, "")
    (rule,) = plan([service()], [endpoints(leaving, broken)])
    assert rule.internal == (Endpoint("10.42.0.3", 8080),)
    (rule,) = plan([service()], [endpoints(leaving, broken, "10.42.0.2")])
    assert rule.internal == (Endpoint("10.42.0.2", 8080),)


def test_local_policies_narrow_to_the_node() -> None:
    slices = [endpoints(("10.42.0.2", {}, "here"), ("10.42.1.2", {}, "there"))]
    here, every = (
        (Endpoint("10.42.0.2", 8080),),
        (Endpoint("10.42.0.2", 8080), Endpoint("10.42.1.2", 8080)),
    )
    (rule,) = plan([service(externalTrafficPolicy="Local")], slices, "here")
    assert (rule.internal, rule.external, rule.external_local) == (every, here, True)
    (rule,) = plan([service(internalTrafficPolicy="Local")], slices, "here")
    assert (rule.internal, rule.external) == (here, every)
    (rule,) = plan([service(internalTrafficPolicy="Local")], slices, "third")
    assert (rule.internal, rule.everywhere) == ((), every)


def test_affinity_timeout() -> None:
    config = {"clientIP": {"timeoutSeconds": 7}}
    (rule,) = plan([service(sessionAffinity="ClientIP", sessionAffinityConfig=config)], [])
    assert rule.affinity == 7
    (rule,) = plan([service(sessionAffinity="ClientIP")], [])
    assert rule.affinity == 10800


def test_table_refuses_a_service_without_endpoints() -> None:
    rules = plan([service(ports=[{"port": 80, "nodePort": 30080}])], [])
    table = build_table("inet t", rules, "10.42.0.0/16")
    assert table.maps["refused-ips"].elements == {"10.43.0.5 . tcp . 80": "goto refuse"}
    assert table.maps["refused-ports"].elements == {"tcp . 30080": "goto refuse"}
    assert not table.maps["service-ips"].elements


def test_table_drops_where_a_local_policy_finds_nobody() -> None:
    rules = plan(
        [service(internalTrafficPolicy="Local")], [endpoints(("10.42.1.2", {}, "there"))], "here"
    )
    table = build_table("inet t", rules, "10.42.0.0/16")
    assert table.maps["refused-ips"].elements == {"10.43.0.5 . tcp . 80": "drop"}


def test_no_change_is_no_script() -> None:
    rules = plan([service()], [endpoints("10.42.0.2")])
    table = build_table("inet t", rules, "10.42.0.0/16")
    assert transition(table, build_table("inet t", rules, "10.42.0.0/16")) == ""


def test_one_endpoint_more_touches_one_chain_among_many() -> None:
    def table(*addresses: str) -> Table:
        services = [service(f"s{i}", clusterIP=f"10.43.1.{i}") for i in range(1, 100)]
        slices = [endpoints("10.42.0.9", name=f"s{i}") for i in range(1, 99)]
        slices.append(endpoints(*addresses, name="s99"))
        return build_table("inet t", plan(services, slices), "10.42.0.0/16")

    script = transition(table("10.42.0.2"), table("10.42.0.2", "10.42.0.3"))
    lines = script.splitlines()
    assert len(lines) == 3  # flush the chain, its new rule, the hairpin element
    assert lines[0].startswith("flush chain inet t s-")
    assert "10.42.0.3 . 8080" in lines[1]


def test_what_is_referred_to_is_made_first_and_deleted_last() -> None:
    verdicts = "type ipv4_addr : verdict;"
    empty = Table("inet t", {"m": Map("map", verdicts, {})}, {})
    full = Table(
        "inet t", {"m": Map("map", verdicts, {"1.2.3.4": "goto c"})}, {"c": Chain(("accept",))}
    )
    forth, back = transition(empty, full).splitlines(), transition(full, empty).splitlines()
    assert forth.index("add chain inet t c") < forth.index(
        "add element inet t m { 1.2.3.4 : goto c }"
    )
    assert back.index("delete element inet t m { 1.2.3.4 }") < back.index("delete chain inet t c")
