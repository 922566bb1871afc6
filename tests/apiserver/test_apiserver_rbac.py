"""RBAC: rules, index, aggregation, escalation, the default roles, the node's limits, and the reviews that ask."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.apiserver import bootstrap_rbac
from sampan.apiserver.authz import Authorizer, forbidden
from sampan.apiserver.rbac import Attributes, RBACIndex, Rule, missing_rules
from sampan.client.transport import User
from sampan.kube.errors import ApiError

ALICE = User("alice", ("system:authenticated",))
MASTER = User("root", ("system:masters",))


def rule(**fields: Any) -> dict[str, Any]:
    return fields


def role(name: str, *rules: dict[str, Any], namespace: str = "", **more: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": more.pop("labels", {})}
    if namespace:
        metadata["namespace"] = namespace
    return {"metadata": metadata, "rules": list(rules), **more}


def binding(
    name: str, kind: str, to: str, *subjects: dict[str, str], namespace: str = ""
) -> dict[str, Any]:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {
        "metadata": metadata,
        "roleRef": {"kind": kind, "name": to},
        "subjects": list(subjects),
    }


def user(name: str) -> dict[str, str]:
    return {"kind": "User", "name": name}


def authorizer(index: RBACIndex) -> Authorizer:
    return Authorizer(index)


def pods(
    verb: str, *, who: User = ALICE, ns: str = "a", name: str = "", sub: str = ""
) -> Attributes:
    return Attributes(who, verb, "", "v1", "pods", sub, ns, name)


READ_PODS = rule(apiGroups=[""], resources=["pods"], verbs=["get", "list"])


@pytest.mark.parametrize(
    ("given", "asked", "allowed"),
    [
        (READ_PODS, pods("get"), True),
        (READ_PODS, pods("delete"), False),
        (READ_PODS, pods("get", sub="log"), False),
        (rule(apiGroups=[""], resources=["*"], verbs=["get"]), pods("get", sub="log"), True),
        (rule(apiGroups=[""], resources=["*/log"], verbs=["get"]), pods("get", sub="log"), True),
        (rule(apiGroups=["apps"], resources=["pods"], verbs=["*"]), pods("get"), False),
        (rule(apiGroups=["*"], resources=["pods"], verbs=["*"]), pods("get"), True),
        (READ_PODS | {"resourceNames": ["x"]}, pods("get", name="x"), True),
        (READ_PODS | {"resourceNames": ["x"]}, pods("get", name="y"), False),
        (READ_PODS | {"resourceNames": ["x"]}, pods("list"), False),
        (
            rule(nonResourceURLs=["/a/*"], verbs=["get"]),
            Attributes(ALICE, "get", path="/a/b"),
            True,
        ),
        (rule(nonResourceURLs=["/a"], verbs=["get"]), Attributes(ALICE, "get", path="/a/b"), False),
        (rule(nonResourceURLs=["*"], verbs=["*"]), pods("get"), False),
        (
            rule(apiGroups=["*"], resources=["*"], verbs=["*"]),
            Attributes(ALICE, "get", path="/a"),
            False,
        ),
    ],
)
def test_rule(given: dict[str, Any], asked: Attributes, allowed: bool) -> None:
    assert Rule.of(given).allows(asked) is allowed


def test_role_counts_only_in_its_namespace() -> None:
    index = RBACIndex()
    index.apply("clusterroles", role("reader", READ_PODS))
    index.apply("rolebindings", binding("b", "ClusterRole", "reader", user("alice"), namespace="a"))
    check = authorizer(index)
    assert check.authorize(pods("get", ns="a")).allowed
    assert not check.authorize(pods("get", ns="b")).allowed
    assert not check.authorize(pods("list", ns="")).allowed
    reason = check.authorize(pods("get")).reason
    assert reason == 'RBAC: allowed by RoleBinding "b/a" of ClusterRole "reader" to User "alice"'


def test_change_is_seen_at_once() -> None:
    index = RBACIndex()
    check = authorizer(index)
    index.apply("roles", role("r", READ_PODS, namespace="a"))
    assert not check.authorize(pods("get")).allowed
    bound = binding("b", "Role", "r", user("alice"), namespace="a")
    index.apply("rolebindings", bound)
    assert check.authorize(pods("get")).allowed
    index.apply("roles", role("r", namespace="a"))
    assert not check.authorize(pods("get")).allowed
    index.apply("roles", role("r", READ_PODS, namespace="a"))
    index.apply("rolebindings", bound, deleted=True)
    assert not check.authorize(pods("get")).allowed
    assert index._by_subject == {}


def test_service_account_and_group_subjects() -> None:
    index = RBACIndex()
    index.apply("clusterroles", role("reader", READ_PODS))
    account = {"kind": "ServiceAccount", "name": "robot"}
    group = {"kind": "Group", "name": "staff"}
    index.apply(
        "rolebindings", binding("b", "ClusterRole", "reader", account, group, namespace="a")
    )
    check = authorizer(index)
    robot = User("system:serviceaccount:a:robot", ("system:serviceaccounts",))
    assert check.authorize(pods("get", who=robot)).allowed
    assert check.authorize(pods("get", who=User("bob", ("staff",)))).allowed
    assert not check.authorize(pods("get", who=User("system:serviceaccount:b:robot"))).allowed


def test_aggregation_follows_new_roles() -> None:
    index = RBACIndex()
    selector = {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}
    index.apply("clusterroles", role("sum", aggregationRule=selector))
    index.apply("clusterrolebindings", binding("b", "ClusterRole", "sum", user("alice")))
    check = authorizer(index)
    assert not check.authorize(pods("get")).allowed
    part = role("part", READ_PODS, labels={"to": "sum"})
    index.apply("clusterroles", part)
    assert check.authorize(pods("get")).allowed
    index.apply("clusterroles", part, deleted=True)
    assert not check.authorize(pods("get")).allowed


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (
            pods("list", ns="y"),
            'pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "y"',
        ),
        (
            pods("get", ns="y", name="n", sub="log"),
            'pods "n" is forbidden: User "alice" cannot get resource "pods/log" in API group "" in the namespace "y"',
        ),
        (
            Attributes(ALICE, "create", "apps", "v1", "deployments"),
            'deployments.apps is forbidden: User "alice" cannot create resource "deployments" in API group "apps" '
            "at the cluster scope",
        ),
        (
            Attributes(ALICE, "get", path="/metrics"),
            'forbidden: User "alice" cannot get path "/metrics"',
        ),
    ],
)
def test_wording(asked: Attributes, text: str) -> None:
    error = forbidden(asked)
    assert (error.code, error.reason, error.message) == (403, "Forbidden", text)


def test_aggregates_of_aggregates_and_cycles() -> None:
    index = bootstrapped()
    label = {"rbac.authorization.k8s.io/aggregate-to-view": "true"}
    boats = rule(apiGroups=["example.com"], resources=["boats"], verbs=["get"])
    index.apply("clusterroles", role("boats", boats, labels=label))
    for name in ("view", "edit", "admin"):
        assert Rule.of(boats) in index.rules_of_role(("", name))
    itself = {"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]}
    index.apply(
        "clusterroles", role("sum", READ_PODS, labels={"to": "sum"}, aggregationRule=itself)
    )
    assert index.rules_of_role(("", "sum")) == (Rule.of(READ_PODS),)


# --- granting -----------------------------------------------------------------------------------------


def test_missing_rules() -> None:
    held = [Rule.of(READ_PODS)]
    wanted = [Rule.of(rule(apiGroups=[""], resources=["pods"], verbs=["get", "delete", "watch"]))]
    (missing,) = missing_rules(held, wanted)
    assert str(missing) == '{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}'
    everything = [Rule.of(rule(apiGroups=["*"], resources=["*"], verbs=["*"]))]
    assert missing_rules(everything, wanted) == []
    assert missing_rules(wanted, everything) != []
    named = [Rule.of(READ_PODS | {"resourceNames": ["x"]})]
    assert missing_rules(held, named) == []
    assert missing_rules(named, held) != []


def test_nobody_grants_what_they_do_not_hold() -> None:
    index = RBACIndex()
    index.apply("clusterroles", role("reader", READ_PODS))
    index.apply("clusterroles", role("owner", rule(apiGroups=["*"], resources=["*"], verbs=["*"])))
    index.apply("clusterrolebindings", binding("b", "ClusterRole", "reader", user("alice")))
    check = authorizer(index)
    check.check_role(ALICE, "roles", role("new", READ_PODS, namespace="a"), None)
    more = role("new", rule(apiGroups=[""], resources=["secrets"], verbs=["get"]), namespace="a")
    with pytest.raises(ApiError) as caught:
        check.check_role(ALICE, "roles", more, None)
    assert caught.value.code == 403
    assert (
        'user "alice" (groups=["system:authenticated"]) is attempting to grant'
        in caught.value.message
    )
    assert '{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}' in caught.value.message
    check.check_role(ALICE, "roles", more, more)  # nothing of it changes
    check.check_role(MASTER, "roles", more, None)
    with pytest.raises(ApiError):
        check.check_binding(
            ALICE, "clusterrolebindings", binding("x", "ClusterRole", "owner", user("alice")), None
        )
    check.check_binding(
        ALICE,
        "rolebindings",
        binding("x", "ClusterRole", "reader", user("bob"), namespace="a"),
        None,
    )


def test_bind_verb_lifts_the_rule() -> None:
    index = RBACIndex()
    bind = rule(
        apiGroups=["rbac.authorization.k8s.io"],
        resources=["clusterroles"],
        verbs=["bind"],
        resourceNames=["owner"],
    )
    index.apply("clusterroles", role("owner", rule(apiGroups=["*"], resources=["*"], verbs=["*"])))
    index.apply("clusterroles", role("binder", bind))
    index.apply("clusterrolebindings", binding("b", "ClusterRole", "binder", user("alice")))
    check = authorizer(index)
    check.check_binding(
        ALICE, "clusterrolebindings", binding("x", "ClusterRole", "owner", user("bob")), None
    )


# --- the defaults -------------------------------------------------------------------------------------


def bootstrapped() -> RBACIndex:
    index = RBACIndex()
    for plural, obj in bootstrap_rbac.objects():
        index.apply(plural, obj)
    return index


def test_default_roles_are_whole() -> None:
    found = list(bootstrap_rbac.objects())
    names = {
        (plural, obj["metadata"].get("namespace"), obj["metadata"]["name"]) for plural, obj in found
    }
    assert len(names) == len(found)
    roles = {
        (obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
        for plural, obj in found
        if plural in ("roles", "clusterroles")
    }
    for plural, obj in found:
        if plural.endswith("bindings"):
            place = obj["metadata"].get("namespace") or ""
            cluster = obj["roleRef"]["kind"] == "ClusterRole"
            assert ("" if cluster else place, obj["roleRef"]["name"]) in roles


@pytest.mark.parametrize(
    ("name", "verb", "resource", "allowed"),
    [
        ("view", "get", "pods", True),
        ("view", "get", "secrets", False),
        ("view", "create", "pods", False),
        ("edit", "create", "pods", True),
        ("edit", "get", "pods", True),
        ("edit", "get", "secrets", True),
        ("edit", "update", "resourcequotas", False),
        ("admin", "delete", "services", True),
        ("cluster-admin", "nuke", "anything", True),
    ],
)
def test_default_cluster_roles(name: str, verb: str, resource: str, allowed: bool) -> None:
    index = bootstrapped()
    index.apply("rolebindings", binding("b", "ClusterRole", name, user("alice"), namespace="a"))
    asked = Attributes(ALICE, verb, "", "v1", resource, "", "a")
    assert authorizer(index).authorize(asked).allowed is allowed


def test_everyone_may_discover_and_ask() -> None:
    check = authorizer(bootstrapped())
    assert check.authorize(Attributes(ALICE, "get", path="/apis/apps/v1")).allowed
    review = ("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
    assert check.authorize(Attributes(ALICE, "create", *review)).allowed
    assert not check.authorize(Attributes(ALICE, "get", path="/metrics")).allowed


def test_reconciliation_adds_and_keeps() -> None:
    wanted = role("r", READ_PODS)
    extra = rule(apiGroups=[""], resources=["nodes"], verbs=["get"])
    present = role("r", rule(apiGroups=[""], resources=["pods"], verbs=["get"]), extra)
    changed = bootstrap_rbac.reconciled(wanted, present)
    assert changed is not None
    assert extra in changed["rules"]
    assert bootstrap_rbac.reconciled(wanted, changed) is None
    present["metadata"]["annotations"] = {bootstrap_rbac.AUTOUPDATE: "false"}
    assert bootstrap_rbac.reconciled(wanted, present) is None


def test_a_refusal_names_the_roles_that_do_not_exist() -> None:
    index = RBACIndex()
    index.apply("rolebindings", binding("b", "Role", "gone", user("alice"), namespace="a"))
    decision = authorizer(index).authorize(pods("get", ns="a"))
    assert (decision.allowed, decision.reason) == (
        False,
        'RBAC: role.rbac.authorization.k8s.io "gone" not found',
    )


def test_an_administrator_of_a_namespace_installs_a_chart_s_role() -> None:
    """As charts write them: several groups in one rule, among them one that is long gone."""
    index = bootstrapped()
    to = binding("a", "ClusterRole", "admin", user("alice"), namespace="a")
    index.apply("rolebindings", to)
    check = authorizer(index)
    ingresses = rule(
        apiGroups=["extensions", "networking.k8s.io"],
        resources=["ingresses"],
        verbs=["get", "list", "watch"],
    )
    chart = role("chart", ingresses, namespace="a")
    check.check_role(ALICE, "roles", chart, None)
    with pytest.raises(ApiError):
        beyond = rule(apiGroups=["extensions"], resources=["*"], verbs=["get"])
        check.check_role(ALICE, "roles", role("chart", beyond, namespace="a"), None)


def test_what_was_taken_from_a_default_role_comes_back() -> None:
    defaults = {wanted["metadata"]["name"]: wanted for _, wanted in bootstrap_rbac.objects()}
    view, member = defaults["view"], defaults["system:aggregate-to-view"]
    label = "rbac.authorization.k8s.io/aggregate-to-view"
    stripped = {**member, "metadata": {**member["metadata"], "labels": {"mine": "x"}}}
    found = bootstrap_rbac.reconciled(member, stripped)
    assert found is not None
    assert found["metadata"]["labels"] == {**member["metadata"]["labels"], "mine": "x"}
    assert label in found["metadata"]["labels"]
    own = {"matchLabels": {"mine": "x"}}
    other = {**view, "aggregationRule": {"clusterRoleSelectors": [own]}, "rules": []}
    found = bootstrap_rbac.reconciled(view, other)
    assert found is not None and found["rules"] == []
    assert found["aggregationRule"]["clusterRoleSelectors"] == [
        own,
        *view["aggregationRule"]["clusterRoleSelectors"],
    ]
    assert bootstrap_rbac.reconciled(view, found) is None
