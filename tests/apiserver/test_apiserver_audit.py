"""The audit log: what is recorded of which request, read back from the file that an auditor would read."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from apiserver_harness import ADMIN, MAPS, Harness, config_map, open_server

from sampan.apiserver.audit.log import AuditLog
from sampan.apiserver.audit.policy import BadPolicy, Level, parse_policy
from sampan.apiserver.routes import RequestInfo, parse
from sampan.apiserver.security import SecurityConfig
from sampan.client.transport import Request, User

ALICE = User("alice", ("crew", "system:authenticated"))
Object = dict[str, Any]


def policy(*rules: Object, **more: Any) -> Object:
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more}


RULES = policy(
    {"level": "None", "userGroups": ["quiet"]},
    {"level": "None", "nonResourceURLs": ["/healthz*", "/version"]},
    {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
    {"level": "Request", "verbs": ["patch"]},
    {
        "level": "RequestResponse",
        "resources": [{"group": "", "resources": ["configmaps"]}],
        "omitManagedFields": True,
    },
    {"level": "Metadata", "omitStages": ["ResponseStarted"]},
    omitStages=["RequestReceived"],
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Harness]:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(RULES))
    security = SecurityConfig(audit_policy_file=path, audit_log_path=str(tmp_path / "audit.log"))
    harness = await open_server(tmp_path, security=security, authorization=True)
    await harness.server.start(serve=False)
    yield harness
    await harness.server.close()
    await harness.store.close()


def events(api: Harness, wanted: Callable[[Object], bool] = lambda _: True) -> list[Object]:
    assert api.server.audit is not None
    api.server.audit.log.flush()
    path = api.server.audit.log.path
    assert path is not None
    lines = path.read_bytes().splitlines()
    return [event for event in map(orjson.loads, lines) if wanted(event)]


async def test_who_did_what_and_what_came_of_it(api: Harness) -> None:
    answer = await api.send("POST", MAPS, config_map("m", a="b"), user_agent="tester/1")
    (event,) = events(api, lambda e: e.get("userAgent") == "tester/1")
    assert event["kind"] == "Event" and event["apiVersion"] == "audit.k8s.io/v1"
    assert (event["level"], event["stage"], event["verb"]) == (
        "RequestResponse",
        "ResponseComplete",
        "create",
    )
    assert event["auditID"] == answer.headers["Audit-Id"]
    assert event["user"] == {"username": "admin", "groups": ["system:masters"]}
    assert event["objectRef"] == {
        "resource": "configmaps",
        "namespace": "default",
        "apiVersion": "v1",
    }
    assert event["responseStatus"] == {"metadata": {}, "code": 201}
    assert event["requestObject"]["data"] == event["responseObject"]["data"] == {"a": "b"}
    assert event["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert event["requestReceivedTimestamp"] <= event["stageTimestamp"]


async def test_secrets_are_told_of_and_not_told(api: Harness) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}
    await api.call(
        "POST", "/api/v1/namespaces/default/secrets", secret | {"stringData": {"a": "x"}}
    )
    await api.call("GET", "/api/v1/namespaces/default/secrets/s")
    found = events(api, lambda e: e.get("objectRef", {}).get("resource") == "secrets")
    assert [event["verb"] for event in found] == ["create", "get"]
    assert not any("requestObject" in event or "responseObject" in event for event in found)


async def test_what_was_refused_says_why(api: Harness) -> None:
    await api.call("GET", MAPS, status=403, user=ALICE)
    (event,) = events(api, lambda e: e["user"].get("username") == "alice")
    assert event["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert event["responseStatus"]["code"] == 403
    assert event["responseStatus"]["reason"] == "Forbidden"
    assert 'User "alice" cannot list' in event["responseStatus"]["message"]
    bad = {"authorization": "Bearer nonsense"}
    answer = await api.server.handle(Request("GET", "/api", headers=bad, remote="192.0.2.9"))
    assert answer.status == 401
    (event,) = events(api, lambda e: e["responseStatus"]["code"] == 401)
    assert event["user"] == {} and event["sourceIPs"] == ["192.0.2.9"]


async def test_impersonation_is_told_beside_who_it_was(api: Harness) -> None:
    await api.send("GET", MAPS, impersonate_user="bob", impersonate_group="crew")
    (event,) = events(api, lambda e: "impersonatedUser" in e)
    assert event["user"]["username"] == "admin"
    assert event["impersonatedUser"] == {
        "username": "bob",
        "groups": ["crew", "system:authenticated"],
    }
    assert event["annotations"]["authorization.k8s.io/decision"] == "forbid"


async def test_a_watch_has_a_beginning_and_an_end(api: Harness) -> None:
    watch = api.watch(f"{MAPS}?watch=true&timeoutSeconds=30&allowWatchBookmarks=true")
    await api.call("POST", MAPS, config_map("m"))
    async with asyncio.timeout(10):
        await anext(watch)
    await watch.aclose()
    found = events(api, lambda e: e["verb"] == "watch")
    assert [event["stage"] for event in found] == ["ResponseStarted", "ResponseComplete"]
    assert found[0]["auditID"] == found[1]["auditID"]
    assert not any("responseObject" in event for event in found)


async def test_what_the_policy_leaves_out(api: Harness) -> None:
    before = len(events(api))
    for path, user in (("/healthz", ADMIN), ("/version", ADMIN), (MAPS, User("q", ("quiet",)))):
        answer = await api.send("GET", path, user=user)
        assert answer.headers["Audit-Id"]
    assert len(events(api)) == before
    patch = {"data": {"c": "d"}}
    await api.call("POST", MAPS, config_map("m"))
    await api.patch("merge", f"{MAPS}/m", patch)
    (event,) = events(api, lambda e: e["verb"] == "patch")
    assert event["requestObject"] == patch and "responseObject" not in event


async def test_an_error_that_nobody_foresaw(api: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(api.server.registry, "create", broken)
    await api.call("POST", MAPS, config_map("m"), 500)
    (event,) = events(api, lambda e: e["stage"] == "Panic")
    assert event["responseStatus"]["code"] == 500


async def test_the_file_is_its_owner_s(api: Harness) -> None:
    await api.call("GET", MAPS)
    assert events(api)
    assert api.server.audit is not None and api.server.audit.log.path is not None
    assert stat.S_IMODE(api.server.audit.log.path.stat().st_mode) == 0o600


async def test_no_audit_costs_no_header(tmp_path: Path) -> None:
    api = await open_server(tmp_path)
    await api.server.start(serve=False)
    assert api.server.audit is None
    assert "Audit-Id" not in (await api.send("GET", MAPS)).headers
    await api.server.close()
    await api.store.close()


# --- the log ---------------------------------------------------------------------------------------------


async def test_rotation_keeps_so_many_files(tmp_path: Path) -> None:
    moment = 1_700_000_000.0

    def clock() -> float:
        nonlocal moment
        moment += 1
        return moment

    log = AuditLog(str(tmp_path / "a.log"), max_backups=2, max_size=1, clock=clock)
    for number in range(8):
        await log.write(b"%d" % number + b"x" * 700_000)
        log.flush()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 3 and "a.log" in files
    assert (tmp_path / "a.log").read_bytes().startswith(b"7")


async def test_batches_and_the_end(tmp_path: Path) -> None:
    log = AuditLog(str(tmp_path / "a.log"))
    writing = asyncio.ensure_future(log.run())
    for number in range(10_000):
        await log.write(b"%04d" % number + b"." * 1000)  # more than may wait at once
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    lines = (tmp_path / "a.log").read_bytes().splitlines()
    assert [int(line[:4]) for line in lines] == list(range(10_000))


# --- the policy ------------------------------------------------------------------------------------------


def get(path: str, method: str = "GET") -> RequestInfo:
    return parse(method, path, [])


@pytest.mark.parametrize(
    ("rule", "info", "user", "matches"),
    [
        ({"users": ["alice"]}, get("/api"), ALICE, True),
        ({"users": ["bob"]}, get("/api"), ALICE, False),
        ({"userGroups": ["crew"]}, get("/api"), ALICE, True),
        ({"verbs": ["list"]}, get("/api/v1/pods"), ALICE, True),
        ({"namespaces": ["a"]}, get("/api/v1/namespaces/a/pods"), ALICE, True),
        ({"namespaces": ["a"]}, get("/api/v1/namespaces/b/pods"), ALICE, False),
        ({"namespaces": [""]}, get("/api/v1/nodes"), ALICE, True),
        ({"resources": [{"group": ""}]}, get("/api/v1/nodes"), ALICE, True),
        ({"resources": [{"group": "apps"}]}, get("/api/v1/nodes"), ALICE, False),
        (
            {"resources": [{"group": "", "resources": ["pods/log"]}]},
            get("/api/v1/namespaces/a/pods/x/log"),
            ALICE,
            True,
        ),
        (
            {"resources": [{"group": "", "resources": ["pods"]}]},
            get("/api/v1/namespaces/a/pods/x/log"),
            ALICE,
            False,
        ),
        (
            {"resources": [{"group": "apps", "resources": ["*/scale"]}]},
            get("/apis/apps/v1/namespaces/a/deployments/x/scale"),
            ALICE,
            True,
        ),
        (
            {"resources": [{"group": "", "resources": ["pods"], "resourceNames": ["y"]}]},
            get("/api/v1/namespaces/a/pods/x"),
            ALICE,
            False,
        ),
        ({"nonResourceURLs": ["/logs*"]}, get("/logs/x"), ALICE, True),
        ({"nonResourceURLs": ["/logs"]}, get("/logs/x"), ALICE, False),
        ({"nonResourceURLs": ["*"]}, get("/api/v1/pods"), ALICE, False),
    ],
)
def test_rules(rule: Object, info: RequestInfo, user: User, matches: bool) -> None:
    found = parse_policy(policy({"level": "Request", **rule})).decide(user, info)
    assert (found.level is Level.REQUEST) is matches


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "Policy"}, "apiVersion: must be audit.k8s.io/v1"),
        (policy(), "at least one rule"),
        (policy({"level": "Everything"}), "rules[0].level: must be one of None"),
        (policy({"level": "None", "omitStages": ["Later"]}), "is not one of RequestReceived"),
        (
            policy({"level": "None", "nonResourceURLs": ["/x"], "namespaces": ["a"]}),
            "cannot be combined",
        ),
        (policy({"level": "None", "nonResourceURLs": ["/a*b"]}), "a wildcard must come last"),
        (
            policy({"level": "None", "resources": [{"group": "", "resourceNames": ["x"]}]}),
            "requires at least one resource",
        ),
    ],
)
def test_a_wrong_policy_says_where(given: Object, said: str) -> None:
    with pytest.raises(BadPolicy) as caught:
        parse_policy(given)
    assert said in str(caught.value)


async def test_admission_adds_annotations(api: Harness) -> None:
    group = "/apis/admissionregistration.k8s.io/v1"
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "resources": ["configmaps"],
        "operations": ["*"],
    }
    await api.call(
        "POST",
        f"{group}/validatingadmissionpolicies",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "noted"},
            "spec": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "false", "message": "odd"}],
                "auditAnnotations": [
                    {"key": "who", "valueExpression": "request.userInfo.username"}
                ],
            },
        },
    )
    await api.call(
        "POST",
        f"{group}/validatingadmissionpolicybindings",
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "noted"},
            "spec": {"policyName": "noted", "validationActions": ["Audit"]},
        },
    )
    await api.call("POST", MAPS, config_map("a"))
    (event,) = events(api, lambda each: each["verb"] == "create" and each["requestURI"] == MAPS)
    assert event["annotations"]["noted/who"] == "admin"
    assert "odd" in event["annotations"]["validation.policy.admission.k8s.io/validation_failure"]
    assert event["annotations"]["authorization.k8s.io/decision"] == "allow"
