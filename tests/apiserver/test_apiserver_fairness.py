"""Fairness: who falls under which FlowSchema, who waits for whom, and that a flood of one user starves nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apiserver_harness import MAPS, Harness, config_map, open_server, service_account

from sampan.apiserver import flowschemas
from sampan.apiserver.fairness import LEVEL_HEADER, SCHEMA_HEADER, Fairness, Level, TooMany
from sampan.apiserver.flowschemas import Schema, default_schemas, match, ordered
from sampan.apiserver.routes import parse
from sampan.client.transport import Request, Response, User

FLOW = "/apis/flowcontrol.apiserver.k8s.io/v1"
EVERYONE = ("system:authenticated",)
ALICE, BOB = User("alice", EVERYONE), User("bob", EVERYONE)
NODE = User("system:node:n", ("system:nodes", *EVERYONE))
ACCOUNTS = ("system:serviceaccounts", *EVERYONE)
DEADLINE = 20


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = await open_server(tmp_path)
    await harness.server.start(serve=False)
    async with asyncio.timeout(DEADLINE):  # the stored objects steer
        while not harness.server.fairness.schemas[0].uid:
            await asyncio.sleep(0)
    yield harness
    await harness.server.close()
    await harness.store.close()


def schema_of(user: User, method: str, path: str) -> str:
    found = match(ordered(map(Schema.of, default_schemas())), user, parse(method, path, []))
    return found.name if found else ""


LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x"


@pytest.mark.parametrize(
    ("user", "method", "path", "schema"),
    [
        (User("root", ("system:masters", *EVERYONE)), "POST", MAPS, "exempt"),
        (User("system:anonymous", ("system:unauthenticated",)), "GET", "/readyz", "probes"),
        (User("system:anonymous", ("system:unauthenticated",)), "GET", MAPS, "global-default"),
        (ALICE, "GET", "/healthz", "probes"),
        (ALICE, "GET", "/version", "global-default"),
        (ALICE, "GET", MAPS, "global-default"),
        (NODE, "PUT", "/api/v1/nodes/n/status", "system-node-high"),
        (NODE, "PUT", LEASE, "system-node-high"),
        (NODE, "GET", "/api/v1/pods", "system-nodes"),
        (User("system:kube-scheduler", EVERYONE), "PUT", LEASE, "system-leader-election"),
        (User("system:kube-scheduler", EVERYONE), "GET", "/api/v1/pods", "kube-scheduler"),
        (
            User("system:serviceaccount:kube-system:x", ACCOUNTS),
            "GET",
            MAPS,
            "kube-system-service-accounts",
        ),
        (User("system:serviceaccount:default:x", ACCOUNTS), "GET", MAPS, "service-accounts"),
        (User("nobody"), "GET", MAPS, ""),
    ],
)
def test_the_default_schemas_match_as_in_kubernetes(
    user: User, method: str, path: str, schema: str
) -> None:
    assert schema_of(user, method, path) == schema


def rule(subjects: list[Any], **rules: Any) -> list[Schema]:
    return [Schema("x", "u", "exempt", 1, "", [{"subjects": subjects, **rules}])]


def test_rules_by_subresource_scope_and_path() -> None:
    def covers(found: list[Schema], method: str, path: str) -> bool:
        return match(found, ALICE, parse(method, path, [])) is not None

    one = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "namespaces": ["a"]}
    logs = rule(flowschemas.users("alice"), resourceRules=[one])
    assert covers(logs, "GET", "/api/v1/namespaces/a/pods/p/log")
    assert not covers(logs, "GET", "/api/v1/namespaces/b/pods/p/log")
    assert not covers(logs, "GET", "/api/v1/namespaces/a/pods/p")
    everywhere = {**one, "resources": ["*"], "verbs": ["*"], "namespaces": ["*"]}
    namespaced = rule(flowschemas.groups("*"), resourceRules=[everywhere])
    assert covers(namespaced, "GET", "/api/v1/namespaces/b/pods")
    assert not covers(namespaced, "GET", "/api/v1/pods")  # not in a namespace: clusterScope
    paths = rule(
        flowschemas.users("*"), nonResourceRules=[{"verbs": ["get"], "nonResourceURLs": ["/x/*"]}]
    )
    assert covers(paths, "GET", "/x/y") and not covers(paths, "POST", "/x/y")


def limited(seats: int, length: int = 10, queues: int = 8) -> Level:
    level = Level("l")
    queuing = {"queues": queues, "handSize": 1, "queueLengthLimit": length}
    response = {"type": "Queue", "queuing": queuing} if length else {"type": "Reject"}
    spec = {"type": "Limited", "limited": {"limitResponse": response}}
    level.configure({"metadata": {"name": "l"}, "spec": spec}, seats)
    return level


async def test_flows_are_served_in_turn() -> None:
    level = limited(seats=1, length=100)
    assert level.take() and not level.take()
    served: list[str] = []

    async def one(flow: str) -> None:
        await level.wait(flow, DEADLINE)
        served.append(flow)
        level.release()

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        for flow in ["flood"] * 50 + ["small"] * 3 + ["other"]:
            group.create_task(one(flow))
        await asyncio.sleep(0)
        assert level.waiting == 54
        level.release()
    assert served[:6] == ["flood", "small", "other", "flood", "small", "flood"]
    assert Counter(served) == {"flood": 50, "small": 3, "other": 1}
    assert (level.executing, level.waiting) == (0, 0)


async def test_what_is_too_much_is_refused_and_nothing_leaks() -> None:
    level = limited(seats=1, length=2, queues=2)
    assert level.take()
    waiting = [asyncio.ensure_future(level.wait(flow, DEADLINE)) for flow in ("a", "a", "b")]
    await asyncio.sleep(0)
    with pytest.raises(TooMany, match="queue-full"):
        await level.wait("a", DEADLINE)
    with pytest.raises(TooMany, match="time-out"):
        await level.wait("b", 0)
    waiting[0].cancel()
    await asyncio.gather(waiting[0], return_exceptions=True)
    assert level.waiting == 2
    level.release()
    waiting[1].cancel()  # in the step in which it gets the seat
    await asyncio.gather(waiting[1], return_exceptions=True)
    async with asyncio.timeout(DEADLINE):
        await waiting[2]
    assert (level.executing, level.waiting) == (1, 0)
    level.release()
    assert level.executing == 0
    refuses = limited(seats=1, length=0)
    assert refuses.take()
    with pytest.raises(TooMany, match="concurrency-limit"):
        await refuses.wait("a", DEADLINE)


async def test_shares_become_seats_and_streams_take_none() -> None:
    fairness = Fairness(600, 60.0)
    seats = {name: level.seats for name, level in fairness.levels.items() if not level.exempt}
    assert seats == {
        "catch-all": 13,
        "system": 74,
        "node-high": 98,
        "leader-election": 25,
        "workload-high": 98,
        "workload-low": 245,
        "global-default": 49,
    }

    async def work(request: Request, user: User, info: Any) -> Response:
        return Response(200, {}, str(fairness.levels["global-default"].executing).encode())

    async def executing(path: str, query: list[tuple[str, str]]) -> bytes:
        request = Request("GET", path, query, remote="192.0.2.1")
        response = await fairness.run(request, ALICE, parse("GET", path, query), work)
        return await response.read()

    assert await executing(MAPS, []) == b"1"
    assert await executing(MAPS, [("watch", "1")]) == b"0"
    assert await executing("/api/v1/namespaces/a/pods/p/log", []) == b"0"
    assert fairness.levels["global-default"].executing == 0


async def over_the_wire(api: Harness, user: User, method: str, path: str, body: Any = None) -> Any:
    """Through classification as `user`, to the whole pipeline behind it."""
    import orjson

    data = b"" if body is None else orjson.dumps(body)
    headers = {"content-type": "application/json"}
    request = Request(method, path, [], headers, data, remote="192.0.2.1")
    pipeline, info = api.server.pipeline, parse(method, path, [])
    return await api.server.fairness.run(request, user, info, pipeline._admitted)


async def test_a_flood_of_one_user_does_not_starve_another(api: Harness) -> None:
    fairness = api.server.fairness
    level = fairness.levels["global-default"]
    level.seats = 4
    order: list[str] = []

    async def write(user: User, number: int) -> int:
        body = config_map(f"{user.name}-{number}")
        response = await over_the_wire(api, user, "POST", MAPS, body)
        if response.status == 201:
            order.append(user.name)
        return int(response.status)

    async with asyncio.timeout(60):
        flood = [asyncio.ensure_future(write(ALICE, number)) for number in range(400)]
        while not level.waiting:
            await asyncio.sleep(0)
        small = [await write(BOB, number) for number in range(5)]
        during = len(order)
        answers = await asyncio.gather(*flood)
    assert small == [201] * 5
    # Bob's five, one after the other, took no longer than a few rounds; most of the flood was still to come.
    assert during <= 60
    refused = Counter(answers)
    assert refused[201] + refused[429] == 400 and refused[429] > 0
    assert (level.executing, level.waiting, fairness.waiting) == (0, 0, 0)


async def test_a_refusal_says_when_to_come_again(api: Harness) -> None:
    level = api.server.fairness.levels["global-default"]
    level.seats, level.queue_length = 1, 0
    assert level.take()
    refused = await over_the_wire(api, ALICE, "GET", MAPS)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    assert refused.body == b"Too many requests, please try again later.\n"
    # Whoever keeps the cluster alive, and those who ask whether it lives, are not held up by that.
    assert (await over_the_wire(api, NODE, "GET", MAPS)).status == 200
    assert (await over_the_wire(api, ALICE, "GET", "/readyz")).status == 200
    level.release()
    assert (await over_the_wire(api, ALICE, "GET", MAPS)).status == 200


async def test_objects_steer_and_headers_tell(api: Harness) -> None:
    levels = (await api.call("GET", f"{FLOW}/prioritylevelconfigurations"))["items"]
    assert len(levels) == 8
    found = (await api.call("GET", f"{FLOW}/flowschemas"))["items"]
    assert len(found) == 13
    assert all(each["status"]["conditions"][0]["status"] == "False" for each in found)
    level = {
        "metadata": {"name": "mine"},
        "spec": {
            "type": "Limited",
            "limited": {"nominalConcurrencyShares": 245, "limitResponse": {"type": "Reject"}},
        },
    }
    made = await api.call("POST", f"{FLOW}/prioritylevelconfigurations", level)
    schema = {
        "metadata": {"name": "mine"},
        "spec": {
            "priorityLevelConfiguration": {"name": "mine"},
            "matchingPrecedence": 50,
            "rules": [
                {
                    "subjects": [{"kind": "User", "user": {"name": "alice"}}],
                    "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}],
                }
            ],
        },
    }
    mine = await api.call("POST", f"{FLOW}/flowschemas", schema)
    fairness = api.server.fairness
    async with asyncio.timeout(DEADLINE):
        while "mine" not in {each.name for each in fairness.schemas}:
            await asyncio.sleep(0)
    assert fairness.levels["mine"].seats == 100
    assert fairness.levels["workload-low"].seats == 41
    answer = await over_the_wire(api, ALICE, "GET", "/version")
    assert answer.headers[SCHEMA_HEADER] == mine["metadata"]["uid"]
    assert answer.headers[LEVEL_HEADER] == made["metadata"]["uid"]
    other = await over_the_wire(api, ALICE, "GET", f"{MAPS}/none")
    assert other.status == 404
    uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in found}
    assert other.headers[SCHEMA_HEADER] == uids["global-default"]
    await api.call("DELETE", f"{FLOW}/prioritylevelconfigurations/mine")
    async with asyncio.timeout(DEADLINE):
        async for event in api.watch(
            f"{FLOW}/flowschemas?watch=1&fieldSelector=metadata.name=mine"
        ):
            conditions = event["object"].get("status", {}).get("conditions")
            if conditions and conditions[0]["status"] == "True":
                assert conditions[0]["reason"] == "NotFound"
                break
    answer = await over_the_wire(api, ALICE, "GET", "/version")
    assert answer.headers[SCHEMA_HEADER] == uids["global-default"]


async def token_of_a_reader(api: Harness) -> str:
    """Of a service account that may read everything; there is a ConfigMap `a`."""
    await api.call("POST", MAPS, config_map("a"))
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await service_account(api)
    binding = {
        "metadata": {"name": "readers"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    }  # fmt: skip
    await api.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
    made = await api.call("POST", f"{accounts}/default/token", {"spec": {"audiences": []}})
    return str(made["status"]["token"])


async def test_over_tls_a_certificate_does_not_exempt(tmp_path: Path) -> None:
    import ssl

    import aiohttp

    harness = await open_server(tmp_path, authorization=True)
    await harness.server.start()
    pki = harness.server.pki
    context = ssl.create_default_context(cafile=str(pki.ca.crt))
    context.load_cert_chain(pki.admin.crt, pki.admin.key)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(harness.server.address, connector=connector) as session:
        as_alice = {"Impersonate-User": "alice", "Impersonate-Group": "system:authenticated"}
        fairness = harness.server.fairness
        async with asyncio.timeout(DEADLINE):
            while not fairness.schemas[0].uid:
                await asyncio.sleep(0)
        uids = {schema.name: schema.uid for schema in fairness.schemas}
        async with session.get("/version") as answer:
            assert answer.headers[SCHEMA_HEADER] == uids["exempt"]
        # What is answered at once carries them too, and is counted.
        bearer = {"Authorization": f"Bearer {await token_of_a_reader(harness)}"}
        anybody = ssl.create_default_context(cafile=str(pki.ca.crt))
        async with aiohttp.ClientSession(harness.server.address, headers=bearer) as account:
            for path in (MAPS, f"{MAPS}/a"):
                async with session.get(path) as answer:
                    assert answer.status == 200
                    assert answer.headers[SCHEMA_HEADER] == uids["exempt"]
                async with account.get(path, ssl=anybody) as answer:
                    assert answer.status == 200
                    assert answer.headers[SCHEMA_HEADER] == uids["service-accounts"]
                    assert answer.headers[LEVEL_HEADER] == fairness.levels["workload-low"].uid
        assert fairness.counts["service-accounts", "workload-low"].dispatched == 2
        async with session.get("/version", headers=as_alice) as answer:
            assert answer.headers[SCHEMA_HEADER] == uids["global-default"]
            assert answer.headers[LEVEL_HEADER] == fairness.levels["global-default"].uid
        level = fairness.levels["global-default"]
        level.seats, level.queue_length, level.executing = 1, 0, 1
        async with session.get("/version", headers=as_alice) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
            assert await answer.text() == "Too many requests, please try again later.\n"
    await harness.server.close()
    await harness.store.close()


async def test_defaults_come_back_and_only_ours_are_kept(api: Harness) -> None:
    levels = f"{FLOW}/prioritylevelconfigurations"
    await api.call("DELETE", f"{levels}/catch-all")
    await api.call("DELETE", f"{FLOW}/flowschemas/service-accounts")
    for path, name in ((levels, "catch-all"), (f"{FLOW}/flowschemas", "service-accounts")):
        async with asyncio.timeout(DEADLINE):
            async for event in api.watch(f"{path}?watch=1&fieldSelector=metadata.name={name}"):
                if event["type"] == "ADDED":
                    break
    # What a user has taken over stays as the user wants it.
    mine = {
        "metadata": {"annotations": {flowschemas.AUTO_UPDATE: "false"}},
        "spec": {"limited": {"nominalConcurrencyShares": 265}},
    }
    await api.patch("merge", f"{levels}/global-default", mine)
    fairness = api.server.fairness
    async with asyncio.timeout(DEADLINE):
        while fairness.levels["global-default"].seats != 109:
            await asyncio.sleep(0)
    # What nobody took over does not change for long.
    one = {"spec": {"limited": {"nominalConcurrencyShares": 1}}}
    await api.patch("merge", f"{levels}/system", one)
    async with asyncio.timeout(DEADLINE):
        async for event in api.watch(f"{levels}?watch=1&fieldSelector=metadata.name=system"):
            if event["object"]["spec"]["limited"]["nominalConcurrencyShares"] == 30:
                break


async def test_levels_are_counted(api: Harness) -> None:
    level = api.server.fairness.levels["global-default"]
    level.seats, level.queue_length, level.executing = 1, 0, 1
    assert (await over_the_wire(api, ALICE, "GET", MAPS)).status == 429
    text = (await (await api.send("GET", "/metrics")).read()).decode()
    name = 'apiserver_flowcontrol_rejected_requests_total{flow_schema="global-default"'
    assert f'{name},priority_level="global-default",reason="concurrency-limit"}} 1.0' in text
    assert 'apiserver_request_terminations_total{code="429"' in text
    assert 'apiserver_flowcontrol_nominal_limit_seats{priority_level="system"} 25.0' in text
    level.executing = 0


async def test_wide_requests_take_their_width() -> None:
    level = limited(seats=4, length=100)
    assert level.take(3) and level.take(1) and not level.take(1)
    served: list[str] = []

    async def one(flow: str, width: int) -> None:
        await level.wait(flow, DEADLINE, width)
        served.append(flow)

    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        for flow, width in (("wide", 4), ("small", 1), ("huge", 9)):
            group.create_task(one(flow, width))
        await asyncio.sleep(0)
        level.release(1)
        await asyncio.sleep(0)
        assert served == []  # the wide one is first: nobody overtakes it for ever
        level.release(3)
        await asyncio.sleep(0)
        assert (served, level.executing) == (["wide"], 4)
        level.release(4)
        await asyncio.sleep(0)
        assert (served, level.executing) == (["wide", "small"], 1)
        level.release(1)
        await asyncio.sleep(0)
        assert (served, level.executing) == (["wide", "small", "huge"], 9)
        level.release(9)
    assert (level.executing, level.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("count", "query", "width"),
    [(0, [], 1), (100, [], 1), (101, [], 2), (5000, [], 10), (5000, [("limit", "250")], 3)],
)
def test_lists_are_as_wide_as_what_they_read(
    count: int, query: list[tuple[str, str]], width: int
) -> None:
    fairness = Fairness(600, 60.0, lambda info: count)
    assert fairness.width(Request("GET", MAPS, query), parse("GET", MAPS, [])) == width
