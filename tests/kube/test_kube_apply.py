"""Server-side apply as pure functions: sets of fields, comparison, merging, ownership, and the laws that must hold."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.kube.apply import fields, last_applied, managers, operations, scale, types
from sampan.kube.apply.compare import ABSENT, Comparison, compare, created
from sampan.kube.apply.conflicts import Conflicts
from sampan.kube.apply.fields import FieldsError
from sampan.kube.apply.managers import Managed, Manager, Owned
from sampan.kube.apply.merge import merge, remove
from sampan.kube.apply.reconcile import reconcile
from sampan.kube.apply.updater import Kind, done
from sampan.kube.apply.values import TypeErrors, check, field_set
from sampan.kube.types import GVK

Object = dict[str, Any]

VERSION = "example.org/v1"
SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer"},
                "title": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "whole": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "x-kubernetes-map-type": "atomic",
                },
                "set": {
                    "type": "array",
                    "items": {"type": "string"},
                    "x-kubernetes-list-type": "set",
                },
                "list": {"type": "array", "items": {"type": "string"}},
                "ports": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "port": {"type": "integer"},
                            "protocol": {"type": "string", "default": "TCP"},
                            "name": {"type": "string"},
                        },
                    },
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["port", "protocol"],
                },
                "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "limit": {"x-kubernetes-int-or-string": True},
            },
        }
    },
}
TYPE = types.of_custom(SCHEMA)
KIND = Kind({VERSION: TYPE}.get, lambda found: found)
DEPLOYMENT = types.of_kind(GVK("apps", "v1", "Deployment"))
POD = types.of_kind(GVK("", "v1", "Pod"))
assert DEPLOYMENT is not None and POD is not None


def no_conversion(obj: Object, version: str) -> Object | None:
    raise AssertionError(f"nothing to convert to {version}")


class Live:
    """An object and its managers, written to in turn."""

    def __init__(self) -> None:
        self.obj: Object = {"apiVersion": VERSION, "kind": "Thing", "metadata": {"name": "x"}}
        self.managed: Managed = {}

    def apply(self, who: str, spec: Object | None, *, force: bool = False, time: str = "t") -> None:
        config: Object = {"apiVersion": VERSION, "kind": "Thing", "metadata": {"name": "x"}}
        if spec is not None:
            config["spec"] = spec
        steps = operations.applied(
            KIND, self.obj, config, dict(self.managed), who, VERSION, "", force, time
        )
        self.obj, self.managed = done(steps, no_conversion)

    def update(self, who: str, spec: Object, subresource: str = "", time: str = "t") -> None:
        new = {**self.obj, "spec": spec}
        steps = operations.updated(
            KIND,
            self.obj,
            new,
            dict(self.managed),
            who,
            VERSION,
            subresource,
            time,
            exists=bool(self.managed),
        )
        self.managed = done(steps, no_conversion)
        self.obj = new

    @property
    def spec(self) -> Object:
        return self.obj.get("spec") or {}

    def owned(self, who: str, operation: str = managers.APPLY) -> set[str]:
        return {
            fields.shown_path(path)
            for manager, owned in self.managed.items()
            if manager.name == who and manager.operation == operation
            for path in fields.paths(owned.fields)
        }


# --- sets -------------------------------------------------------------------------------------------

ELEMENTS = st.sampled_from(
    ["f:a", "f:b", "f:c", 'k:{"name":"x"}', 'k:{"port":80,"protocol":"TCP"}', 'v:"é"', "v:1", "i:0"]
)
PATHS = st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple)
SETS = st.sets(PATHS, max_size=12)


@given(SETS)
def test_a_set_is_its_paths_and_survives_the_wire(paths: set[fields.Path]) -> None:
    found = fields.of(*paths)
    assert set(fields.paths(found)) == paths
    assert fields.root(found) == found
    assert all(fields.has(found, path) for path in paths)


@given(SETS, SETS)
def test_algebra_is_that_of_sets(one: set[fields.Path], other: set[fields.Path]) -> None:
    a, b = fields.of(*one), fields.of(*other)
    before = deepcopy((a, b))
    assert set(fields.paths(fields.union(a, b))) == one | other
    assert set(fields.paths(fields.intersection(a, b))) == one & other
    assert set(fields.paths(fields.difference(a, b))) == one - other
    kept = {
        path for path in one if not any(path[:size] in other for size in range(1, len(path) + 1))
    }
    assert set(fields.paths(fields.without(a, b))) == kept
    tops = {path for path in one if not any(p != path and p[: len(path)] == path for p in one)}
    assert set(fields.paths(fields.leaves(a))) == tops
    assert (a, b) == before, "sets share nodes: nothing may change one"


def test_elements_are_read_in_any_spelling() -> None:
    wire = {
        'k:{"protocol":"TCP", "port":80}': {".": {}, "f:name": {}},
        "x:future": {},
        'v:"a<b"': {},
    }
    assert fields.root(wire) == {
        'k:{"port":80,"protocol":"TCP"}': {".": {}, "f:name": {}},
        'v:"a\\u003cb"': {},
    }
    assert fields.shown_path(("f:spec", 'k:{"name":"c"}', 'v:"x"', "i:3")) == (
        '.spec[name="c"][="x"][3]'
    )


@pytest.mark.parametrize(
    "bad", [{"f": {}}, {"name": {}}, {"k:{": {}}, {"i:x": {}}, [], "x", {"f:a": 1}]
)
def test_what_is_no_set_is_refused(bad: Any) -> None:
    with pytest.raises(FieldsError):
        fields.root(bad)


# --- types and values -------------------------------------------------------------------------------


def test_a_configuration_owns_its_leaves_and_items() -> None:
    spec = {
        "size": 1,
        "labels": {"a": "b"},
        "whole": {"x": "y"},
        "set": ["s"],
        "list": ["l"],
        "ports": [{"port": 80, "name": "web"}],
        "any": {"deep": {"er": [1]}},
        "limit": "10%",
    }
    paths = {fields.shown_path(path) for path in fields.paths(field_set({"spec": spec}, TYPE))}
    assert paths == {
        ".spec.size",
        ".spec.labels.a",
        ".spec.whole",
        '.spec.set[="s"]',
        ".spec.list",
        '.spec.ports[port=80,protocol="TCP"]',
        '.spec.ports[port=80,protocol="TCP"].port',
        '.spec.ports[port=80,protocol="TCP"].name',
        ".spec.any.deep",
        ".spec.any.deep.er",
        ".spec.limit",
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"foo": 1}, ".spec.foo: field not declared in schema"),
        ({"title": 8}, ".spec.title: expected string, got &value.valueUnstructured{Value:8}"),
        ({"size": "8"}, ".spec.size: expected numeric (int or float), got string"),
        ({"labels": ["a"]}, ".spec.labels: expected map, got &{[a]}"),
        ({"ports": {}}, ".spec.ports: expected list, got &{map[]}"),
        ({"set": ["a", "a"]}, '.spec.set: duplicate entries for key [="a"]'),
        (
            {"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]},
            '.spec.ports: duplicate entries for key [port=80,protocol="TCP"]',
        ),
        ({"foo": 1, "title": 8}, None),
    ],
)
def test_wrong_types_are_told_as_structured_merge_diff_tells_them(
    spec: Object, message: str | None
) -> None:
    with pytest.raises(TypeErrors) as caught:
        check({"spec": spec}, TYPE)
    if message is not None:
        assert str(caught.value) == message


def test_a_creator_owns_what_a_deployment_s_creator_owns_in_kubernetes() -> None:
    obj = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "c", "resources": {}, "ports": [{"containerPort": 80}]}
                    ],
                    "securityContext": {},
                },
            },
        },
        "status": {"replicas": 3},
    }
    assert operations.created(obj, DEPLOYMENT, ("status",)) == {
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:containers": {
                        'k:{"name":"c"}': {
                            ".": {},
                            "f:name": {},
                            "f:resources": {},
                            "f:ports": {
                                ".": {},
                                'k:{"containerPort":80,"protocol":"TCP"}': {
                                    ".": {},
                                    "f:containerPort": {},
                                },
                            },
                        }
                    },
                    "f:securityContext": {},
                },
            },
        },
    }


SPECS_NAMES = tuple(SCHEMA["properties"]["spec"]["properties"])

# Values of the type above, small enough to meet often.
WORDS = st.sampled_from("abc")
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(0, 2),
        "title": WORDS,
        "labels": st.dictionaries(WORDS, WORDS, max_size=3),
        "whole": st.dictionaries(WORDS, WORDS, max_size=2),
        "set": st.lists(WORDS, unique=True, max_size=3),
        "list": st.lists(WORDS, max_size=2),
        "ports": st.lists(
            st.fixed_dictionaries({"port": st.integers(1, 3)}, optional={"name": WORDS}),
            unique_by=lambda port: port["port"],
            max_size=3,
        ),
        "any": st.fixed_dictionaries(
            {}, optional={"word": WORDS, "deep": st.dictionaries(WORDS, WORDS, min_size=1)}
        ),
        "limit": st.one_of(st.integers(0, 1), WORDS),
    },
)


# An empty list is owned by nobody, here as in Kubernetes.
FULL = SPECS.map(
    lambda spec: {name: value for name, value in spec.items() if value not in ([], {})}
)


@given(SPECS)
def test_creation_is_the_comparison_with_nothing(spec: Object) -> None:
    obj = {"metadata": {"labels": {"a": "b"}}, "spec": spec}
    assert created(obj, TYPE) == compare({}, obj, TYPE).added
    pod = {"spec": {"containers": [{"name": "c", "image": "i"}], "volumes": []}, "metadata": {}}
    assert created(pod, POD) == compare({}, pod, POD).added


@given(SPECS, SPECS)
def test_a_comparison_tells_what_changed_and_nothing_else(one: Object, other: Object) -> None:
    found = compare({"spec": one}, {"spec": other}, TYPE)
    back = compare({"spec": other}, {"spec": one}, TYPE)
    assert (found.added, found.removed, found.modified) == (
        back.removed,
        back.added,
        back.modified,
    )
    assert compare({"spec": one}, {"spec": deepcopy(one)}, TYPE) == Comparison()
    assert compare(ABSENT, {"spec": one}, TYPE).removed == {}


def test_true_is_not_one() -> None:
    found = compare({"spec": {"any": {"x": 1}}}, {"spec": {"any": {"x": True}}}, TYPE)
    assert found.modified == {"f:spec": {"f:any": {"f:x": {}}}}


# --- merging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "applied", "wanted"),
    [
        ("abc", "b", "abc"),  # untouched order stays
        ("abc", "cb", "acb"),  # shared items take the order of the configuration
        ("ab", "xa", "xab"),
        ("ab", "bx", "abx"),
        ("abcd", "dxb", "acdxb"),
        ("", "ab", "ab"),
    ],
)
def test_lists_keep_the_live_order_where_nothing_is_said(
    live: str, applied: str, wanted: str
) -> None:
    merged = merge({"spec": {"set": list(live)}}, {"spec": {"set": list(applied)}}, TYPE)
    assert "".join(merged["spec"]["set"]) == wanted


@given(SPECS, SPECS)
def test_a_merge_says_all_that_was_applied_and_removes_nothing(
    live: Object, config: Object
) -> None:
    merged = merge({"spec": live}, {"spec": config}, TYPE)
    assert merge(merged, {"spec": config}, TYPE) == merged
    found = compare({"spec": config}, merged, TYPE)
    assert not found.modified and not set(fields.paths(found.removed)) & set(
        fields.paths(field_set({"spec": config}, TYPE))
    )
    lost = set(fields.paths(compare({"spec": live}, merged, TYPE).removed))
    assert not lost


def test_removing_takes_items_and_leaves_their_neighbours() -> None:
    spec = {"labels": {"a": "1", "b": "2"}, "ports": [{"port": 1}, {"port": 2, "name": "x"}]}
    gone = fields.of(
        ("f:spec", "f:labels", "f:a"),
        ("f:spec", "f:ports", 'k:{"port":2,"protocol":"TCP"}'),
    )
    assert remove({"spec": spec}, gone, TYPE) == {
        "spec": {"labels": {"b": "2"}, "ports": [{"port": 1}]}
    }


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*SPECS_NAMES, "port", "name", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


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
