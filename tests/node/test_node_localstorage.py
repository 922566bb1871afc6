"""Who has written more to the disk than it said: kubelet's order, and its words."""

from __future__ import annotations

from typing import Any

import pytest
from node_pods import container, make_pod

from sampan.node.localstorage import Written, is_bounded, verdict

MI = 1 << 20


def limited(name: str, limit: str) -> dict[str, Any]:
    return container(name, resources={"limits": {"ephemeral-storage": limit}})


def empty(name: str, **source: Any) -> dict[str, Any]:
    return {"name": name, "emptyDir": source}


CASES: dict[str, tuple[dict[str, Any], Written, str | None]] = {
    "a volume beyond its size": (
        make_pod(volumes=[empty("a", sizeLimit="1Mi"), empty("b", sizeLimit="1536Ki")]),
        Written(volumes={"a": MI, "b": 2 * MI}),
        'Usage of EmptyDir volume "b" exceeds the limit "1536Ki". ',
    ),
    "exactly at the limit": (
        make_pod(volumes=[empty("a", sizeLimit="1Mi")]),
        Written(volumes={"a": MI}),
        None,
    ),
    "a size of zero is none": (
        make_pod(volumes=[empty("a", sizeLimit="0")]),
        Written(volumes={"a": MI}),
        None,
    ),
    "a container's layer and log together": (
        make_pod(limited("web", "3Mi"), limited("other", "90Mi")),
        Written(layers={"web": 2 * MI, "other": MI}, logs={"web": 2 * MI}),
        'Container web exceeded its local ephemeral storage limit "3Mi". ',
    ),
    "a volume counts for the pod, not for a container": (
        make_pod(limited("web", "3Mi"), volumes=[empty("a")]),
        Written(volumes={"a": 2 * MI}, layers={"web": 2 * MI}),
        "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ",
    ),
    "memory is not disk": (
        make_pod(limited("web", "3Mi"), volumes=[empty("a", medium="Memory")]),
        Written(volumes={"a": 20 * MI}, layers={"web": 2 * MI}),
        None,
    ),
    "the volume is named first": (
        make_pod(limited("web", "1Mi"), volumes=[empty("a", sizeLimit="1Mi")]),
        Written(volumes={"a": 2 * MI}, layers={"web": 2 * MI}),
        'Usage of EmptyDir volume "a" exceeds the limit "1Mi". ',
    ),
    "nobody said anything": (
        make_pod(volumes=[empty("a")]),
        Written(volumes={"a": 90 * MI}, layers={"web": 90 * MI}),
        None,
    ),
}


@pytest.mark.parametrize(("pod", "written", "message"), CASES.values(), ids=CASES)
def test_verdicts(pod: dict[str, Any], written: Written, message: str | None) -> None:
    found = verdict(pod, written)
    assert (found.message if found else None) == message
    assert found is None or found.reason == "Evicted"
    assert is_bounded(pod) or message is None


def test_only_pods_with_a_limit_are_measured() -> None:
    assert not is_bounded(make_pod(volumes=[empty("a"), empty("b", sizeLimit="0")]))
    assert not is_bounded(make_pod(container(resources={"limits": {"memory": "1Mi"}})))
    assert is_bounded(make_pod(limited("web", "1Gi")))
    assert is_bounded(make_pod(volumes=[empty("a", sizeLimit="1k")]))
