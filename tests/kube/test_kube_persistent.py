"""Which volume fits a claim: examples of the rules, and properties that hold for any set of volumes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import persistent

MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")


def claim(size: str = "1Gi", modes: Any = ("ReadWriteOnce",), **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "sea", "name": "hold", "uid": "u-1"},
        "spec": {
            "accessModes": [*modes],
            "resources": {"requests": {"storage": size}},
            **spec,
        },
    }


def volume(name: str, size: str = "1Gi", modes: Any = ("ReadWriteOnce",), **spec: Any) -> Any:
    labels = spec.pop("labels", {})
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": {"accessModes": [*modes], "capacity": {"storage": size}, **spec},
        "status": {"phase": spec.pop("phase", "Available")},
    }


def chosen(wanted: Any, *volumes: Any, **options: Any) -> str | None:
    found = persistent.best(wanted, volumes, **options)
    return found and found["metadata"]["name"]


def on(*names: str) -> Any:
    expression = {"key": "metadata.name", "operator": "In", "values": [*names]}
    return {"required": {"nodeSelectorTerms": [{"matchFields": [expression]}]}}


def test_the_smallest_that_fits() -> None:
    sizes = [volume("large", "5Gi"), volume("small", "500Mi"), volume("fits", "2Gi")]
    assert chosen(claim("1Gi"), *sizes) == "fits"


def test_fewest_access_modes_before_size() -> None:
    wide = volume("wide", "1Gi", ("ReadWriteOnce", "ReadWriteMany"))
    assert chosen(claim(), wide, volume("narrow", "9Gi")) == "narrow"
    assert chosen(claim(modes=("ReadWriteMany",)), wide, volume("narrow", "9Gi")) == "wide"


@pytest.mark.parametrize(
    ("asks", "has"),
    [
        ({"storageClassName": "slow"}, {}),
        ({}, {"storageClassName": "slow"}),
        ({"volumeMode": "Block"}, {}),
        ({"selector": {"matchLabels": {"disk": "ssd"}}}, {"labels": {"disk": "rust"}}),
        ({}, {"phase": "Released"}),
        ({}, {"claimRef": {"namespace": "sea", "name": "other"}}),
        ({}, {"claimRef": {"namespace": "sea", "name": "hold", "uid": "u-0"}}),
        ({"volumeAttributesClassName": "fast"}, {}),
    ],
)
def test_what_does_not_fit(asks: Any, has: Any) -> None:
    assert chosen(claim(**asks), volume("v", **has)) is None


def test_one_that_was_made_for_the_claim_comes_first() -> None:
    meant = volume("z", "8Gi", claimRef={"namespace": "sea", "name": "hold"}, storageClassName="x")
    assert chosen(claim(), volume("a"), meant) == "z"
    assert chosen(claim(), volume("a"), meant, delayed=True) == "z"
    assert chosen(claim(), volume("a"), delayed=True) is None


def test_a_node_has_to_reach_it() -> None:
    here, there = volume("here", "2Gi", nodeAffinity=on("a")), volume("there", nodeAffinity=on("b"))
    assert chosen(claim(), here, there, place=("a", {})) == "here"
    assert chosen(claim(), here, there, place=("a", {}), taken={"here"}) is None


def test_zones_of_a_label() -> None:
    zoned = volume("v", labels={"topology.kubernetes.io/zone": "north__south"})
    assert persistent.in_zone(zoned, {"topology.kubernetes.io/zone": "south"})
    assert not persistent.in_zone(zoned, {"topology.kubernetes.io/zone": "west"})
    assert persistent.in_zone(zoned, {})  # a node outside of all zones


def test_topologies_of_a_class() -> None:
    term = {"matchLabelExpressions": [{"key": "zone", "values": ["north", "south"]}]}
    limited = {"allowedTopologies": [term]}
    assert persistent.allows(limited, ("n", {"zone": "north"}))
    assert not persistent.allows(limited, ("n", {"zone": "west"}))
    assert persistent.allows({}, ("n", {}))


def test_the_youngest_default_class() -> None:
    def made(name: str, at: str, mark: str = "true") -> Any:
        marks = {"storageclass.kubernetes.io/is-default-class": mark}
        return {"metadata": {"name": name, "creationTimestamp": at, "annotations": marks}}

    classes = [made("b", "2026-01-02"), made("a", "2026-01-02"), made("c", "2026-03-01", "false")]
    assert persistent.default_class(classes) == "a"
    assert persistent.default_class(classes[2:]) == ""


modes = st.lists(st.sampled_from(MODES), min_size=1, max_size=3, unique=True)
sizes = st.integers(1, 40).map(lambda n: f"{n * 100}Mi")
classes = st.sampled_from(("", "slow", "fast"))
claims = st.builds(
    lambda size, modes, name: claim(size, modes, storageClassName=name), sizes, modes, classes
)
volumes = st.lists(
    st.builds(
        lambda size, modes, name, phase, node: {
            "modes": modes, "size": size, "storageClassName": name, "phase": phase,
            **({"nodeAffinity": on(node)} if node else {}),
        },
        sizes, modes, classes, st.sampled_from(("Available", "Available", "Bound")),
        st.sampled_from(("", "a", "b")),
    ),
    max_size=8,
).map(lambda found: [volume(f"v{i}", **each) for i, each in enumerate(found)])  # fmt: skip


@given(claims, volumes, st.sampled_from((None, ("a", {}))))
def test_the_best_fits_and_none_that_fits_is_smaller(wanted: Any, found: Any, place: Any) -> None:
    fitting = [
        each
        for each in found
        if persistent.mismatch(each, wanted) is None
        and each["status"]["phase"] == "Available"
        and (place is None or persistent.reachable(each, place))
    ]
    best = persistent.best(wanted, found, place=place)
    if best is None:
        assert not fitting
        return
    assert best in fitting
    alike = [
        v for v in fitting if len(v["spec"]["accessModes"]) == len(best["spec"]["accessModes"])
    ]
    assert all(persistent.capacity_of(best) <= persistent.capacity_of(v) for v in alike)
    fewest = min(len(v["spec"]["accessModes"]) for v in fitting)
    assert len(best["spec"]["accessModes"]) == fewest


@given(claims, volumes)
def test_the_order_of_volumes_does_not_matter(wanted: Any, found: Any) -> None:
    forward, back = (persistent.best(wanted, each) for each in (found, found[::-1]))
    assert forward is back
