"""Events: what kubectl shows, counted and combined as Kubernetes does, never without bound."""

import asyncio
import json
import logging

from client_api import API

from sampan.client.correlate import COMBINED, Correlator, EventKey
from sampan.client.events import QUEUED, EventRecorder

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "5"},
}


async def sent(recorder):
    task = asyncio.ensure_future(recorder.run())
    async with asyncio.timeout(10):
        await recorder.flush()
    task.cancel()


def events_of(api: API):
    return [obj for (kind, _, _), obj in api.objects.items() if kind == "events"]


async def test_an_event_has_what_kubectl_describe_shows(client, served):
    recorder = EventRecorder(client, "kubelet", "node-1", clock=lambda: 1_700_000_000.5)
    recorder.event(POD, "Normal", "Started", "Started container", field_path="spec.containers{c}")
    await sent(recorder)
    (event,) = events_of(served.api)
    assert event["metadata"]["name"].startswith("web.")
    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {
        "kind": "Pod",
        "namespace": "default",
        "name": "web",
        "uid": "u1",
        "apiVersion": "v1",
        "resourceVersion": "5",
        "fieldPath": "spec.containers{c}",
    }
    assert event["source"] == {"component": "kubelet", "host": "node-1"}
    assert (event["type"], event["reason"]) == ("Normal", "Started")
    assert event["message"] == "Started container"
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2023-11-14T22:13:20Z"
    assert (event["count"], event["reportingComponent"]) == (1, "kubelet")


async def test_the_same_again_is_counted(client, served):
    now = [1_700_000_000.0]
    recorder = EventRecorder(client, "kubelet", clock=lambda: now[0])
    for _ in range(3):
        recorder.event(POD, "Warning", "BackOff", "Back-off restarting")
        now[0] += 10
    recorder.event(POD, "Warning", "BackOff", "another message")
    await sent(recorder)
    first, second = sorted(events_of(served.api), key=lambda event: -event["count"])
    assert (first["count"], second["count"]) == (3, 1)
    assert first["firstTimestamp"] == "2023-11-14T22:13:20Z"
    assert first["lastTimestamp"] == "2023-11-14T22:13:40Z"


async def test_an_event_that_expired_on_the_server_is_made_again(client, served):
    recorder = EventRecorder(client, "kubelet")
    recorder.event(POD, "Normal", "Pulled", "m")
    await sent(recorder)
    (event,) = events_of(served.api)
    served.api.remove(event["metadata"]["name"], "default", "events")
    recorder.event(POD, "Normal", "Pulled", "m")
    await sent(recorder)
    (event,) = events_of(served.api)
    assert event["count"] == 1


async def test_cluster_scoped_objects_report_in_default(client, served):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u"}}
    recorder = EventRecorder(client, "node-controller")
    recorder.event(node, "Normal", "NodeReady", "ready")
    await sent(recorder)
    (event,) = events_of(served.api)
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["involvedObject"]


async def test_similar_messages_are_combined(client, served):
    recorder = EventRecorder(client, "scheduler")
    for number in range(15):
        recorder.event(POD, "Warning", "FailedScheduling", f"reason {number}")
    await sent(recorder)
    events = events_of(served.api)
    assert len(events) == 11
    (combined,) = [event for event in events if event["message"].startswith(COMBINED)]
    assert combined["message"] == COMBINED + "reason 14"
    assert combined["count"] == 5


async def test_the_queue_is_bounded_and_the_loss_is_logged(client, served, caplog):
    recorder = EventRecorder(client, "kubelet")
    for number in range(QUEUED + 7):
        pod = {**POD, "metadata": {**POD["metadata"], "uid": f"u{number}", "name": f"p{number}"}}
        recorder.event(pod, "Normal", "Started", "m")
    with caplog.at_level(logging.WARNING):
        await sent(recorder)
    names = {event["involvedObject"]["name"] for event in events_of(served.api)}
    assert len(names) == QUEUED
    assert "p6" not in names
    assert "p7" in names
    assert "dropped 7 events" in caplog.text


async def test_a_refused_event_does_not_stop_the_next(client, served):
    served.api.answers.append((403, {}, json.dumps({"kind": "Status", "code": 403})))
    recorder = EventRecorder(client, "kubelet")
    recorder.event(POD, "Normal", "One", "m")
    recorder.event(POD, "Normal", "Two", "m")
    await sent(recorder)
    assert [event["reason"] for event in events_of(served.api)] == ["Two"]


def test_one_object_cannot_flood():
    correlator = Correlator()

    def key(uid):
        return EventKey("Pod", "d", "web", uid, "v1", "", "Normal", "Started", "m")

    admitted = sum(correlator.admit(key("a"), 0.0) is not None for _ in range(100))
    assert admitted == 25
    assert correlator.admit(key("b"), 0.0) is not None  # others are not concerned
    assert correlator.admit(key("a"), 299.0) is None
    assert correlator.admit(key("a"), 301.0) is not None
    assert correlator.admit(key("a"), 302.0) is None
