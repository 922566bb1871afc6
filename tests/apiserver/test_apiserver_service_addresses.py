"""Cluster addresses and node ports: records in the store, so that several servers never give one number twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from apiserver_harness import Harness, open_server
from apiserver_harness import api as api

from sampan.apiserver.config import ServerConfig
from sampan.apiserver.server import APIServer
from sampan.apiserver.strategies import claims, repair
from sampan.apiserver.strategies.claims import band, free

SERVICES = "/api/v1/namespaces/default/services"
ADDRESSES = "/apis/networking.k8s.io/v1/ipaddresses"
CIDRS = "/apis/networking.k8s.io/v1/servicecidrs"


def service(name: str, ports: Any = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": ports or [{"port": 80}], **spec}}


async def held(api: Harness) -> set[str]:
    page = await api.store.range("/registry/ranges/nodeports/")
    listed = await api.call("GET", ADDRESSES)
    names = {each["metadata"]["name"] for each in listed["items"]} - {"10.43.0.1"}
    return names | {record.key.rpartition("/")[2] for record in page.records}


async def test_an_address_is_an_object(api: Harness) -> None:
    made = await api.call("POST", SERVICES, service("a"))
    address = made["spec"]["clusterIP"]
    record = await api.call("GET", f"{ADDRESSES}/{address}")
    assert record["spec"]["parentRef"] == {
        "group": "",
        "resource": "services",
        "namespace": "default",
        "name": "a",
    }
    assert record["metadata"]["labels"] == {
        "ipaddress.kubernetes.io/ip-family": "IPv4",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
    }
    assert (await api.call("GET", f"{ADDRESSES}/10.43.0.1"))["spec"]["parentRef"][
        "name"
    ] == "kubernetes"
    await api.call("DELETE", f"{SERVICES}/a")
    await api.call("GET", f"{ADDRESSES}/{address}", status=404)


async def test_what_fails_or_changes_gives_back(api: Harness) -> None:
    assert await held(api) == set()
    await api.call("POST", SERVICES, service("a", [{"port": 0}], type="NodePort"), 422)
    await api.call("POST", f"{SERVICES}?dryRun=All", service("a", type="NodePort"))
    await api.call("POST", SERVICES, service("a", type="NodePort", clusterIP="10.43.0.1"), 422)
    assert await held(api) == set()
    made = await api.call("POST", SERVICES, service("a", type="NodePort"))
    port = made["spec"]["ports"][0]["nodePort"]
    assert await held(api) == {made["spec"]["clusterIP"], str(port)}
    await api.call("POST", SERVICES, service("a"), 409)
    assert await held(api) == {made["spec"]["clusterIP"], str(port)}
    plain = await api.patch("merge", f"{SERVICES}/a", {"spec": {"type": "ClusterIP"}})
    assert "nodePort" not in plain["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in plain["spec"]
    assert await held(api) == {made["spec"]["clusterIP"]}
    away = {"spec": {"type": "ExternalName", "externalName": "x.org"}}
    named = await api.patch("merge", f"{SERVICES}/a", away)
    assert "clusterIP" not in named["spec"] and await held(api) == set()
    back = await api.patch("merge", f"{SERVICES}/a", {"spec": {"type": "ClusterIP"}})
    assert await held(api) == {back["spec"]["clusterIP"]}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"clusterIP": "192.168.1.1"},
            'spec.clusterIPs: Invalid value: ["192.168.1.1"]: failed to allocate IP 192.168.1.1: '
            "the provided network does not match the current range",
        ),
        (
            {"clusterIP": "10.43.0.0"},
            "the provided IP (10.43.0.0) is not in the valid range. The range of valid IPs is 10.43.0.0/16",
        ),
        ({"clusterIP": "fd00::1"}, "IPv6 is not configured on this cluster"),
        (
            {"ipFamilies": ["IPv6"]},
            'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
        ),
        (
            {"ipFamilyPolicy": "RequireDualStack"},
            "this cluster is not configured for dual-stack services",
        ),
        (
            {"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]},
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. "
            "The range of valid ports is 30000-32767",
        ),
    ],
)  # fmt: skip
async def test_refusals(api: Harness, spec: dict[str, Any], message: str) -> None:
    refused = await api.call("POST", SERVICES, service("a", **spec), 422)
    assert message in refused["message"]


async def test_families_of_headless_services(api: Harness) -> None:
    free = await api.call("POST", SERVICES, service("a", clusterIP="None"))
    assert free["spec"]["ipFamilyPolicy"] == "RequireDualStack"
    assert free["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    bound = await api.call("POST", SERVICES, service("b", clusterIP="None", selector={"a": "b"}))
    assert bound["spec"]["ipFamilyPolicy"] == "SingleStack"
    assert bound["spec"]["ipFamilies"] == ["IPv4"] and bound["spec"]["clusterIPs"] == ["None"]
    for name, asked in (("b", "10.43.0.77"), ("b", "8.8.8.8")):  # said of a range or not
        changed = {"spec": {"clusterIP": asked, "clusterIPs": [asked]}}
        refused = await api.patch("merge", f"{SERVICES}/{name}", changed, 422)
        assert refused["message"].endswith("may not change once set")
    prefers = await api.call("POST", SERVICES, service("c", ipFamilyPolicy="PreferDualStack"))
    assert prefers["spec"]["ipFamilies"] == ["IPv4"]


async def test_one_node_port_for_two_protocols(api: Harness) -> None:
    ports = [{"name": p.lower(), "port": 53, "protocol": p} for p in ("TCP", "UDP")]
    made = await api.call("POST", SERVICES, service("dns", ports, type="NodePort"))
    one, other = (port["nodePort"] for port in made["spec"]["ports"])
    assert one == other
    taken = [{"port": 53, "protocol": "SCTP", "nodePort": one}]
    refused = await api.call("POST", SERVICES, service("b", taken, type="NodePort"), 422)
    assert "provided port is already allocated" in refused["message"]


async def test_health_port_of_a_local_balancer(api: Harness) -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    made = await api.call("POST", SERVICES, service("a", **spec))
    port = made["spec"]["healthCheckNodePort"]
    assert str(port) in await held(api)
    changed = await api.patch(
        "merge", f"{SERVICES}/a", {"spec": {"externalTrafficPolicy": "Cluster"}}
    )
    assert "healthCheckNodePort" not in changed["spec"] and str(port) not in await held(api)


async def test_a_further_range(api: Harness) -> None:
    cidr = {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/28"]}}
    await api.call("POST", CIDRS, cidr)
    await api.call("POST", SERVICES, service("a", clusterIP="10.99.0.5"))
    not_ready = {"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x",
                 "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}  # fmt: skip
    await api.patch("merge", f"{CIDRS}/more/status", not_ready)
    refused = await api.call("POST", SERVICES, service("b", clusterIP="10.99.0.6"), 422)
    assert "does not match the current range" in refused["message"]


async def test_two_servers_on_one_store_never_give_a_number_twice(tmp_path: Path) -> None:
    one = await open_server(tmp_path, service_cidr="10.43.0.0/27", node_ports=(30000, 30039))
    await one.server.start(serve=False)
    config = ServerConfig(
        tmp_path / "pki", tmp_path / "k", port=0, authorization=False,
        service_cidr="10.43.0.0/27", node_ports=(30000, 30039),
    )  # fmt: skip
    other = Harness(APIServer(one.store, config), one.store)
    await other.server.start(serve=False)
    wanted = [
        (one if index % 2 else other).call("POST", SERVICES, service(f"s{index}", type="NodePort"))
        for index in range(29)  # all that the range has, but for the server's own
    ]
    made = await asyncio.gather(*wanted)
    assert len({each["spec"]["clusterIP"] for each in made}) == 29
    assert len({each["spec"]["ports"][0]["nodePort"] for each in made}) == 29
    full = await other.call("POST", SERVICES, service("more"), 500)
    assert full["message"].endswith("failed to allocate a serviceIP: range is full")
    for server in (other.server, one.server):
        await server.close()
    await one.store.close()


async def test_repair(api: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await api.call("POST", SERVICES, service("a", type="NodePort"))
    address, port = made["spec"]["clusterIP"], str(made["spec"]["ports"][0]["nodePort"])
    for key in (f"networking.k8s.io/ipaddresses/{address}", f"ranges/nodeports/{port}"):
        await api.store.delete(f"/registry/{key}", expect=None)
    orphan = claims.address_record("10.43.7.7", claims.Owner("default", "gone"))
    key = "/registry/networking.k8s.io/ipaddresses/10.43.7.7"
    await api.store.put(key, orjson.dumps(orphan), expect=0)
    await repair.repair(api.server.registry)
    assert await held(api) == {address, port, "10.43.7.7"}  # too young to be called abandoned
    monkeypatch.setattr(repair, "YOUNG", -1.0)
    await repair.repair(api.server.registry)
    assert await held(api) == {address, port}


async def test_a_record_left_by_a_server_that_died_is_taken_over(api: Harness) -> None:
    left = claims.address_record("10.43.7.7", claims.Owner("default", "a"))
    key = "/registry/networking.k8s.io/ipaddresses/10.43.7.7"
    await api.store.put(key, orjson.dumps(left), expect=0)
    await api.call("POST", SERVICES, service("b", clusterIP="10.43.7.7"), 422)
    await api.call("POST", SERVICES, service("a", clusterIP="10.43.7.7"), 201)


@pytest.mark.parametrize(
    ("size", "step", "most", "static"),
    [(16, 16, 256, 0), (17, 16, 256, 16), (256, 16, 256, 16), (1024, 16, 256, 64),
     (65536, 16, 256, 256), (2768, 32, 128, 86), (65536, 32, 128, 128)],
)  # fmt: skip
def test_the_static_part(size: int, step: int, most: int, static: int) -> None:
    """KEP-3070's and KEP-3668's own examples."""
    assert band(1, size, size, step=step, most=most).dynamic == 1 + static


def test_the_static_part_is_used_last() -> None:
    within = band(1, 64, 64, step=16, most=256)
    order = list(dict.fromkeys(free(lambda number: False, within)))
    assert set(order[-16:]) == set(range(1, 17)) and len(order) == 64
