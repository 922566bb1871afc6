"""Definitions whose rules would cost too much are refused, with a hint at what would help."""

from __future__ import annotations

from typing import Any

from sampan.kube.structural import costs

Raw = dict[str, Any]
PATH = "spec.validation.openAPIV3Schema"


def schema(**properties: Raw) -> Raw:
    spec = {"type": "object", "properties": properties}
    return {"type": "object", "properties": {"spec": spec}}


def ruled(raw: Raw, *rules: str) -> Raw:
    return {**raw, "x-kubernetes-validations": [{"rule": each} for each in rules]}


def test_keys_of_maps_count_for_nothing() -> None:
    """As in Kubernetes: the Gateway API's rules on annotations rely on it."""
    rule = {"rule": "self.all(key, key.matches('^[a-z0-9./-]+$'))"}
    map_of = {"type": "object", "maxProperties": 8, "additionalProperties": {"type": "string"}}
    schema = {**map_of, "x-kubernetes-validations": [rule]}
    assert costs.check({"type": "object", "properties": {"a": schema}}, "s") == []


def test_cheap_rules_pass() -> None:
    numbers = {"type": "array", "items": {"type": "integer"}}
    assert costs.check(schema(a=ruled(numbers, "self.all(x, x > 0)")), PATH) == []


def test_a_loop_in_a_loop_needs_bounds() -> None:
    rule = "self.all(x, self.exists(y, x == y))"
    numbers: Raw = {"type": "array", "items": {"type": "integer"}}
    single, whole = costs.check(schema(a=ruled(numbers, rule)), PATH)[0::2]
    assert single.field == f"{PATH}.properties[spec].properties[a].x-kubernetes-validations[0].rule"
    assert single.message == (
        "Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, "
        "or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
    assert whole.field == PATH
    assert "estimated rule cost total for entire OpenAPIv3 schema exceeds budget" in whole.message
    assert costs.check(schema(a=ruled({**numbers, "maxItems": 100}, rule)), PATH) == []


def test_a_rule_on_items_runs_once_for_each() -> None:
    text = ruled({"type": "string"}, "self.contains('abc')")
    found = costs.check(schema(a={"type": "array", "items": text}), PATH)
    assert found[0].field.endswith("properties[a].items.x-kubernetes-validations[0].rule")
    bounded = ruled({"type": "string", "maxLength": 10}, "self.contains('abc')")
    assert costs.check(schema(a={"type": "array", "maxItems": 1000, "items": bounded}), PATH) == []


def test_many_rules_together() -> None:
    # Each is below its own limit, the eleven of them are not below that of the definition.
    rule = "self.all(x, self.exists(y, x == y))"
    numbers: Raw = {"type": "array", "maxItems": 1200, "items": {"type": "integer"}}
    fields = {f"f{number}": ruled(numbers, rule) for number in range(13)}
    found = costs.check(schema(**fields), PATH)
    assert [each.message.split(" (")[0] for each in found] == [
        *[
            "Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        ]
        * 4,
        found[-1].message.split(" (")[0],
    ]
    assert found[-1].field == PATH


def test_bounds_are_those_that_real_definitions_were_written_against() -> None:
    """Rules as OpenShift has them: Kubernetes accepts them, so their bound must not be higher here."""
    text = {"type": "string", "maxLength": 512}
    items = {"type": "array", "maxItems": 256, "items": ruled(
        text, "size(self.split('/')[0].split('.')) == 1 ? self.split('/')[0] == 'localhost' : true"
    )}  # fmt: skip
    image = ruled(
        {**text, "maxLength": 447}, r"self.split('@')[1].matches('^sha256:[a-f0-9]{64}$')"
    )
    path = ruled(
        {**text, "maxLength": 1023}, "self.split('.', 16).all(f, f.matches('^[a-zA-Z]{1,63}$'))"
    )
    pem = ruled(
        {**text, "maxLength": 8192, "format": "byte"},
        "string(self).findAll('-----BEGIN').size() > 0",
    )
    url = ruled(
        {"type": "string"}, "isURL(self)", "matches(url(self).getEscapedPath(), '^/v[0-9]+$')"
    )
    subnet = ruled({"type": "string"}, "isCIDR(self) && cidr(self).ip().family() == 4")
    whole = schema(items=items, image=image, path=path, pem=pem, url=url, subnet=subnet)
    whole["x-kubernetes-validations"] = [{"rule": "size('router-' + self.metadata.name) <= 253"}]
    assert costs.check(whole, PATH) == []
