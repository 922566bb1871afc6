"""Patches: the RFCs' own cases as we read them, Kubernetes' limits, and strategic merge against a naive model."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube.errors import ApiError
from sampan.kube.patch import create_merge_patch, json_patch, merge_patch, strategic_merge_patch

POD = "io.k8s.api.core.v1.Pod"
DEPLOYMENT = "io.k8s.api.apps.v1.Deployment"

scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.text("ab", max_size=2))
json_keys = st.sampled_from(["a", "b", "c", "/", "~", "~1"])
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(json_keys, inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(json_keys, values, max_size=4)


# --- JSON patch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "operations", "expected"),
    [
        (
            {"foo": "bar"},
            [{"op": "add", "path": "/baz", "value": "qux"}],
            {"foo": "bar", "baz": "qux"},
        ),
        ({"l": ["a", "c"]}, [{"op": "add", "path": "/l/1", "value": "b"}], {"l": ["a", "b", "c"]}),
        ({"l": [1]}, [{"op": "add", "path": "/l/-", "value": [2]}], {"l": [1, [2]]}),
        ({"l": [1, 2, 3]}, [{"op": "remove", "path": "/l/-1"}], {"l": [1, 2]}),
        ({"a": 1, "b": 2}, [{"op": "remove", "path": "/b"}], {"a": 1}),
        ({"a": 1}, [{"op": "replace", "path": "/a", "value": None}], {"a": None}),
        (
            {"a": {"x": 1}, "b": {}},
            [{"op": "move", "from": "/a/x", "path": "/b/y"}],
            {"a": {}, "b": {"y": 1}},
        ),
        ({"l": [1, 2, 3]}, [{"op": "move", "from": "/l/0", "path": "/l/2"}], {"l": [2, 3, 1]}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
        ({"~1": 10}, [{"op": "test", "path": "/~01", "value": 10.0}], {"~1": 10}),
        ({"a/b": 1}, [{"op": "replace", "path": "/a~1b", "value": 2}], {"a/b": 2}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
        ({"a": 1}, [{"op": "test", "path": "/missing", "value": None}], {"a": 1}),
        ({"a": 1}, [{"op": "add", "path": "/", "value": 2}], {"a": 1, "": 2}),
    ],
)
def test_json_patch_applies(document, operations, expected):
    before = copy.deepcopy(document)
    assert json_patch(document, operations) == expected
    assert document == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/missing/deep", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "add", "path": "/l/01", "value": 1},
        {"op": "remove", "path": "/l/-"},
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/t", "value": 1},
        {"op": "move", "from": "/o", "path": "/o/inner"},
        {"op": "copy", "from": "/missing", "path": "/b"},
        {"op": "replace", "path": "", "value": [1]},
    ],
)
def test_what_does_not_apply_is_invalid(operation):
    with pytest.raises(ApiError) as caught:
        json_patch({"a": 1, "l": [1], "o": {}, "t": True}, [operation])
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")
    assert caught.value.details["causes"][0]["message"]


@pytest.mark.parametrize(
    ("operations", "answer"),
    [
        ({"op": "add"}, (400, "BadRequest")),
        ("x", (400, "BadRequest")),
        ([1], (400, "BadRequest")),
        ([{"op": "rename", "path": "/a"}], (422, "Invalid")),
        ([{"op": "add", "path": "/a"}], (422, "Invalid")),
        ([{"op": "add", "path": "a", "value": 1}], (422, "Invalid")),
        ([{"op": "move", "path": "/a"}], (422, "Invalid")),
        ([{"op": ["add"], "path": "/a", "value": 1}], (422, "Invalid")),
    ],
)
def test_what_is_no_list_of_objects_is_a_bad_request_and_a_bad_operation_does_not_apply(
    operations, answer
):
    with pytest.raises(ApiError) as caught:
        json_patch({"a": 1}, operations)
    assert (caught.value.code, caught.value.reason) == answer


def test_operations_are_counted():
    with pytest.raises(ApiError) as caught:
        json_patch({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)
    assert caught.value.code == 413


def test_copies_that_double_are_stopped():
    operations = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 64
    with pytest.raises(ApiError, match="rejected") as caught:
        json_patch({"a": ["x" * 1000]}, operations)
    assert caught.value.code == 422
    assert "exceeding the limit" in caught.value.details["causes"][0]["message"]


@given(objects, objects)
def test_replacing_every_key_gives_the_target(old, new):
    def pointer(key: str) -> str:
        return "/" + key.replace("~", "~0").replace("/", "~1")

    operations = [{"op": "remove", "path": pointer(key)} for key in old if key not in new]
    operations += [
        {"op": "add", "path": pointer(key), "value": value} for key, value in new.items()
    ]
    operations += [
        {"op": "test", "path": pointer(key), "value": value} for key, value in new.items()
    ]
    assert json_patch(old, operations) == new


# --- merge patch ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "x"}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
    ],
)
def test_merge_patch_applies(document, patch, expected):
    before = copy.deepcopy(document)
    assert merge_patch(document, patch) == expected
    assert document == before


@given(objects, objects)
def test_a_merge_difference_leads_to_the_target_and_twice_changes_nothing(old, new):
    patch = create_merge_patch(old, new)
    assert merge_patch(old, patch) == new
    assert merge_patch(merge_patch(old, patch), patch) == new


def test_a_merge_patch_is_an_object():
    with pytest.raises(ApiError) as caught:
        merge_patch({}, [])
    assert caught.value.code == 400


# --- strategic merge patch --------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c", "d"])
images = st.sampled_from(["1", "2", "3"])
containers = st.lists(
    st.fixed_dictionaries({"name": names, "image": images}), unique_by=lambda item: item["name"]
)
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {
                "labels": st.dictionaries(names, images, max_size=3),
                "finalizers": st.lists(st.sampled_from(["x/1", "x/2", "x/3"]), unique=True),
            }
        ),
        "spec": st.fixed_dictionaries({"containers": containers, "nodeName": images}),
    }
)


def naive_difference(old: dict, new: dict) -> dict:
    """What a client sends to make `new` of `old`, written out by hand for these four fields."""
    before = {item["name"]: item for item in old["spec"]["containers"]}
    after = {item["name"]: item for item in new["spec"]["containers"]}
    changes = [item for name, item in after.items() if before.get(name) != item]
    changes += [{"$patch": "delete", "name": name} for name in before if name not in after]
    labels = dict.fromkeys(old["metadata"]["labels"]) | new["metadata"]["labels"]
    gone = [
        item for item in old["metadata"]["finalizers"] if item not in new["metadata"]["finalizers"]
    ]
    metadata = {
        "labels": labels,
        "$setElementOrder/finalizers": new["metadata"]["finalizers"],
        "finalizers": new["metadata"]["finalizers"],
        "$deleteFromPrimitiveList/finalizers": gone,
    }
    spec = {
        "$setElementOrder/containers": [{"name": name} for name in after],
        "containers": changes,
        "nodeName": new["spec"]["nodeName"],
    }
    return {"metadata": metadata, "spec": spec}


@given(pods, pods)
def test_a_strategic_difference_leads_to_the_target(old, new):
    patch = naive_difference(old, new)
    kept_old, kept_patch = copy.deepcopy(old), copy.deepcopy(patch)
    result = strategic_merge_patch(old, patch, POD)
    assert result["spec"] == new["spec"]
    assert result["metadata"]["labels"] == new["metadata"]["labels"]
    assert result["metadata"]["finalizers"] == new["metadata"]["finalizers"]
    assert (old, patch) == (kept_old, kept_patch)
    assert strategic_merge_patch(result, patch, POD) == result


@given(pods, pods)
def test_without_directives_lists_are_united_by_key(old, new):
    result = strategic_merge_patch(old, new, POD)
    merged = {item["name"]: item["image"] for item in result["spec"]["containers"]}
    expected = {item["name"]: item["image"] for item in old["spec"]["containers"]}
    expected |= {item["name"]: item["image"] for item in new["spec"]["containers"]}
    assert merged == expected
    assert result["metadata"]["labels"] == old["metadata"]["labels"] | new["metadata"]["labels"]
    wanted = {*old["metadata"]["finalizers"], *new["metadata"]["finalizers"]}
    assert set(result["metadata"]["finalizers"]) == wanted


@given(pods, pods)
def test_the_order_of_the_patch_holds_among_its_items(old, new):
    result = strategic_merge_patch(old, new, POD)
    asked = [item["name"] for item in new["spec"]["containers"]]
    got = [item["name"] for item in result["spec"]["containers"]]
    assert [name for name in got if name in asked] == asked
    others = [item["name"] for item in old["spec"]["containers"] if item["name"] not in asked]
    assert [name for name in got if name not in asked] == others


def test_an_item_keeps_its_other_fields():
    old = {
        "spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}]}
    }
    patch = {"spec": {"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}]}]}}
    (container,) = strategic_merge_patch(old, patch, POD)["spec"]["containers"]
    assert container["image"] == "1"
    assert {item["name"] for item in container["env"]} == {"X", "Y"}


def test_ports_merge_by_container_port():
    old = {
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}
    }
    ports = [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]
    patch = {"spec": {"containers": [{"name": "a", "ports": ports}]}}
    (container,) = strategic_merge_patch(old, patch, POD)["spec"]["containers"]
    assert container["ports"] == [
        {"containerPort": 80, "protocol": "TCP", "name": "web"},
        {"containerPort": 81},
    ]


def test_retain_keys_clears_a_union():
    old = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    patch = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge_patch(old, patch, DEPLOYMENT) == {
        "spec": {"strategy": {"type": "Recreate"}}
    }


def test_replace_and_delete_directives():
    old = {
        "metadata": {"labels": {"a": "1"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
    }
    replaced = strategic_merge_patch(
        old, {"metadata": {"labels": {"$patch": "replace", "b": "2"}}}, POD
    )
    assert replaced["metadata"]["labels"] == {"b": "2"}
    emptied = strategic_merge_patch(old, {"metadata": {"labels": {"$patch": "delete"}}}, POD)
    assert emptied["metadata"]["labels"] == {}
    listed = strategic_merge_patch(
        old, {"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}, POD
    )
    assert listed["spec"]["containers"] == [{"name": "c"}]


def test_null_deletes_and_leaves_no_null_behind():
    patch = {"metadata": {"labels": {"a": None, "z": None}, "annotations": {"k": None, "l": "1"}}}
    result = strategic_merge_patch({"metadata": {"labels": {"a": "1"}}}, patch, POD)
    assert result == {"metadata": {"labels": {}, "annotations": {"l": "1"}}}


def test_a_list_without_strategy_is_replaced():
    old = {"spec": {"tolerations": [{"key": "a"}], "containers": []}}
    result = strategic_merge_patch(old, {"spec": {"tolerations": [{"key": "b"}]}}, POD)
    assert result["spec"]["tolerations"] == [{"key": "b"}]


@pytest.mark.parametrize(
    ("patch", "code", "text"),
    [
        ([], 400, "cannot unmarshal"),
        ({"spec": {"$retainKeys": "x"}}, 400, "retainKeys"),
        ({"spec": {"$retainKeys": ["a"], "b": 1}}, 400, "retainKeys"),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}}, 400, "primitive list"),
        ({"spec": {"$setElementOrder/containers": "x"}}, 400, "setElementOrder"),
        (
            {
                "spec": {
                    "$setElementOrder/containers": [{"name": "b"}],
                    "containers": [{"name": "c"}],
                }
            },
            400,
            "doesn't match",
        ),
        (
            {"spec": {"containers": [{"image": "x"}]}},
            422,
            "does not contain declared merge key: name",
        ),
        ({"spec": {"containers": ["x"]}}, 422, "one type"),
        ({"spec": {"containers": [[1]]}}, 422, "lists of lists"),
        ({"spec": {"$patch": "explode"}}, 422, "unknown patch type"),
    ],
)
def test_strategic_failures(patch, code, text):
    with pytest.raises(ApiError) as caught:
        strategic_merge_patch({"metadata": {}, "spec": {"containers": [{"name": "a"}]}}, patch, POD)
    assert caught.value.code == code
    causes = caught.value.details.get("causes", [])
    assert text in caught.value.message + "".join(cause["message"] for cause in causes)


@given(objects, values)
def test_no_patch_raises_anything_but_api_error(document, patch):
    for apply in (merge_patch, json_patch, lambda obj, it: strategic_merge_patch(obj, it, POD)):
        try:
            apply(document, patch)
        except ApiError as error:
            assert error.code in (400, 413, 422)


directives = st.dictionaries(
    st.sampled_from(
        [
            "spec",
            "containers",
            "metadata",
            "finalizers",
            "name",
            "$patch",
            "$retainKeys",
            "$setElementOrder/containers",
            "$deleteFromPrimitiveList/finalizers",
        ]
    ),
    st.recursive(
        st.one_of(st.none(), scalars, st.just("delete"), st.just("replace")),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["name", "containers", "$patch", "finalizers"]), inner, max_size=3
            ),
        ),
        max_leaves=8,
    ),
)


@given(directives, directives)
def test_hostile_directives_are_refused_politely(document, patch):
    try:
        strategic_merge_patch(
            {"spec": document, "metadata": document}, {"spec": patch, "metadata": patch}, POD
        )
    except ApiError as error:
        assert error.code in (400, 422)
