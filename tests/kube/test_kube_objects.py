"""Errors, object helpers and names."""

import pytest

from sampan.kube import errors, names, objects


@pytest.mark.parametrize(
    ("error", "code", "reason", "message"),
    [
        (errors.not_found("pods", "a"), 404, "NotFound", 'pods "a" not found'),
        (
            errors.not_found("deployments", "a", "apps"),
            404,
            "NotFound",
            'deployments.apps "a" not found',
        ),
        (errors.already_exists("pods", "a"), 409, "AlreadyExists", 'pods "a" already exists'),
        (
            errors.conflict("pods", "a", "the object has been modified"),
            409,
            "Conflict",
            'Operation cannot be fulfilled on pods "a": the object has been modified',
        ),
        (errors.forbidden("pods", "a", "no"), 403, "Forbidden", 'pods "a" is forbidden: no'),
        (errors.forbidden("pods", "", "no"), 403, "Forbidden", "pods is forbidden: no"),
        (errors.expired("old"), 410, "Expired", "old"),
        (errors.too_large("x"), 413, "RequestEntityTooLarge", "Request entity is too large: x"),
        (errors.internal("x"), 500, "InternalError", "Internal error occurred: x"),
    ],
)
def test_status_of_errors(error, code, reason, message):
    status = error.status()
    assert (status["code"], status["reason"], status["message"]) == (code, reason, message)
    assert (status["kind"], status["apiVersion"], status["status"]) == ("Status", "v1", "Failure")
    again = errors.ApiError.from_status(status)
    assert (again.code, again.reason, again.message, again.details) == (
        error.code,
        error.reason,
        error.message,
        error.details,
    )


def test_invalid_lists_its_causes():
    causes = [
        errors.required("spec.containers[0].image"),
        errors.invalid_value("metadata.name", "X", "is bad"),
        errors.not_supported("spec.type", "Foo", ["A", "B"]),
        errors.duplicate("spec.x", "a"),
        errors.forbidden_field("spec", "no"),
        errors.too_long("data", "", 5),
        errors.too_many("endpoints", 3, 1),
        errors.not_found_value("spec.y", "v"),
        errors.invalid_value("spec.selector", {"a": "b"}, "field is immutable"),
    ]
    error = errors.invalid("Deployment", "a", causes, "apps")
    assert error.message == (
        'Deployment.apps "a" is invalid: [spec.containers[0].image: Required value, '
        'metadata.name: Invalid value: "X": is bad, '
        'spec.type: Unsupported value: "Foo": supported values: "A", "B", '
        'spec.x: Duplicate value: "a", spec: Forbidden: no, data: Too long: may not be more than 5 bytes, '
        'endpoints: Too many: 3: must have at most 1 item, spec.y: Not found: "v", '
        'spec.selector: Invalid value: {"a":"b"}: field is immutable]'
    )
    assert error.details["causes"][0] == {
        "reason": "FieldValueRequired",
        "message": "Required value",
        "field": "spec.containers[0].image",
    }
    assert (error.details["kind"], error.details["group"]) == ("Deployment", "apps")


def test_a_status_from_elsewhere_may_lack_anything():
    error = errors.ApiError.from_status({})
    assert (error.code, error.message) == (500, "unknown error")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (
            names.dns1123_label,
            ["a", "a-1", "0"],
            ["", "A", "a.b", "-a", "a-", "a" * 64, "ä", "a\n"],
        ),
        (names.dns1123_subdomain, ["a", "a.b", "1.2"], ["", "A", "a..b", ".a", "a" * 254, "a.b\n"]),
        (names.dns1035_label, ["a", "a1"], ["1a", "", "a.b", "a" * 64]),
        (
            names.label_key,
            ["a", "A_b.c", "x.io/a"],
            ["", "/a", "x/", "a/b/c", "X.io/a", "-a", "a" * 64],
        ),
        (names.label_value, ["", "a", "A.b_c"], ["-a", "a b", "a" * 64, "a\n"]),
        (names.annotation_key, ["Example.com/a"], ["a b"]),
        (names.config_key, ["a", ".a", "A-b_c"], ["", ".", "..", "..a", "a/b", "a" * 254]),
        (names.env_var, ["A", "1 a", "a-b"], ["", "a=b", "ä", "a\n"]),
        (names.port_name, ["http", "a-1"], ["", "80", "a--b", "-a", "A", "a" * 16]),
        (names.ip, ["10.0.0.1", "::1"], ["", "10.0.0", "010.0.0.1", "a", "fe80::1%eth0"]),
        (
            names.cidr,
            ["10.0.0.0/8", "::/0"],
            ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/255.0.0.0"],
        ),
        (names.percent, ["1%"], ["%", "1", "-1%"]),
        (names.path_segment, ["system:a", "A B"], [".", "..", "a/b", "a%b"]),
    ],
)
def test_names(rule, good, bad):
    assert [value for value in good if rule(value)] == []
    assert [value for value in bad if not rule(value)] == []


def test_generated_names_may_end_in_a_dash():
    assert names.for_prefix(names.dns1123_label)("web-") == []
    assert names.for_prefix(names.dns1123_label)("-") != []


def test_the_wording_of_names():
    assert names.dns1123_label("A_b") == [
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must "
        "start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for "
        "validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    ]


def test_conditions_move_their_time_only_with_their_status():
    pod = {}
    assert objects.set_condition(pod, "Ready", "False", "Waiting", "x", "2026-01-01T00:00:00Z")
    assert not objects.set_condition(pod, "Ready", "False", "Waiting", "x", "2026-01-02T00:00:00Z")
    assert objects.set_condition(pod, "Ready", "False", "Other", "", "2026-01-02T00:00:00Z")
    assert objects.condition(pod, "Ready") == {
        "type": "Ready",
        "status": "False",
        "reason": "Other",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    assert not objects.pod_ready(pod)
    assert objects.set_condition(pod, "Ready", "True", now="2026-01-03T00:00:00Z")
    assert objects.pod_ready(pod)
    assert objects.condition(pod, "Ready")["lastTransitionTime"] == "2026-01-03T00:00:00Z"


def test_readers_tolerate_absence():
    for obj in ({}, {"metadata": None}, {"metadata": {"labels": None, "ownerReferences": None}}):
        assert objects.name(obj) == ""
        assert objects.labels(obj) == {}
        assert objects.controller_of(obj) is None
        assert not objects.is_deleting(obj)
        assert objects.condition(obj, "Ready") is None


def test_owner_references():
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a", "uid": "u"}}
    pod = {"metadata": {"ownerReferences": [objects.owner_reference(owner)]}}
    assert objects.controller_of(pod)["uid"] == "u"
    assert objects.owner(pod, "ReplicaSet")["name"] == "a"
    assert objects.owner(pod, "Job") is None


def test_times():
    assert objects.parse_time(objects.now()).tzinfo is not None
    assert len(objects.micro_now()) == len("2026-01-31T09:30:00.000000Z")
    assert objects.clone({"a": [1]}) == {"a": [1]}
