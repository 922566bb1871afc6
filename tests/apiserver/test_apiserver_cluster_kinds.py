"""Kinds of the cluster whose writes have rules of their own: events of two groups, API services, runtime classes."""

from __future__ import annotations

from typing import Any

import pytest
from apiserver_harness import Harness, api

from sampan.apiserver.strategies.certificates import condition_causes

__all__ = ["api"]

CORE = "/api/v1/namespaces/default/events"
NEW = "/apis/events.k8s.io/v1/namespaces/default/events"
SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
STORAGE = "/apis/storage.k8s.io/v1"
UNPINNED = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"


def event(name: str, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/x",
        "reportingInstance": "i",
        "action": "Run",
        "reason": "Started",
        "type": "Normal",
        **more,
    }


async def test_each_group_has_its_rules_for_events(api: Harness) -> None:
    bare = {"metadata": {"name": "Old_1"}, "involvedObject": {"namespace": "default"}}
    await api.call("POST", CORE, bare)
    refused = await api.call("POST", NEW, event("a", eventTime=None, type="Odd"), 422)
    fields = [each["field"] for each in refused["details"]["causes"]]
    assert fields == ["eventTime", "type"]
    made = await api.call("POST", NEW, event("a"))
    # Through the new group only the series may change, through the old one anything.
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}
    made = await api.patch("merge", f"{NEW}/a", {"series": series})
    assert made["series"]["count"] == 2
    refused = await api.patch("merge", f"{NEW}/a", {"note": "n"}, 422)
    assert refused["message"].endswith(
        'is invalid: message: Invalid value: "n": field is immutable'
    )
    assert (await api.patch("merge", f"{CORE}/a", {"message": "n"}))["message"] == "n"
    assert (await api.call("GET", f"{NEW}/a"))["note"] == "n"


async def test_a_local_api_service_is_available_at_once(api: Harness) -> None:
    spec = {"group": "g.io", "version": "v1", "groupPriorityMinimum": 9, "versionPriority": 9}
    remote = {**spec, "service": {"namespace": "default", "name": "s"}}
    false = {"conditions": [{"type": "Available", "status": "False"}]}
    path = f"{SERVICES}?dryRun=All"
    made = await api.call(
        "POST", path, {"metadata": {"name": "v1.g.io"}, "spec": spec, "status": false}
    )
    [condition] = made["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("True", "Local")
    made = await api.call("POST", path, {"metadata": {"name": "v1.g.io"}, "spec": remote})
    assert made["status"] == {}


@pytest.mark.parametrize(
    ("path", "obj"),
    [
        (CLASSES, {"handler": "wasm"}),
        (f"{ADMISSION}/validatingwebhookconfigurations", {"webhooks": []}),
        (f"{STORAGE}/csidrivers", {"spec": {}}),
        (SERVICES, None),
    ],
)
async def test_updates_that_must_name_a_version(
    api: Harness, path: str, obj: dict[str, Any] | None
) -> None:
    name = "v1.apps" if obj is None else "x"
    if obj is not None:
        await api.call("POST", path, {"metadata": {"name": name}, **obj})
    found = await api.call("GET", f"{path}/{name}")
    found["metadata"].pop("resourceVersion")
    refused = await api.call("PUT", f"{path}/{name}", found, 422)
    assert refused["message"].endswith(UNPINNED)


async def test_a_runtime_class_may_be_made_by_put(api: Harness) -> None:
    body = {"metadata": {"name": "x"}, "handler": "wasm"}
    made = await api.call("PUT", f"{CLASSES}/x", body, 201)
    made["handler"] = "other"
    refused = await api.call("PUT", f"{CLASSES}/x", made, 422)
    assert refused["message"].endswith('handler: Invalid value: "other": field is immutable')


APPROVED = {"type": "Approved", "status": "True", "reason": "r", "lastUpdateTime": "t"}
DENIED = {"type": "Denied", "status": "True"}
FAILED = {"type": "Failed", "status": "True"}
OWN = {"type": "Own", "status": "False"}
AT = "status.conditions"


@pytest.mark.parametrize(
    ("old", "new", "decides", "wrong"),
    [
        ([], [APPROVED], True, []),
        ([], [APPROVED], False, [f'{AT}: Forbidden: updates may not add a condition of type "Approved"']),
        ([APPROVED], [APPROVED, OWN], False, []),
        ([APPROVED], [{**APPROVED, "reason": "s"}], False,
         [f'{AT}: Forbidden: updates may not modify a condition of type "Approved"']),
        ([APPROVED], [{**APPROVED, "reason": "s"}], True, []),
        ([APPROVED], [], True, [f'{AT}: Forbidden: updates may not remove a condition of type "Approved"']),
        ([FAILED], [], False, [f'{AT}: Forbidden: updates may not remove a condition of type "Failed"']),
        ([], [APPROVED, DENIED], True,
         [f'{AT}[1].type: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive']),
        ([], [{"type": "Failed", "status": "False"}], False,
         [f'{AT}[0].status: Unsupported value: "False": supported values: "True"']),
        ([], [{"type": "Own", "status": "x"}], False,
         [f'{AT}[0].status: Unsupported value: "x": supported values: "False", "True", "Unknown"']),
        ([], [{}], False, [f"{AT}[0].type: Required value", f"{AT}[0].status: Required value"]),
        ([], [OWN, OWN], False, [f'{AT}[1].type: Duplicate value: "Own"']),
    ],
)  # fmt: skip
def test_conditions_of_signing_requests(
    old: list[Any], new: list[Any], decides: bool, wrong: list[str]
) -> None:
    assert [str(each) for each in condition_causes(new, old, decides=decides)] == wrong


async def test_a_daemon_set_counts_its_templates(api: Harness) -> None:
    path, note = (
        "/apis/apps/v1/namespaces/default/daemonsets",
        "deprecated.daemonset.template.generation",
    )
    pod = {"containers": [{"name": "c", "image": "x"}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    body = {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"}, "spec": spec}
    made = await api.call("POST", path, body)
    assert made["metadata"]["annotations"] == {note: "1"}
    changes = {"metadata": {"annotations": {note: "9"}}, "spec": {"minReadySeconds": 1}}
    same = await api.patch("merge", f"{path}/d", changes)
    assert (same["metadata"]["annotations"][note], same["metadata"]["generation"]) == ("1", 2)
    changes = {"metadata": {"annotations": None}, "spec": {"template": {"spec": {"hostPID": True}}}}
    other = await api.patch("merge", f"{path}/d", changes)
    assert (other["metadata"]["annotations"][note], other["metadata"]["generation"]) == ("2", 3)


async def test_a_namespace_means_nothing_to_what_has_none(api: Harness) -> None:
    role = {"metadata": {"name": "lookout", "namespace": "elsewhere"}, "rules": []}
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    made = await api.call("POST", path, role, 201)
    assert "namespace" not in made["metadata"]
