"""What is remembered for a crowd of equal parts, and that remembering changes no answer."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from sampan.kube.crowds import LARGEST, REMEMBERED, Crowd
from sampan.kube.decode import decode
from sampan.kube.defaulting import default
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK
from sampan.kube.validation import validate_create
from sampan.kube.warnings import warnings_for

POD = GVK("", "v1", "Pod")


def pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": "i",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always",
    }
    base = {"containers": [container], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {**base, **spec},
    }


def test_equal_parts_are_worked_out_once() -> None:
    asked: list[Any] = []

    def work(part: Any) -> int:
        asked.append(part)
        return len(asked)

    crowd = Crowd(work)
    assert [crowd({"a": 1}), crowd({"a": 1}), crowd({"a": 1.0}), crowd({"a": True})] == [1, 1, 2, 3]
    large = {"a": "x" * LARGEST}
    assert crowd(large) != crowd(large)


def test_memory_is_bounded() -> None:
    crowd = Crowd(lambda part: part)
    for number in range(3 * REMEMBERED):
        crowd(number)
    assert len(crowd._known) <= REMEMBERED


def test_every_pod_of_a_bad_template_is_told_what_is_wrong() -> None:
    bad = pod("a", restartPolicy="Sometimes")
    first = validate_create(POD, copy.deepcopy(bad))
    assert [cause.field for cause in first] == ["spec.restartPolicy"]
    bad["metadata"]["name"] = "b"
    assert validate_create(POD, bad) == first
    first.clear()
    assert validate_create(POD, bad)
    assert not validate_create(POD, pod("b"))


def test_the_name_counts_where_claims_are_named_after_the_pod() -> None:
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    }
    template = {"volumeClaimTemplate": {"spec": claim}}
    volumes = [{"name": "v" * 60, "ephemeral": template}]
    assert not validate_create(POD, pod("short", volumes=volumes))
    assert validate_create(POD, pod("p" * 250, volumes=volumes))


def test_annotations_count_for_warnings() -> None:
    plain, marked = pod("a"), pod("a")
    marked["metadata"]["annotations"] = {"scheduler.alpha.kubernetes.io/critical-pod": ""}
    assert not warnings_for(POD, plain)
    assert len(warnings_for(POD, marked)) == 1
    assert not warnings_for(POD, plain)


def test_what_cannot_be_encoded_is_worked_out_all_the_same() -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert Crowd(len)(deep) == 1


def test_pods_of_a_crowd_are_fitted_and_defaulted_like_the_first() -> None:
    def decoded(name: str, **spec: Any) -> dict[str, Any]:
        sent = pod(name, **spec)
        obj, found = decode(orjson.dumps(sent), "application/json", POD, strict="Warn")
        default(POD, obj)
        return {**obj, "warnings": found}

    first, second = decoded("a"), decoded("b")
    assert first["spec"] == second["spec"] and first["spec"]["enableServiceLinks"] is True
    first["spec"]["containers"][0]["image"] = "changed"
    first["spec"]["nodeName"] = "n"
    assert decoded("c")["spec"] == second["spec"]
    for name in ("a", "b"):
        assert decoded(name, surprise=1)["warnings"] == ['unknown field "spec.surprise"']
        with pytest.raises(ApiError, match="of type string"):
            decoded(name, nodeName=1)
