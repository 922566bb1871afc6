"""EndpointSlices and Endpoints against the real API server, and the plan of slices by itself."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.client.resources import (
    ENDPOINTS,
    ENDPOINTSLICES,
    PODS,
    SERVICEACCOUNTS,
    SERVICES,
)
from sampan.controllers.endpoints import SLICE_SIZE, plan_slices, subset

MIRRORED = "endpointslicemirroring-controller.k8s.io"


def service(name="web", **spec):
    wanted = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}], **spec}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": wanted}


async def slices_where(world, holds):
    """Wait for the slices of the test's own Service to be so; the slices."""

    def ours(items):
        found = [i for i in items if i["metadata"]["name"] != "kubernetes"]
        return [found] if holds(found) else None

    return (await world.until(ENDPOINTSLICES, ours))[0]


async def make_pod(world, name, ip="", *, ready=True, port=8080, **spec):
    def there(accounts):
        return any(account["metadata"]["name"] == "default" for account in accounts)

    await world.until(SERVICEACCOUNTS, there)
    container = {"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": port}]}
    metadata = {"name": name, "namespace": "default", "labels": {"app": "web"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    await world.client.create(PODS, {**pod, "spec": {"containers": [container], **spec}})
    if ip:
        await world.set_pod(name, ip=ip, ready=ready)


def endpoints_of(slices):
    return {e["targetRef"]["name"]: e["conditions"] for s in slices for e in s["endpoints"] or ()}


async def test_conditions_follow_the_pod(world):
    await world.client.create(SERVICES, service())
    await slices_where(world, lambda items: len(items) == 1 and not items[0]["endpoints"])
    await make_pod(world, "p", "10.1.0.1", ready=False)
    await slices_where(
        world,
        lambda items: (
            endpoints_of(items).get("p") == {"ready": False, "serving": False, "terminating": False}
        ),
    )
    unready = await world.get_until(ENDPOINTS, "web", lambda e: e.get("subsets"))
    assert unready["subsets"][0]["notReadyAddresses"][0]["ip"] == "10.1.0.1"
    await world.set_pod("p")
    (ready,) = await slices_where(
        world, lambda items: endpoints_of(items).get("p", {}).get("ready") and items
    )
    assert ready["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
    await world.client.patch(PODS, "p", {"metadata": {"finalizers": ["test/hold"]}}, "default")
    await world.client.delete(PODS, "p", "default")
    await slices_where(
        world,
        lambda items: (
            endpoints_of(items).get("p") == {"ready": False, "serving": True, "terminating": True}
        ),
    )
    await world.get_until(ENDPOINTS, "web", lambda e: not e.get("subsets"))
    await world.client.patch(PODS, "p", {"metadata": {"finalizers": None}}, "default")
    await world.client.delete(PODS, "p", "default", grace=0) if await world.pods() else None
    await slices_where(world, lambda items: not endpoints_of(items))


async def test_named_ports_make_a_slice_each(world):
    await world.client.create(SERVICES, service(clusterIP="None"))
    await make_pod(world, "one", "10.1.0.1", port=8080, hostname="one", subdomain="web")
    await make_pod(world, "two", "10.1.0.2", port=9090)
    slices = await slices_where(
        world, lambda items: len(endpoints_of(items)) == 2 and len(items) == 2 and items
    )
    assert {s["ports"][0]["port"]: s["endpoints"][0].get("hostname") for s in slices} == {
        8080: "one",
        9090: None,
    }
    assert all("service.kubernetes.io/headless" in s["metadata"]["labels"] for s in slices)


async def test_unready_ones_are_published_on_demand(world):
    await world.client.create(SERVICES, service(publishNotReadyAddresses=True))
    await make_pod(world, "p", "10.1.0.1", ready=False)
    await slices_where(world, lambda items: endpoints_of(items).get("p", {}).get("ready"))
    published = await world.get_until(ENDPOINTS, "web", lambda e: e.get("subsets"))
    assert published["subsets"][0]["addresses"][0]["ip"] == "10.1.0.1"


async def test_endpoints_made_by_hand_are_mirrored(world):
    await world.client.create(SERVICES, service(name="db", selector=None))
    made = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "db", "namespace": "default", "labels": {"team": "a"}},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}],
    }
    await world.client.create(ENDPOINTS, made)
    (mirror,) = await slices_where(world, lambda items: items)
    labels = mirror["metadata"]["labels"]
    assert labels["endpointslice.kubernetes.io/managed-by"] == MIRRORED
    assert (labels["kubernetes.io/service-name"], labels["team"]) == ("db", "a")
    assert mirror["endpoints"][0]["addresses"] == ["192.0.2.7"]
    patch = {"metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}}}
    await world.client.patch(ENDPOINTS, "db", patch, "default")
    await slices_where(world, lambda items: not items)


# The plan


def pod(index, *, ready=True, port=80):
    return {
        "metadata": {"name": f"p{index:04}", "namespace": "default", "uid": f"u{index}"},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": port}]}]},
        "status": {
            "podIP": f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}",
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


SERVICE = {**service(), "metadata": {"name": "web", "namespace": "default", "uid": "s"}}


def play(pods, present):
    """Write the plan; (slices afterwards, how many were written)."""
    writes, stale = plan_slices(SERVICE, pods, present)
    changed = sum(
        old is None or (old["endpoints"], old["ports"]) != (new["endpoints"], new["ports"])
        for old, new in writes
    )
    return [copy.deepcopy(new) for _, new in writes], changed + len(stale)


def test_more_than_a_hundred_and_no_churn():
    pods = [pod(i) for i in range(250)]
    slices, _ = play(pods, [])
    assert sorted(len(s["endpoints"]) for s in slices) == [50, 100, 100]
    pods[3] = pod(3, ready=False)
    slices, written = play(pods, slices)
    assert written == 1
    del pods[3]
    slices, written = play(pods, slices)
    assert (written, sum(len(s["endpoints"]) for s in slices)) == (1, 249)
    pods.insert(0, pod(900))
    slices, written = play(pods, slices)
    assert written == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 260), st.booleans(), st.sampled_from([80, 81])), max_size=260
        ),
        max_size=4,
    )
)
def test_slices_hold_exactly_the_pods(rounds):
    slices = []
    for chosen in rounds:
        pods = [pod(i, ready=r, port=p) for i, r, p in {c[0]: c for c in chosen}.values()]
        slices, _ = play(pods, slices)
        names = [s["metadata"]["name"] for s in slices]
        assert len(names) == len(set(names))
        assert all(len(s["endpoints"]) <= SLICE_SIZE for s in slices)
        held = sorted(
            (e["targetRef"]["uid"], e["conditions"]["ready"], s["ports"][0]["port"])
            for s in slices
            for e in s["endpoints"]
        )
        assert held == sorted(
            (
                p["metadata"]["uid"],
                p["status"]["conditions"][0]["status"] == "True",
                p["spec"]["containers"][0]["ports"][0]["containerPort"],
            )
            for p in pods
        )
        assert play(pods, slices)[1] == 0, "the same again writes nothing"


def test_addresses_of_endpoints_are_in_order():
    addresses = [{"ip": ip} for ip in ("10.0.0.10", "10.0.0.9", "10.0.0.2")]
    found = subset((), addresses, addresses[:2])
    assert [each["ip"] for each in found["addresses"]] == ["10.0.0.2", "10.0.0.9", "10.0.0.10"]
    assert [each["ip"] for each in found["notReadyAddresses"]] == ["10.0.0.9", "10.0.0.10"]
