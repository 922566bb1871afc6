"""Selectors: every text round-trips, and matching agrees with a naive reading of the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import selectors
from sampan.kube.errors import ApiError
from sampan.kube.selectors import LabelSelector, Requirement, parse_fields, parse_labels

keys = st.sampled_from(["a", "b", "app.kubernetes.io/name", "tier"])
values = st.sampled_from(["", "x", "y", "1", "20", "v1.2_3-x"])
labels = st.dictionaries(keys, values)


@st.composite
def requirements(draw):
    key = draw(keys)
    operator = draw(st.sampled_from(["in", "notin", "exists", "!", ">", "<"]))
    if operator in ("in", "notin"):
        return Requirement(key, operator, frozenset(draw(st.lists(values, min_size=1, max_size=3))))
    if operator in (">", "<"):
        return Requirement(key, operator, frozenset([str(draw(st.integers(0, 30)))]))
    return Requirement(key, operator)


def naive(requirement: Requirement, found: dict[str, str]) -> bool:
    key, operator, wanted = requirement
    present = key in found
    if operator == "exists":
        return present
    if operator == "!":
        return not present
    if operator == "in":
        return present and found[key] in wanted
    if operator == "notin":
        return not present or found[key] not in wanted
    if not present or not found[key].lstrip("-").isdigit():
        return False
    (bound,) = wanted
    return int(found[key]) > int(bound) if operator == ">" else int(found[key]) < int(bound)


@given(st.lists(requirements(), max_size=4), labels)
def test_matching_is_the_conjunction_of_naive_matches(wanted, found):
    expected = all(naive(requirement, found) for requirement in wanted)
    assert LabelSelector(wanted).matches(found) == expected


@given(st.lists(requirements(), max_size=4), labels)
def test_text_round_trips(wanted, found):
    selector = LabelSelector(wanted)
    again = parse_labels(str(selector))
    assert again == selector
    assert again.matches(found) == selector.matches(found)


@given(st.dictionaries(keys, values), labels)
def test_a_map_matches_when_it_is_a_subset(wanted, found):
    assert selectors.from_map(wanted).matches(found) == (wanted.items() <= found.items())


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_bad_request(text):
    try:
        parse_labels(text)
    except ApiError as error:
        assert (error.code, error.reason) == (400, "BadRequest")


@given(st.text(max_size=30))
def test_any_field_text_parses_or_is_a_bad_request(text):
    try:
        parse_fields(text)
    except ApiError as error:
        assert error.code == 400


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b.c"]), st.sampled_from(["=", "!="]), st.text(max_size=8))
    )
)
def test_field_text_round_trips(parts):
    made = selectors.FieldSelector([selectors.FieldRequirement(*part) for part in parts])
    assert parse_fields(str(made)).requirements == made.requirements


def test_none_matches_nothing_and_empty_everything():
    assert not selectors.from_object(None).matches({"a": "b"})
    assert selectors.from_object({}).matches(None)
    assert selectors.from_object({}).empty
    assert not selectors.from_object(None).empty


def test_object_expressions():
    selector = selectors.from_object(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector.matches({"app": "web", "tier": "a"})
    assert not selector.matches({"app": "web", "tier": "a", "old": ""})
    assert str(selector) == "app=web,!old,tier in (a,b)"


@pytest.mark.parametrize(
    "text", [",", "a b", "a in b", "=a", "a,,b", "a=b,", "a in (b", "a>x", "-a", "a=b=c"]
)
def test_what_is_no_selector(text):
    with pytest.raises(ApiError, match="unable to parse requirement") as caught:
        parse_labels(text)
    assert caught.value.code == 400


def test_fields_match_by_path():
    pod = {"metadata.name": "web", "spec.nodeName": ""}
    get = lambda path: pod.get(path, "")  # noqa: E731
    assert parse_fields("metadata.name=web,spec.nodeName=").matches(get)
    assert not parse_fields("metadata.name==web,spec.nodeName!=").matches(get)
    assert parse_fields("metadata.name=web").required_value("metadata.name") == "web"
    with pytest.raises(ApiError, match="can't understand"):
        parse_fields("metadata.name")
