"""Scheduling through the real API server: bindings, waiting and its words, preemption, gates, volumes."""

from __future__ import annotations

from sampan.client.resources import (
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODDISRUPTIONBUDGETS,
    PODS,
    PRIORITYCLASSES,
    RUNTIMECLASSES,
)


async def priorities(cluster, **values):
    for name, value in values.items():
        policy = {"preemptionPolicy": "Never"} if name == "polite" else {}
        made = {"metadata": {"name": name}, "value": value, **policy}
        await cluster.client.create(PRIORITYCLASSES, made)


async def test_a_pod_is_bound_and_told(cluster):
    await cluster.node("a")
    await cluster.pod("p")
    assert await cluster.bound("p") == "a"
    assert await cluster.events("p") == ["Scheduled: Successfully assigned default/p to a"]


async def test_a_pod_waits_and_says_why(cluster):
    await cluster.node("small", cpu="50m")
    taint = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
    await cluster.node("tainted-1", taints=[taint])
    await cluster.node("tainted-2", taints=[taint])
    await cluster.pod("p")
    message = await cluster.waits("p")
    assert message == (
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {gpu: yes}. "
        "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, "
        "2 Preemption is not helpful for scheduling."
    )
    assert await cluster.events("p") == [f"FailedScheduling: {message}"]
    await cluster.node("b")
    assert await cluster.bound("p") == "b"


async def test_no_nodes(cluster):
    await cluster.pod("p")
    assert await cluster.waits("p") == "no nodes available to schedule pods"


async def test_freed_room_is_taken(cluster):
    await cluster.node("a", cpu="1")
    await cluster.pod("first", cpu="800m")
    await cluster.bound("first")
    await cluster.pod("second", cpu="800m")
    await cluster.waits("second", "Insufficient cpu")
    await cluster.client.delete(PODS, "first", "default", grace=0)
    assert await cluster.bound("second") == "a"


async def test_a_gate_holds(cluster):
    await cluster.node("a")
    await cluster.pod("p", schedulingGates=[{"name": "example.com/wait"}])
    message = await cluster.waits("p")
    assert message == "Scheduling is blocked due to non-empty scheduling gates"
    await cluster.client.patch(PODS, "p", {"spec": {"schedulingGates": []}}, "default")
    assert await cluster.bound("p") == "a"


async def test_runtime_class_chooses_nodes(cluster):
    await cluster.node("a")
    await cluster.node("b", wasm="yes")
    runtime = {
        "metadata": {"name": "wasm"},
        "handler": "wasm",
        "scheduling": {"nodeSelector": {"wasm": "yes"}},
    }
    await cluster.client.create(RUNTIMECLASSES, runtime)
    await cluster.pod("p", runtimeClassName="wasm")
    assert await cluster.bound("p") == "b"


async def test_preemption_takes_the_least(cluster):
    await priorities(cluster, low=10, middle=100, high=1000)
    await cluster.node("a", cpu="1")
    await cluster.node("b", cpu="1")
    await cluster.pod("on-a", cpu="900m", priorityClassName="middle")
    await cluster.bound("on-a")
    await cluster.pod("on-b", cpu="900m", priorityClassName="low")
    await cluster.bound("on-b")
    lower = (await cluster.where("on-b"))["spec"]["nodeName"]
    await cluster.client.patch(PODS, "on-b", {"metadata": {"finalizers": ["test/hold"]}}, "default")
    await cluster.pod("vip", cpu="900m", priorityClassName="high")
    victim = await cluster.where("on-b", lambda p: "deletionTimestamp" in p["metadata"])
    target = next(c for c in victim["status"]["conditions"] if c["type"] == "DisruptionTarget")
    assert target["reason"] == "PreemptionByScheduler"
    vip = await cluster.where("vip", lambda p: (p.get("status") or {}).get("nominatedNodeName"))
    assert vip["status"]["nominatedNodeName"] == lower
    await cluster.pod("sneaky", cpu="900m", priorityClassName="middle")
    await cluster.waits("sneaky", "Insufficient cpu")
    await cluster.client.patch(PODS, "on-b", {"metadata": {"finalizers": None}}, "default")
    assert await cluster.bound("vip") == lower
    said = await cluster.events("on-b")
    assert f"Preempted: Preempted by pod {vip['metadata']['uid']} on node {lower}" in said


async def test_preemption_spares_what_a_budget_protects(cluster):
    await priorities(cluster, low=10, high=1000)
    for name in ("a", "b"):
        await cluster.node(name, cpu="1")
        await cluster.pod(
            f"on-{name}",
            cpu="900m",
            priorityClassName="low",
            labels={"on": name},
            nodeSelector={"kubernetes.io/hostname": name},
        )
        await cluster.bound(f"on-{name}")
    budget = {
        "metadata": {"name": "keep"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"on": "a"}}},
    }
    await cluster.client.create(PODDISRUPTIONBUDGETS, budget, "default")
    await cluster.pod("vip", cpu="900m", priorityClassName="high")
    assert await cluster.bound("vip") == "b"
    left = {p["metadata"]["name"] for p in (await cluster.client.list(PODS, "default")).items}
    assert left == {"on-a", "vip"}


async def test_the_polite_do_not_preempt(cluster):
    await priorities(cluster, low=10, polite=1000)
    await cluster.node("a", cpu="1")
    await cluster.pod("p", cpu="900m", priorityClassName="low")
    await cluster.bound("p")
    await cluster.pod("q", cpu="900m", priorityClassName="polite")
    assert await cluster.waits("q") == (
        "0/1 nodes are available: 1 Insufficient cpu. "
        "preemption: not eligible due to preemptionPolicy=Never."
    )


async def test_a_volume_decides(cluster):
    await cluster.node("a")
    await cluster.node("b", disk="here")
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    await cluster.pod("p", volumes=volumes)
    assert (await cluster.waits("p")).startswith(
        '0/2 nodes are available: persistentvolumeclaim "data" not found.'
    )
    size = {"storage": "1Gi"}
    term = {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["here"]}]}
    volume = {
        "metadata": {"name": "pv"},
        "spec": {
            "capacity": size,
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/x"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    }
    claim = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": size},
            "volumeName": "pv",
        },
    }
    await cluster.client.create(PERSISTENTVOLUMES, volume)
    await cluster.client.create(PERSISTENTVOLUMECLAIMS, claim, "default")
    await cluster.waits("p", "pod has unbound immediate PersistentVolumeClaims")
    await cluster.client.patch(
        PERSISTENTVOLUMECLAIMS,
        "data",
        {"status": {"phase": "Bound"}},
        "default",
        subresource="status",
    )
    assert await cluster.bound("p") == "b"


async def test_the_other_half_comes_and_the_first_is_placed(cluster):
    await cluster.node("a", zone="1")
    await cluster.node("b", zone="2")
    near = {
        "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone"}
            ]
        }
    }
    await cluster.pod("web", affinity=near)
    await cluster.waits("web", "2 node(s) didn't match pod affinity rules")
    await cluster.pod("db", labels={"app": "db"}, nodeSelector={"zone": "2"})
    assert await cluster.bound("web") == "b"


async def test_a_node_that_was_cordoned_takes_again(cluster):
    await cluster.node("a")
    await cluster.client.patch(NODES, "a", {"spec": {"unschedulable": True}})
    await cluster.pod("p")
    await cluster.waits("p", "1 node(s) were unschedulable")
    await cluster.client.patch(NODES, "a", {"spec": {"unschedulable": None}})
    assert await cluster.bound("p") == "a"


async def test_a_pod_that_cannot_be_judged_stops_nobody_else(cluster, monkeypatch):
    choose = cluster.scheduler.snapshot.choose

    def stumble(pod):
        if pod.key[1] == "poison":
            raise ZeroDivisionError("a bug of ours")
        return choose(pod)

    monkeypatch.setattr(cluster.scheduler.snapshot, "choose", stumble)
    await cluster.node("a")
    await cluster.pod("poison")
    await cluster.pod("p")
    assert await cluster.bound("p") == "a"
    monkeypatch.setattr(cluster.scheduler.snapshot, "choose", choose)
    await cluster.node("b")  # something changed: it is tried again
    assert await cluster.bound("poison") in ("a", "b")
