"""Is a CustomResourceDefinition valid? The sentences that authors of definitions meet."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sampan.kube.structural import definition, rules
from sampan.kube.structural.resource import ResourceSchema

SCHEMA = "spec.validation.openAPIV3Schema"
STRING = {"type": "string"}


def crd(schema: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema or {"type": "object"}},
        **changes.pop("version", {}),
    }
    spec = {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
        "versions": [version],
        "conversion": {"strategy": "None"},
        **changes,
    }
    return {
        "metadata": {"name": "boats.example.com"},
        "spec": spec,
        "status": {"storedVersions": ["v1"]},
    }


def wrong(found: dict[str, Any]) -> list[str]:
    return [str(cause) for cause in definition.validate(found)]


def of_schema(**properties: Any) -> list[str]:
    return wrong(crd({"type": "object", "properties": properties}))


def test_a_valid_one() -> None:
    assert wrong(crd()) == []


SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "no type": ({"description": "x"}, "[x].type: Required value: must not be empty for specified object fields"),
    "no type of items": ({"type": "array", "items": {}}, "[x].items.type: Required value: must not be empty for specified array items"),
    "no items": ({"type": "array"}, "[x].items: Required value: must be specified"),
    "type in junctor": ({"type": "string", "oneOf": [{"type": "string"}]}, "[x].oneOf[0].type: Forbidden: must be empty to be structural"),
    "pattern": ({"type": "string", "pattern": "("}, "[x].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing ): ("),
    "unknown type": ({"type": "text"}, '[x].type: Unsupported value: "text": supported values: "array", "boolean", "integer", "number", "object", "string"'),
    "reference": ({"type": "string", "$ref": "#/a"}, "[x].$ref: Forbidden: $ref is not supported"),
    "unique items": ({"type": "array", "items": STRING, "uniqueItems": True}, "[x].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"),
    "both properties": ({"type": "object", "properties": {"a": STRING}, "additionalProperties": STRING}, "[x].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"),
    "preserve false": ({"type": "object", "x-kubernetes-preserve-unknown-fields": False}, "[x].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined"),
    "map keys": ({"type": "array", "items": {"type": "object", "properties": {"k": STRING}}, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}, "[x].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"),
    "set of objects": ({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "set"}, '[x].items.x-kubernetes-map-type: Invalid value: "null": must be atomic as item of a list with x-kubernetes-list-type=set'),
    "list type": ({"type": "array", "items": STRING, "x-kubernetes-list-type": "bag"}, '[x].x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map"'),
    "default of another type": ({"type": "integer", "default": "x"}, '[x].default: Invalid value: "string":  in body must be of type integer: "string"'),
    "default out of bounds": ({"type": "object", "properties": {"a": {"type": "integer", "maximum": 1}}, "default": {"a": 2}}, "[x].default.a: Invalid value: 2: a in body should be less than or equal to 1"),
    "default that is pruned": ({"type": "object", "properties": {"a": STRING}, "default": {"b": 1}}, '[x].default: Invalid value: {"b":1}: must not have unknown fields'),
    "embedded without properties": ({"type": "object", "x-kubernetes-embedded-resource": True}, "[x].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"),
    "a rule that is none": ({"type": "string", "x-kubernetes-validations": [{"rule": "self +"}]}, "[x].x-kubernetes-validations[0].rule: Invalid value: "),
    "a rule of another type": ({"type": "string", "x-kubernetes-validations": [{"rule": "size(self)"}]}, '[x].x-kubernetes-validations[0].rule: Invalid value: {"rule":"size(self)"}: cel expression must evaluate to a bool'),
    "an empty rule": ({"type": "string", "x-kubernetes-validations": [{"rule": " "}]}, "[x].x-kubernetes-validations[0].rule: Required value: rule is not specified"),
    "a reason": ({"type": "string", "x-kubernetes-validations": [{"rule": "true", "reason": "Because"}]}, '[x].x-kubernetes-validations[0].reason: Unsupported value: "Because": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"'),
    "a field path": ({"type": "object", "properties": {"a": STRING}, "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".b"}]}, '[x].x-kubernetes-validations[0].fieldPath: Invalid value: ".b": must be a valid path'),
    "oldSelf of items without identity": ({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}, f"[x].items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within {SCHEMA}.properties[x]"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(name: str) -> None:
    schema, expected = SCHEMAS[name]
    found = of_schema(x=schema)
    assert any(each.startswith(f"{SCHEMA}.properties{expected}") for each in found), found


def test_the_root_of_a_schema() -> None:
    assert wrong(crd({"type": "string"})) == [
        f'{SCHEMA}.type: Invalid value: "string": must be object at the root'
    ]
    assert wrong(crd({"type": "object", "nullable": True})) == [
        f"{SCHEMA}.nullable: Forbidden: nullable cannot be true at the root"
    ]
    found = of_schema(metadata={"type": "object", "properties": {"labels": {"type": "object"}}})
    assert found == [
        f"{SCHEMA}.properties[metadata]: Forbidden: must not specify anything other than name and generateName, "
        "but metadata is implicitly specified"
    ]
    status = {"subresources": {"status": {}}}
    found = wrong(crd({"type": "object", "oneOf": []}, version=status))
    assert found == []
    found = wrong(crd({"type": "object", "allOf": [{"minProperties": 1}]}, version=status))
    assert found[0].endswith("at the root of the schema if the status subresource is enabled")


def test_versions_that_differ_are_named_one_by_one() -> None:
    found = crd({"type": "object", "properties": {"a": {}}})
    found["spec"]["versions"].append(
        {"name": "v2", "served": True, "storage": False, "schema": {"openAPIV3Schema": {"type": "object"}}}
    )  # fmt: skip
    assert wrong(found) == [
        "spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for "
        "specified object fields"
    ]
    found["spec"]["versions"][1] |= {"name": "v1", "storage": True}
    texts = [each.partition(": ")[0] + " … " + each.rpartition(": ")[2] for each in wrong(found)]
    assert "spec.versions … must contain unique version names" in texts
    assert "spec.versions … must have exactly one version marked as storage version" in texts


def test_authorities_of_a_conversion_webhook_stay_readable() -> None:
    def served(bundle: str) -> dict[str, Any]:
        config = {"url": "https://x", "caBundle": base64.b64encode(bundle.encode()).decode()}
        webhook = {"clientConfig": config, "conversionReviewVersions": ["v1"]}
        found = crd(conversion={"strategy": "Webhook", "webhook": webhook})
        found["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
        return found

    good = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    faulty = "spec.conversion.webhookClientConfig.caBundle"
    for old, new, wanted in (("x", "y", []), (good, good, []), (good, "x", [faulty])):
        causes = definition.validate_changes(served(new), served(old))
        assert [cause.field for cause in causes] == wanted


def test_names_conversion_columns_and_scale() -> None:
    found = crd(
        names={"plural": "Boats", "singular": "boat", "kind": "Boat", "listKind": "Boat"},
        conversion={"strategy": "Webhook", "webhook": {"clientConfig": {"url": "http://x"}}},
        version={
            "additionalPrinterColumns": [{"name": "A", "type": "text", "jsonPath": "spec.a"}],
            "subresources": {"scale": {"specReplicasPath": ".status.n", "statusReplicasPath": "n"}},
            "selectableFields": [{"jsonPath": ".spec.nope"}],
            "deprecationWarning": "old",
        },
    )
    texts = wrong(found)
    for expected in (
        'metadata.name: Invalid value: "boats.example.com": must be spec.names.plural+"."+spec.group',
        'spec.names.listKind: Invalid value: "Boat": kind and listKind may not be the same',
        "spec.conversion.conversionReviewVersions: Required value",
        'spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string',
        'spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec.a": must be a simple json path starting with .',
        'spec.subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a json path under .spec',
        'spec.selectableFields[0].jsonPath: Invalid value: ".spec.nope": is an invalid path: does not refer to a valid field',
        'spec.versions[0].deprecationWarning: Invalid value: "old": can only be set for deprecated versions',
    ):
        assert expected in texts, texts
    assert any(each.startswith("spec.names.plural: Invalid value") for each in texts)
    assert any("'https' is the only allowed URL scheme" in each for each in texts)


def test_protected_groups_need_approval() -> None:
    found = crd(group="x.k8s.io")
    found["metadata"]["name"] = "boats.x.k8s.io"
    [text] = wrong(found)
    assert text.startswith("metadata.annotations[api-approved.kubernetes.io]: Required value")
    found["metadata"]["annotations"] = {"api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/78458"}  # fmt: skip
    assert wrong(found) == []


NULLABLE = {"type": "array", "items": {"type": "string", "nullable": True}, "x-kubernetes-list-type": "set"}  # fmt: skip
SELECTABLE = [{"jsonPath": f".f{index}"} for index in range(9)]
OLD_SINS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "unknown type": (crd({"type": "object", "properties": {"a": {"type": "text"}}}),
                     crd({"type": "object", "properties": {"b": {"type": "word"}}}), True),
    "nullable items": (crd({"type": "object", "properties": {"a": NULLABLE}}),
                       crd({"type": "object", "properties": {"b": NULLABLE}}), True),
    "another": (crd({"type": "object", "properties": {"a": {"type": "text"}}}),
                crd({"type": "object", "properties": {"b": NULLABLE}}), False),
    "preserved": (crd(preserveUnknownFields=True), crd(preserveUnknownFields=True), True),
    "selectable": (crd({"type": "object", "properties": {f"f{index}": STRING for index in range(9)}},
                       version={"selectableFields": SELECTABLE}),
                   crd({"type": "object", "properties": {f"f{index}": STRING for index in range(9)}},
                       version={"selectableFields": SELECTABLE[::-1]}), False),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD_SINS)
def test_an_update_is_not_refused_for_what_was_wrong_before(name: str) -> None:
    old, new, allowed = OLD_SINS[name]
    assert definition.validate(new), "a new definition is refused"
    assert definition.validate_update(old, old) == []
    assert (definition.validate_update(new, old) == []) is allowed


def test_what_may_not_change() -> None:
    old, new = crd(), crd(group="other.com", scope="Cluster")
    new["metadata"]["name"] = "boats.other.com"
    found = [str(each) for each in definition.validate_update(new, old)]
    assert found == ['spec.group: Invalid value: "other.com": field is immutable']
    old["status"]["conditions"] = [{"type": "Established", "status": "True"}]
    found = [str(each) for each in definition.validate_update(new, old)]
    assert 'spec.scope: Invalid value: "Cluster": field is immutable' in found
    new = crd()
    new["status"]["storedVersions"] = ["v0", "v1"]
    [text] = [str(each) for each in definition.validate_update(new, crd())]
    assert text.startswith(
        'status.storedVersions[0]: Invalid value: "v0": missing from spec.versions; v0 was'
    )


# --- rules on objects ---------------------------------------------------------------------------------


def found_by(schema: dict[str, Any], new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:  # fmt: skip
    resource = ResourceSchema(schema)
    causes = resource.validate_create(new) if old is None else resource.validate_update(new, old)
    return [str(each) for each in causes + resource.check_rules(new, old, causes)]


def with_rules(*found: dict[str, Any], **properties: Any) -> dict[str, Any]:
    spec = {"type": "object", "properties": properties, "x-kubernetes-validations": list(found)}
    return {"type": "object", "properties": {"spec": spec}}


INT = {"type": "integer"}


def test_messages_paths_and_reasons() -> None:
    schema = with_rules(
        {"rule": "self.a <= self.b", "messageExpression": "'a is ' + string(self.a)", "fieldPath": ".a"},
        {"rule": "self.a > 0", "message": "a must be positive", "reason": "FieldValueForbidden"},
        {"rule": "self.b < 5"},
        a=INT, b=INT,
    )  # fmt: skip
    assert found_by(schema, {"spec": {"a": 1, "b": 2}}) == []
    assert found_by(schema, {"spec": {"a": 0, "b": -1}}) == [
        "spec.a: Invalid value: a is 0",
        "spec: Forbidden: a must be positive",
    ]
    assert found_by(schema, {"spec": {"a": 1, "b": 9}}) == [
        "spec: Invalid value: failed rule: self.b < 5"
    ]
    # What is of the wrong type keeps rules from being asked.
    assert found_by(schema, {"spec": {"a": "x", "b": 9}})[-1].startswith(
        '<nil>: Invalid value: "null": some validation rules were not checked'
    )


def test_transition_rules() -> None:
    item = {"type": "object", "required": ["k"], "properties": {
        "k": STRING, "v": {**INT, "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]},
    }}  # fmt: skip
    keyed = {
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k"],
    }
    schema = with_rules(
        {"rule": "self.a >= oldSelf.a", "message": "may only grow"},
        {"rule": "oldSelf.hasValue() ? self.b == oldSelf.value().b : self.b == 1", "optionalOldSelf": True, "message": "b is fixed"},
        a=INT, b=INT, l=keyed,
    )  # fmt: skip
    assert found_by(schema, {"spec": {"a": 1, "b": 2}}) == ["spec: Invalid value: b is fixed"]
    old = {"spec": {"a": 2, "b": 1, "l": [{"k": "x", "v": 1}, {"k": "y", "v": 5}]}}
    new = {"spec": {"a": 1, "b": 1, "l": [{"k": "y", "v": 4}, {"k": "z", "v": 0}]}}
    assert found_by(schema, new, old) == [
        "spec: Invalid value: may only grow",
        "spec.l[0].v: Invalid value: 4: failed rule: self >= oldSelf",
    ]


def test_rules_forgive_what_did_not_change() -> None:
    inner = {
        "type": "object",
        "properties": {"a": INT},
        "x-kubernetes-validations": [{"rule": "self.a > 5"}],
    }
    schema = with_rules(inner=inner, other=INT)
    old = {"spec": {"inner": {"a": 1}, "other": 1}}
    assert found_by(schema, old)
    assert found_by(schema, {"spec": {"inner": {"a": 1}, "other": 2}}, old) == []
    assert found_by(schema, {"spec": {"inner": {"a": 2}, "other": 1}}, old)


def test_rules_on_one_object_share_a_budget() -> None:
    expensive = {"rule": "self.l.all(x, self.l.all(y, x != y + 'no'))"}
    schema = with_rules(expensive, {"rule": "false"}, l={"type": "array", "items": STRING})
    found = found_by(schema, {"spec": {"l": [f"{n:0>20}" for n in range(2000)]}})
    assert len(found) == 1 and "call cost exceeds limit for rule" in found[0], found
    cheap = ResourceSchema(
        with_rules({"rule": "self.l.size() > 1"}, l={"type": "array", "items": STRING})
    )
    assert cheap.check_rules({"spec": {"l": ["a", "b"]}}, None, []) == []


def test_rules_see_metadata_of_the_whole() -> None:
    schema = {
        "type": "object",
        "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a')"}],
    }
    assert rules.check(schema, SCHEMA) == []
    assert found_by(schema, {"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "a"}}) == []
    assert found_by(schema, {"apiVersion": "x/v1", "kind": "X", "metadata": {"name": "b"}})
