"""Admission webhooks that fail, hang, refuse or talk nonsense: what the request comes to, and what is counted of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest
from apiserver_harness import (
    MAPS,
    Harness,
    api,
    config_map,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metrics_harness import scrape, value
from webhook_harness import (
    ALLOW,
    VALIDATING,
    Object,
    hook,
    mutating,
    refused,
    validating,
    webhook,
)
from webhook_server import WebhookServer, answering, hanging, patch_of

from sampan.apiserver.admission import review

__all__ = ["api", "hook"]


async def test_a_webhook_that_hangs_is_given_up_and_holds_up_nobody_else(
    api: Harness, hook: WebhookServer
) -> None:
    hook.handlers["/hang"] = hanging
    await validating(
        api,
        webhook(hook, "/hang", timeoutSeconds=1, objectSelector={"matchLabels": {"slow": "1"}}),
    )
    slow = config_map("slow")
    slow["metadata"]["labels"] = {"slow": "1"}
    started = time.monotonic()
    waiting = asyncio.create_task(refused(api, "POST", MAPS, slow))
    while not hook.asked:
        await asyncio.sleep(0)
    for number in range(20):
        await api.call("POST", MAPS, config_map(f"quick-{number}"))
    assert not waiting.done()
    found = await waiting
    assert 1 <= time.monotonic() - started < 5
    assert found["code"] == 500
    assert found["reason"] == "InternalError"
    port = hook.port
    assert found["message"] == (
        'Internal error occurred: failed calling webhook "hang.example.com": failed to call webhook: '
        f'Post "https://127.0.0.1:{port}/hang?timeout=1s": context deadline exceeded'
    )


@pytest.mark.parametrize(
    ("response", "message"),
    [
        ({"raw": b"oops", "status": 500}, 'an error on the server ("oops")'),
        ({"raw": b"{}"}, "webhook response was absent"),
        ({"raw": b"no json"}, "json parse error"),
        ({"uid": "other", "allowed": True}, "expected response.uid="),
        (patch_of({"op": "add", "path": "/data/x", "value": "y"}), "may not return response.patch"),
    ],
)
async def test_failures_are_judged_by_the_policy(
    api: Harness, hook: WebhookServer, response: Object, message: str
) -> None:
    hook.handlers["/bad"] = answering(response)
    await validating(api, webhook(hook, "/bad"))
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert found["code"] == 500
    assert 'failed calling webhook "bad.example.com"' in found["message"]
    assert message in found["message"]
    await api.call("DELETE", f"{VALIDATING}/v")
    await validating(api, webhook(hook, "/bad", failurePolicy="Ignore"))
    await api.call("POST", MAPS, config_map("a"))


async def test_nobody_listens_or_is_trusted(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/x"] = answering(ALLOW)
    gone = webhook(hook, "/x") | {"clientConfig": {"url": "https://127.0.0.1:1/x"}}
    await validating(api, gone)
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert "connect: connection refused" in found["message"]
    await api.call("DELETE", f"{VALIDATING}/v")
    untrusted = {"url": f"https://127.0.0.1:{hook.port}/x"}
    await validating(api, webhook(hook, "/x") | {"clientConfig": untrusted})
    found = await refused(api, "POST", MAPS, config_map("a"))
    assert "x509: certificate signed by unknown authority" in found["message"]
    assert hook.asked == []


async def test_dry_run_is_only_for_webhooks_without_side_effects(
    api: Harness, hook: WebhookServer
) -> None:
    hook.handlers["/x"] = answering(ALLOW)
    dry = MAPS + "?dryRun=All"
    await validating(api, webhook(hook, "/x", sideEffects="NoneOnDryRun"))
    await api.call("POST", dry, config_map("a"))
    assert hook.asked[0]["dryRun"] is True
    assert hook.asked[0]["options"]["dryRun"] == ["All"]


async def test_calls_and_refusals_are_counted(api: Harness, hook: WebhookServer) -> None:
    hook.handlers["/deny"] = answering({"allowed": False, "status": {"code": 418}})
    hook.handlers["/allow"] = answering(ALLOW)
    hook.handlers["/odd"] = answering({"allowed": True, "patch": "x"})
    await validating(
        api,
        webhook(
            hook, "/deny", matchConditions=[{"name": "n", "expression": "object.data.a == 'no'"}]
        ),
        webhook(hook, "/odd", failurePolicy="Ignore"),
    )
    await mutating(api, webhook(hook, "/allow"))
    await api.call("POST", MAPS, config_map("a"))
    await refused(api, "POST", MAPS, config_map("b", a="no"))
    found, _ = await scrape(api)
    prefix = "apiserver_admission_"
    deny = {"name": "deny.example.com", "type": "validating", "operation": "CREATE"}
    odd = {**deny, "name": "odd.example.com"}
    requests = found[f"{prefix}webhook_request"]
    name = f"{prefix}webhook_request_total"
    assert value(requests, name, type="admit", code="200") == 2
    assert value(requests, name, code="418", rejected="true", **deny) == 1
    assert value(requests, name, code="503", rejected="false", **odd) == 2
    rejections = found[f"{prefix}webhook_rejection_count"]
    assert value(rejections, error_type="no_error", rejection_code="418", **deny) == 1
    assert value(found[f"{prefix}webhook_fail_open_count"], type="validating") == 2
    excluded = found[f"{prefix}match_condition_exclusions"]
    name = f"{prefix}match_condition_exclusions_total"
    assert value(excluded, name, kind="webhook", type="validate", operation="CREATE") == 1
    name = f"{prefix}webhook_admission_duration_seconds"
    assert value(found[name], f"{name}_count", rejected="true", **deny) == 1
    own, whole = (
        value(found[name], f"{name}_sum", verb="POST", resource="configmaps")
        for name in ("apiserver_request_sli_duration_seconds", "apiserver_request_duration_seconds")
    )
    assert own < whole, "the time for webhooks is not the server's own"


# Answers from strangers

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "apiVersion": st.just("admission.k8s.io/v1") | JSON,
        "kind": st.just("AdmissionReview") | JSON,
        "response": JSON
        | st.fixed_dictionaries(
            {"uid": st.just("u"), "allowed": st.booleans() | JSON},
            optional={
                "patch": JSON,
                "patchType": st.just("JSONPatch") | JSON,
                "status": JSON
                | st.dictionaries(st.sampled_from(["code", "message", "reason", "details"]), JSON),
                "warnings": JSON,
                "auditAnnotations": JSON,
            },
        ),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # of a loaded machine
@given(ANSWER, st.booleans(), st.sampled_from(["v1", "v1beta1"]))
def test_any_answer_is_understood_or_refused(answer: Any, mutating: bool, version: str) -> None:
    asked = {"apiVersion": f"admission.k8s.io/{version}", "request": {"uid": "u"}}
    try:
        found = review.answered(asked, answer, mutating=mutating)
    except review.InvalidReview:
        return
    error = review.refusal("x", found.status)
    assert 400 <= error.code < 600
    assert orjson.dumps(error.status())


async def test_warnings_and_words_of_strangers_stay_in_their_place(
    api: Harness, hook: WebhookServer
) -> None:
    text = "one\r\nSet-Cookie: x=y\n\x00\x7f" + "long" * 5000
    hook.handlers["/x"] = answering({"allowed": True, "warnings": [text, 5, "two"]})
    await validating(api, webhook(hook, "/x"))
    response = await api.send("POST", MAPS, config_map("a"))
    assert response.status == 201
    for line in response.headers["Warning"].split("\n"):
        assert line.startswith('299 - "')
        assert line.endswith('"')
        assert line.isprintable()
    assert len(response.headers["Warning"]) < 5000
