"""Arrays and plain Python choose the same; spreading and affinity, decided without a server."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler_decisions import node, pod

from sampan.scheduler.pods import describe
from sampan.scheduler.snapshot import Snapshot, explain

SIZES = st.sampled_from(["", "100m", "333m", "1", "1500m"])
MEMORY = st.sampled_from(["", "64Mi", "1Gi", "3Gi"])
TAINT = [{"key": "k", "effect": "PreferNoSchedule"}]


@st.composite
def clusters(draw: Any) -> list[dict]:
    made = []
    for index in range(draw(st.integers(1, 12))):
        cpu, memory = (
            draw(st.sampled_from(["0", "1", "2", "7"])),
            draw(st.sampled_from(["1Gi", "7Gi"])),
        )
        taints = TAINT if draw(st.booleans()) else []
        labels = {"zone": draw(st.sampled_from(["1", "2"]))}
        made.append(
            node(
                f"n{index}",
                cpu,
                memory,
                draw(st.sampled_from(["1", "4"])),
                taints=taints,
                labels=labels,
            )
        )
    return made


@st.composite
def specs(draw: Any) -> dict:
    spec: dict = {}
    if draw(st.booleans()):
        spec["nodeSelector"] = {"zone": draw(st.sampled_from(["1", "2"]))}
    if draw(st.integers(0, 3)) == 0:
        spec["container"] = {"ports": [{"hostPort": draw(st.integers(1, 3))}]}
    if draw(st.integers(0, 3)) == 0:
        spec["topologySpreadConstraints"] = [
            spread(draw(st.integers(1, 2)), soft=draw(st.booleans()))
        ]
    spec["priority"] = draw(st.sampled_from([0, 5]))
    return {"cpu": draw(SIZES), "memory": draw(MEMORY), **spec}


def spread(skew: int = 1, *, soft: bool = False, key: str = "zone", **more: Any) -> dict:
    return {
        "maxSkew": skew,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway" if soft else "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}},
        **more,
    }


def labelled(made: dict, **labels: str) -> dict:
    made["metadata"]["labels"] = labels
    return made


@settings(max_examples=120, deadline=None)
@given(clusters(), st.lists(st.tuples(specs(), st.integers(0, 9)), max_size=30))
def test_arrays_and_plain_python_choose_the_same(nodes, steps) -> None:
    plain, arrays = Snapshot(arrays_from=10**6), Snapshot(arrays_from=1)
    for item in nodes:
        plain.set_node(item)
        arrays.set_node(item)
    for index, (spec, action) in enumerate(steps):
        info = describe(labelled(pod(f"p{index}", **spec), app="web"))
        one, other = plain.choose(info), arrays.choose(info)
        assert one == other
        assert list(arrays.ranking(info.group).ranks) == list(plain.ranking(info.group).ranks)
        for snapshot in (plain, arrays):
            if one.node is not None and action < 8:
                snapshot.place(info, one.node)
            elif one.node is None and action % 2:
                snapshot.nominate(info, nodes[0]["metadata"]["name"])
            if action == 9 and snapshot.where:
                snapshot.forget(min(snapshot.where))
            if action == 7 and index % 3 == 0:
                snapshot.remove_node(nodes[-1]["metadata"]["name"])
    fresh = Snapshot(arrays_from=10**6)
    for info in plain.slots:
        fresh.set_node(info.node)
    for uid, name in plain.where.items():
        fresh.place(plain.nodes[name].pods[uid], name)
    for uid, name in plain.nominations.items():
        fresh.nominate(plain.nodes[name].nominated[uid], name)
    last = describe(labelled(pod("last", cpu="100m"), app="web"))
    assert fresh.choose(last)[1:] == plain.choose(last)[1:], "nothing stale was remembered"


def zones(*counts: int) -> Snapshot:
    """A node in each zone, with so many pods of app web."""
    cluster = Snapshot()
    for zone, count in enumerate(counts):
        cluster.set_node(node(f"n{zone}", labels={"zone": f"z{zone}"}, pods="100", cpu="100"))
        for index in range(count):
            cluster.place(describe(labelled(pod(f"{zone}-{index}"), app="web")), f"n{zone}")
    return cluster


def choose(cluster: Snapshot, **spec: Any) -> tuple[str | None, str]:
    chosen, reasons, looked = cluster.choose(describe(labelled(pod("new", **spec), app="web")))
    return chosen, explain(reasons, looked)


def test_hard_spreading_keeps_the_skew() -> None:
    assert choose(zones(3, 2, 3), topologySpreadConstraints=[spread()])[0] == "n1"
    wrong = {
        "nodeSelector": {"zone": "z0"},
        "topologySpreadConstraints": [spread(nodeAffinityPolicy="Ignore")],
    }
    chosen, message = choose(zones(3, 2, 3), **wrong)
    assert chosen is None
    assert message == (
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, "
        "2 node(s) didn't match Pod's node affinity/selector."
    )
    honored = {"nodeSelector": {"zone": "z0"}, "topologySpreadConstraints": [spread()]}
    assert choose(zones(3, 2, 3), **honored)[0] == "n0", "nodes it cannot use do not count"


def test_minimum_of_domains() -> None:
    assert choose(zones(1, 1), topologySpreadConstraints=[spread(minDomains=2)])[0] is not None
    assert choose(zones(1, 1), topologySpreadConstraints=[spread(minDomains=3)])[0] is None


def test_tainted_domains_count_unless_honored() -> None:
    def cluster() -> Snapshot:
        result = zones(1, 1)
        taints = [{"key": "k", "effect": "NoSchedule"}]
        result.set_node(node("empty", labels={"zone": "z9"}, taints=taints))
        return result

    assert choose(cluster(), topologySpreadConstraints=[spread()])[0] is None
    honoring = spread(nodeTaintsPolicy="Honor")
    assert choose(cluster(), topologySpreadConstraints=[honoring])[0] is not None


def test_a_node_without_the_key_is_named() -> None:
    cluster = Snapshot()
    cluster.set_node(node("a"))
    _, message = choose(cluster, topologySpreadConstraints=[spread()])
    assert (
        "node(s) didn't match pod topology spread constraints (missing required label)" in message
    )


def test_soft_spreading_prefers_the_emptier_domain() -> None:
    assert choose(zones(3, 1, 2), topologySpreadConstraints=[spread(soft=True)])[0] == "n1"


def test_terminating_pods_do_not_count_for_spreading() -> None:
    cluster = zones(2, 1)
    for index in range(2):
        going = labelled(pod(f"0-{index}"), app="web")
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        cluster.place(describe(going), "n0")
    assert choose(cluster, topologySpreadConstraints=[spread()])[0] == "n0"


def term(key: str = "zone", **more: Any) -> dict:
    return {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": key, **more}


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def test_affinity_and_its_first_pod() -> None:
    near = {"podAffinity": {REQUIRED: [term()]}}
    assert choose(zones(0, 1), affinity=near)[0] == "n1"
    assert choose(zones(0, 0), affinity=near)[0] == "n0", "the first of a group may start"
    elsewhere = {"podAffinity": {REQUIRED: [term(namespaces=["other"])]}}
    assert "didn't match pod affinity rules" in choose(zones(0, 1), affinity=elsewhere)[1]
    everywhere = {"podAffinity": {REQUIRED: [term(namespaceSelector={})]}}
    assert choose(zones(0, 1), affinity=everywhere)[0] == "n1"


def test_anti_affinity_works_both_ways() -> None:
    away = {"podAntiAffinity": {REQUIRED: [term()]}}
    assert choose(zones(1, 0), affinity=away)[0] == "n1"
    assert "2 node(s) didn't match pod anti-affinity rules" in choose(zones(1, 1), affinity=away)[1]
    cluster = zones(0, 0)
    for name in ("n0", "n1"):
        cluster.place(describe(labelled(pod(f"hermit-{name}", affinity=away), app="db")), name)
    chosen, message = choose(cluster)
    assert chosen is None
    assert "2 node(s) didn't satisfy existing pods anti-affinity rules" in message
    cluster.forget("hermit-n1")
    assert choose(cluster)[0] == "n1"


def test_wishes_about_neighbours() -> None:
    near = {"podAffinity": {PREFERRED: [{"weight": 50, "podAffinityTerm": term()}]}}
    far = {"podAntiAffinity": {PREFERRED: [{"weight": 50, "podAffinityTerm": term()}]}}
    assert choose(zones(0, 1), affinity=near)[0] == "n1"
    assert choose(zones(0, 1), affinity=far)[0] == "n0"


def test_labels_of_the_pod_itself_narrow_a_term() -> None:
    cluster = zones(0, 0)
    cluster.place(describe(labelled(pod("old"), app="web", version="1")), "n0")
    constraint = spread(matchLabelKeys=["version"])
    fresh = describe(
        labelled(pod("new", topologySpreadConstraints=[constraint]), app="web", version="2")
    )
    group = fresh.group.spreads[0]
    assert not group.selector.matches({"app": "web", "version": "1"})
    assert group.selector.matches({"app": "web", "version": "2"})
