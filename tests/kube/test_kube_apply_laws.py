"""Server-side apply's laws: who owns which field after whatever was written, by whomever."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from apply_live import (
    FULL,
    JSON,
    SCHEMA,
    SPECS,
    TYPE,
    VERSION,
    Live,
    Object,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kube.apply import fields, last_applied, managers, operations, scale, types
from sampan.kube.apply.compare import compare
from sampan.kube.apply.conflicts import Conflicts
from sampan.kube.apply.fields import FieldsError
from sampan.kube.apply.managers import Manager, Owned
from sampan.kube.apply.merge import merge
from sampan.kube.apply.reconcile import reconcile
from sampan.kube.apply.updater import Kind, done
from sampan.kube.apply.values import TypeErrors, check, field_set

# --- ownership: the laws ----------------------------------------------------------------------------


@settings(max_examples=60)
@given(SPECS, SPECS)
def test_apply_is_idempotent(before: Object, spec: Object) -> None:
    live = Live()
    live.update("someone", before)
    live.apply("me", spec, force=True, time="1")
    obj, managed = deepcopy(live.obj), deepcopy(live.managed)
    live.apply("me", spec, time="2")
    assert live.obj == obj
    assert live.managed == managed, "not even the time of an apply that changes nothing is written"


def halves(spec: Object) -> tuple[Object, Object]:
    """Two configurations that name no field in common."""
    names = sorted(spec)
    return {n: spec[n] for n in names[::2]}, {n: spec[n] for n in names[1::2]}


@settings(max_examples=60)
@given(SPECS, SPECS)
def test_two_disjoint_appliers_commute(before: Object, spec: Object) -> None:
    one, other = halves(spec)
    results = []
    for order in ((("a", one), ("b", other)), (("b", other), ("a", one))):
        live = Live()
        live.update("someone", before)
        for who, config in order:
            live.apply(who, config, force=True)
        results.append((live.obj, live.managed))
    assert results[0] == results[1]


@settings(max_examples=60)
@given(FULL, FULL)
def test_what_leaves_an_intent_leaves_the_object_unless_another_owns_it(
    spec: Object, others: Object
) -> None:
    live = Live()
    live.apply("other", others)
    live.apply("me", spec, force=True)
    live.apply("me", None)
    assert live.owned("me") == set()
    left = field_set({key: live.obj[key] for key in live.obj if key == "spec"}, TYPE)
    owned = {path for manager in live.managed.values() for path in fields.paths(manager.fields)}
    for path in fields.paths(fields.leaves(left)):
        covered = any(path[:size] in owned for size in range(1, len(path) + 1))
        assert covered or any(each[: len(path)] == path for each in owned), path


@settings(max_examples=60)
@given(SPECS, SPECS)
def test_force_takes_what_differs_and_only_that(one: Object, other: Object) -> None:
    live = Live()
    live.apply("first", one)
    mine = live.owned("first")
    try:
        trial = Live()
        trial.obj, trial.managed = deepcopy(live.obj), dict(live.managed)
        trial.apply("second", other)
        contested: set[str] = set()
    except Conflicts as conflicts:
        assert {each.manager.name for each in conflicts.found} == {"first"}
        contested = {fields.shown_path(each.path) for each in conflicts.found}
        assert contested <= mine
    live.apply("second", other, force=True)
    assert live.owned("first") == mine - contested
    assert live.owned("second") == {
        fields.shown_path(path) for path in fields.paths(field_set({"spec": other}, TYPE))
    }
    merged = merge({"spec": one}, {"spec": other}, TYPE)
    assert compare(merged, {"spec": live.spec}, TYPE).changed == {}


def test_same_value_is_shared_and_another_value_is_a_conflict() -> None:
    live = Live()
    live.apply("a", {"size": 1, "title": "x"})
    live.apply("b", {"size": 1})
    assert live.owned("a") == {".spec.size", ".spec.title"} and live.owned("b") == {".spec.size"}
    with pytest.raises(Conflicts) as caught:
        live.apply("b", {"size": 2, "title": "y"})
    error = caught.value.error()
    assert (error.code, error.reason) == (409, "Conflict")
    assert error.message == (
        'Apply failed with 2 conflicts: conflicts with "a":\n- .spec.size\n- .spec.title'
    )
    live.apply("b", {"size": 2}, force=True)
    assert live.owned("a") == {".spec.title"} and live.spec["size"] == 2


def test_an_updater_is_named_with_its_version_and_subresource() -> None:
    live = Live()
    live.update("kubectl-edit", {"size": 1})
    live.update("autoscaler", {"size": 2}, subresource="scale")
    assert live.owned("kubectl-edit", managers.UPDATE) == {".spec"}
    with pytest.raises(Conflicts) as caught:
        live.apply("me", {"size": 3})
    error = caught.value.error()
    assert error.message == (
        'Apply failed with 1 conflict: conflict with "autoscaler" with subresource "scale" '
        "using example.org/v1: .spec.size"
    )
    assert error.details["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "autoscaler" with subresource "scale" using example.org/v1',
            "field": ".spec.size",
        }
    ]


def test_what_an_updater_has_set_is_not_the_applier_s_to_drop() -> None:
    live = Live()
    live.apply("me", {"labels": {"a": "1", "b": "2"}})
    live.update("other", {"labels": {"a": "1", "b": "2", "c": "3"}})
    live.apply("me", {"labels": {"a": "1"}})
    assert live.spec["labels"] == {"a": "1", "c": "3"}
    live.apply("me", {"size": 1})
    assert live.spec == {"labels": {"c": "3"}, "size": 1}


def test_who_changes_a_field_takes_it_and_who_removes_it_takes_it_from_all() -> None:
    live = Live()
    live.apply("a", {"size": 1, "title": "x"})
    live.apply("b", {"title": "x"})
    live.update("c", {"size": 2})
    assert live.owned("a") == set() and live.owned("b") == set()
    assert live.owned("c", managers.UPDATE) == {".spec.size"}


def test_the_first_apply_records_who_was_there_before() -> None:
    live = Live()
    live.obj["spec"] = {"size": 1}
    live.update("nobody-is-tracked", {"size": 1, "title": "x"})
    live.managed = {}
    with pytest.raises(Conflicts) as caught:
        live.apply("me", {"size": 2})
    assert "before-first-apply" in caught.value.message()


def test_updaters_are_capped_and_the_oldest_merged() -> None:
    live = Live()
    live.update("u00", {"labels": {"k00": "v"}}, time="2026-01-01T00:00:00Z")
    for number in range(1, 13):
        labels = {**live.spec["labels"], f"k{number:02}": "v"}
        live.update(f"u{number:02}", {"labels": labels}, time=f"2026-01-01T00:00:{number:02}Z")
    names = sorted(manager.name for manager in live.managed)
    assert names == ["ancient-changes", *(f"u{number:02}" for number in range(4, 13))]
    assert {".spec.labels.k00", ".spec.labels.k03"} <= live.owned(
        "ancient-changes", managers.UPDATE
    )


def test_versions_are_converted_and_those_that_are_gone_are_dropped() -> None:
    v2 = types.of_custom(
        {"properties": {"spec": {"type": "object", "properties": {"amount": {"type": "integer"}}}}}
    )
    kind = Kind({VERSION: TYPE, "example.org/v2": v2}.get, lambda found: found)
    asked = []

    def convert(obj: Object, version: str) -> Object:
        asked.append(version)
        spec = obj.get("spec") or {}
        size = spec.get("size", spec.get("amount"))
        name = "amount" if version.endswith("v2") else "size"
        found = {name: size} if size is not None else {}
        return {**obj, "apiVersion": version, "spec": found}

    live = {"apiVersion": VERSION, "kind": "Thing", "metadata": {}, "spec": {"size": 1}}
    amount = fields.of(("f:spec", "f:amount"))
    managed = {
        managers.applier("old"): Owned("example.org/v2", amount),
        managers.updater("older", "example.org/v0"): Owned("example.org/v0", amount),
    }
    config = {**live, "spec": {"size": 2}}
    with pytest.raises(Conflicts) as caught:
        steps = operations.applied(kind, live, config, managed, "me", VERSION, "", False, "t")
        done(steps, convert)
    assert caught.value.message().endswith('conflict with "old": .spec.amount')
    assert set(asked) == {"example.org/v2"}
    # The same applier moves on to the other version: what it had is still its own to drop.
    steps = operations.applied(
        kind, live, {**live, "spec": {}}, managed, "old", VERSION, "", False, "t"
    )
    obj, after = done(steps, convert)
    assert (obj.get("spec") or {}) == {}
    assert after == {managers.applier("old"): Owned(VERSION, fields.of(("f:spec",)), "t")}


@given(st.lists(JSON, max_size=3), st.booleans())
def test_whatever_is_applied_is_merged_or_refused(specs: list[Any], force: bool) -> None:
    live = Live()
    for number, spec in enumerate(specs):
        config = {"apiVersion": VERSION, "kind": "Thing", "metadata": {"name": "x"}, "spec": spec}
        try:
            check(config, TYPE)
            live.apply(f"m{number}", spec, force=force)
        except (TypeErrors, Conflicts):
            continue


@given(JSON)
def test_whatever_says_it_is_a_set_is_one_or_refused(value: Any) -> None:
    try:
        found = fields.root(value)
    except FieldsError:
        return
    assert fields.root(found) == found


# --- around it --------------------------------------------------------------------------------------


def test_a_list_that_became_atomic_is_owned_whole() -> None:
    schema = deepcopy(SCHEMA)
    schema["properties"]["spec"]["properties"]["ports"]["x-kubernetes-list-type"] = "atomic"
    schema["properties"]["spec"]["properties"]["labels"]["x-kubernetes-map-type"] = "atomic"
    owned = field_set({"spec": {"ports": [{"port": 1}], "labels": {"a": "b"}, "size": 1}}, TYPE)
    assert reconcile(owned, types.of_custom(schema)) == {
        "f:spec": {"f:ports": {}, "f:labels": {}, "f:size": {}}
    }
    assert reconcile(owned, TYPE) is owned


def test_client_side_apply_s_fields_are_kubectl_s_own() -> None:
    live = Live()
    last = '{"apiVersion":"example.org/v1","kind":"Thing","spec":{"size":1,"title":"x"}}'
    live.update("kubectl-client-side-apply", {"size": 1, "title": "x"})
    live.obj["metadata"]["annotations"] = {last_applied.ANNOTATION: last}
    with pytest.raises(Conflicts):
        live.apply("somebody", {"size": 2})
    live.apply("kubectl", {"size": 2, "title": "<y>"})
    assert live.spec == {"size": 2, "title": "<y>"}
    text = last_applied.annotated(live.obj)
    assert text.endswith('"spec":{"size":2,"title":"\\u003cy\\u003e"}}\n')
    # A field that somebody else has changed since is a conflict still.
    live.update("editor", {"size": 2, "title": "z"})
    with pytest.raises(Conflicts) as caught:
        live.apply("kubectl", {"size": 3, "title": "q"})
    assert [fields.shown_path(each.path) for each in caught.value.found] == [".spec.title"]


def test_scale_and_workload_share_their_managers() -> None:
    paths = {"apps/v1": scale.REPLICAS}
    both = fields.of(scale.REPLICAS, ("f:spec", "f:paused"))
    parent = {
        managers.applier("me"): Owned("apps/v1", both, "t"),
        managers.updater("gone", "apps/v0"): Owned("apps/v0", both, "t"),
    }
    shown = scale.of_parent(parent, paths)
    assert shown == {managers.applier("me"): Owned(scale.VERSION, fields.of(scale.REPLICAS), "t")}
    scaler = Manager("hpa", managers.UPDATE, scale.VERSION, "scale")
    taken = {scaler: Owned(scale.VERSION, fields.of(scale.REPLICAS), "t")}
    assert scale.to_parent(parent, taken, "apps/v1", paths) == {
        managers.applier("me"): Owned("apps/v1", fields.of(("f:spec", "f:paused")), "t"),
        scaler._replace(version="apps/v1"): Owned("apps/v1", fields.of(scale.REPLICAS), ""),
    }


def test_entries_are_read_and_written_as_kubernetes_orders_them() -> None:
    owned = fields.of(("f:a",))
    managed = {
        managers.updater("late", "v1"): Owned("v1", owned, "2026-01-02T00:00:00Z"),
        managers.updater("early", "v1", "status"): Owned("v1", owned, "2026-01-01T00:00:00Z"),
        managers.applier("apply"): Owned("v1", owned, "2026-01-03T00:00:00Z"),
    }
    entries = managers.encode(managed)
    assert [entry["manager"] for entry in entries] == ["apply", "early", "late"]
    assert managers.decode(entries) == managed == managers.trusted(entries)
    assert entries[1] == {
        "manager": "early",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:a": {}},
        "subresource": "status",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operation": "Own"}, "operation must be `Apply` or `Update`"),
        ({"apiVersion": ""}, "apiVersion must not be empty"),
        ({"fieldsType": ""}, "missing fieldsType in managed fields entry 0"),
        ({"fieldsType": "FieldsV2"}, 'invalid fieldsType "FieldsV2" in managed fields entry 0'),
        ({"fieldsV1": {"x": {}}}, "key must be 2 characters long:"),
    ],
)
def test_entries_of_strangers_are_checked(change: Object, message: str) -> None:
    entry = {"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}
    with pytest.raises(FieldsError) as caught:
        managers.decode([{**entry, **change}])
    assert str(caught.value) == message
