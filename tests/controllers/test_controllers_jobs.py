"""Jobs and CronJobs against the real API server; the test plays the node."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.client.resources import CRONJOBS, EVENTS, JOBS, PODS
from sampan.controllers.job import indexes, schedule
from sampan.kube import objects
from sampan.kube.objects import condition, condition_true, finalizers

TRACKING = "batch.kubernetes.io/job-tracking"


def job(name="work", policy="Never", **spec):
    containers = [{"name": "main", "image": "x"}]
    template = {"spec": {"containers": containers, "restartPolicy": policy}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": template, **spec},
    }


async def make(world, obj):
    return await world.client.create(JOBS, obj, "default")


async def running(world, count):
    """So many pods that have not ended."""

    def active(items):
        return [
            pod
            for pod in items
            if (pod.get("status") or {}).get("phase") in ("Pending", "Running")
            and "deletionTimestamp" not in pod["metadata"]
        ]

    return await world.until(PODS, lambda items: len(active(items)) == count and active(items))


async def end(world, pod, code=0):
    """What a node says of a pod whose container ended."""
    moment = world_time(world)
    ended = {"exitCode": code, "finishedAt": moment, "startedAt": moment, "reason": "Done"}
    container = {"name": "main", "state": {"terminated": ended}, "restartCount": 0}
    container |= {"ready": False, "image": "x", "imageID": "x"}
    fresh = await world.client.get(PODS, pod["metadata"]["name"], "default")
    fresh["status"] = {
        **(fresh.get("status") or {}),
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [container],
    }
    return await world.client.update(PODS, fresh, "status")


def world_time(world):
    return datetime.fromtimestamp(world.clock.wall(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def complete(found):
    return condition_true(found, "Complete")


def failed(found):
    return condition_true(found, "Failed")


async def test_a_job_runs_one_pod_and_completes(world):
    made = await make(world, job())
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"]["matchLabels"] == {"batch.kubernetes.io/controller-uid": uid}
    assert made["spec"]["template"]["metadata"]["labels"]["job-name"] == "work"
    (pod,) = await running(world, 1)
    assert pod["metadata"]["name"].startswith("work-")
    assert TRACKING in finalizers(pod)
    await end(world, pod)
    done = await world.get_until(JOBS, "work", complete)
    status = done["status"]
    assert status["succeeded"] == 1 and "active" not in status
    assert status["completionTime"] and status["startTime"]
    assert condition(done, "Complete")["reason"] == "CompletionsReached"
    assert condition_true(done, "SuccessCriteriaMet")
    await world.until(PODS, lambda items: not finalizers(items[0]))


async def test_parallel_pods_until_enough_have_succeeded(world):
    await make(world, job(parallelism=2, completions=3))
    first = await running(world, 2)
    for pod in first:
        await end(world, pod)
    (last,) = await running(world, 1)
    await end(world, last)
    done = await world.get_until(JOBS, "work", complete)
    assert done["status"]["succeeded"] == 3


async def test_indexes_have_names_hosts_and_a_variable(world):
    await make(world, job(parallelism=3, completions=3, completionMode="Indexed"))
    pods = await running(world, 3)
    by_index = {int(objects.annotations(pod)[indexes.INDEX]): pod for pod in pods}
    assert sorted(by_index) == [0, 1, 2]
    assert by_index[1]["metadata"]["name"].startswith("work-1-")
    assert by_index[1]["spec"]["hostname"] == "work-1"
    variable = by_index[1]["spec"]["containers"][0]["env"][0]
    assert variable["name"] == "JOB_COMPLETION_INDEX"
    for index in (0, 2, 1):
        await end(world, by_index[index])
    done = await world.get_until(JOBS, "work", complete)
    assert done["status"]["completedIndexes"] == "0-2"


async def test_a_job_gives_up_after_its_limit(world):
    await make(world, job(backoffLimit=1))
    (first,) = await running(world, 1)
    await end(world, first, 1)
    await world.get_until(JOBS, "work", lambda found: found["status"].get("failed") == 1)
    world.clock.shift += 11  # the pause after a first failure
    await nudge(world)
    (second,) = await running(world, 1)
    await end(world, second, 1)
    done = await world.get_until(JOBS, "work", failed)
    assert condition(done, "Failed")["reason"] == "BackoffLimitExceeded"
    assert done["status"]["failed"] == 2


async def nudge(world):
    """The clock was moved, timers were not: a change makes the controller look."""
    patch = {"metadata": {"annotations": {"at": str(world.clock.shift)}}}
    await world.client.patch(JOBS, "work", patch, "default")


async def test_a_deadline_ends_a_job_and_its_pods(world):
    await make(world, job(activeDeadlineSeconds=100))
    await running(world, 1)
    await world.get_until(JOBS, "work", lambda j: (j.get("status") or {}).get("startTime"))
    world.clock.shift += 101
    await nudge(world)
    (pod,) = await world.until(PODS, lambda items: [p for p in items if deleting(p)])
    await world.client.delete(PODS, pod["metadata"]["name"], "default", grace=0)
    done = await world.get_until(JOBS, "work", failed)
    assert condition(done, "Failed")["reason"] == "DeadlineExceeded"


def deleting(obj):
    return "deletionTimestamp" in obj["metadata"]


@pytest.mark.parametrize(
    ("action", "reason"), [("FailJob", "PodFailurePolicy"), ("Count", "BackoffLimitExceeded")]
)
async def test_the_failure_policy_reads_exit_codes(world, action, reason):
    rule = {"action": action, "onExitCodes": {"operator": "In", "values": [42]}}
    limit = 5 if action == "FailJob" else 0
    await make(world, job(backoffLimit=limit, podFailurePolicy={"rules": [rule]}))
    (pod,) = await running(world, 1)
    await end(world, pod, 42)
    done = await world.get_until(JOBS, "work", failed)
    assert condition(done, "Failed")["reason"] == reason
    if action == "FailJob":
        name = pod["metadata"]["name"]
        assert condition(done, "Failed")["message"] == (
            f"Container main for pod default/{name} failed with exit code 42 "
            "matching FailJob rule at index 0"
        )


async def test_an_ignored_failure_is_made_up_for(world):
    rule = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}
    await make(world, job(backoffLimit=0, podFailurePolicy={"rules": [rule]}))
    (first,) = await running(world, 1)
    await end(world, first, 7)
    (second,) = await running(world, 1)
    await end(world, second)
    done = await world.get_until(JOBS, "work", complete)
    assert "failed" not in done["status"]


async def test_a_success_policy_ends_the_job_early(world):
    rules = {"rules": [{"succeededIndexes": "0"}]}
    await make(
        world, job(parallelism=2, completions=2, completionMode="Indexed", successPolicy=rules)
    )
    pods = await running(world, 2)
    leader = next(pod for pod in pods if objects.annotations(pod)[indexes.INDEX] == "0")
    await end(world, leader)
    rest = await world.until(PODS, lambda items: [p for p in items if deleting(p)])
    await world.client.delete(PODS, rest[0]["metadata"]["name"], "default", grace=0)
    done = await world.get_until(JOBS, "work", complete)
    assert condition(done, "Complete")["reason"] == "SuccessPolicy"


async def test_a_suspended_job_stops_its_pods_and_goes_on_later(world):
    await make(world, job())
    await running(world, 1)
    await world.client.patch(JOBS, "work", {"spec": {"suspend": True}}, "default")
    await world.until(PODS, lambda items: not items)
    held = await world.get_until(JOBS, "work", lambda found: condition_true(found, "Suspended"))
    assert "startTime" not in held["status"]
    await world.client.patch(JOBS, "work", {"spec": {"suspend": False}}, "default")
    (pod,) = await running(world, 1)
    await end(world, pod)
    done = await world.get_until(JOBS, "work", complete)
    assert "failed" not in done["status"]


async def test_a_finished_job_goes_when_its_time_is_over(world):
    await make(world, job(ttlSecondsAfterFinished=0))
    (pod,) = await running(world, 1)
    await end(world, pod)
    await world.gone(JOBS, "work")
    await world.until(PODS, lambda items: not items)


async def test_pods_of_a_deleted_job_are_not_kept_by_their_finalizer(world):
    await make(world, job())
    await running(world, 1)
    await world.client.delete(JOBS, "work", "default", propagation="Background")
    await world.until(PODS, lambda items: not items)


def cron_job(**spec):
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "default"},
        "spec": {
            "schedule": "*/5 * * * *",
            "jobTemplate": {"spec": job()["spec"]},
            **spec,
        },
    }


async def tick(world, minutes=5):
    world.clock.shift += 60 * minutes
    patch = {"metadata": {"annotations": {"at": str(world.clock.shift)}}}
    await world.client.patch(CRONJOBS, "tick", patch, "default")


async def test_a_cron_job_makes_jobs_when_they_are_due(world):
    await world.client.create(CRONJOBS, cron_job(), "default")
    await tick(world)
    (made,) = await world.until(JOBS, lambda items: items)
    minute = int(made["metadata"]["name"].removeprefix("tick-"))
    assert minute % 5 == 0
    assert made["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"]
    found = await world.get_until(CRONJOBS, "tick", lambda c: (c.get("status") or {}).get("active"))
    assert found["status"]["active"][0]["uid"] == made["metadata"]["uid"]
    (pod,) = await running(world, 1)
    await end(world, pod)
    found = await world.get_until(CRONJOBS, "tick", lambda c: c["status"].get("lastSuccessfulTime"))
    assert "active" not in found["status"]


async def test_a_running_job_forbids_the_next_or_is_replaced(world):
    await world.client.create(CRONJOBS, cron_job(concurrencyPolicy="Forbid"), "default")
    await tick(world)
    (first,) = await world.until(JOBS, lambda items: items)
    await tick(world)
    patch = {"spec": {"concurrencyPolicy": "Replace"}}
    await world.client.patch(CRONJOBS, "tick", patch, "default")
    await tick(world)
    await world.until(
        JOBS,
        lambda items: any(j["metadata"]["uid"] != first["metadata"]["uid"] for j in items),
    )
    await world.gone(JOBS, first["metadata"]["name"])


async def test_a_job_is_not_replaced_by_itself(world):
    """The informer may show the Job before the status that says that it was made."""
    await world.client.create(CRONJOBS, cron_job(concurrencyPolicy="Replace"), "default")
    await tick(world)
    (first,) = await world.until(JOBS, lambda items: items)

    def told(found):
        return (found.get("status") or {}).get("lastScheduleTime")

    await world.get_until(CRONJOBS, "tick", told)
    forget = {"status": {"lastScheduleTime": None}}
    await world.client.patch(CRONJOBS, "tick", forget, "default", subresource="status")
    await world.get_until(CRONJOBS, "tick", told)
    (still,) = (await world.client.list(JOBS, "default")).items
    assert still["metadata"]["uid"] == first["metadata"]["uid"]


async def test_a_suspended_cron_job_makes_nothing(world):
    await world.client.create(CRONJOBS, cron_job(suspend=True), "default")
    await tick(world)
    await world.client.patch(CRONJOBS, "tick", {"spec": {"suspend": False}}, "default")
    (made,) = await world.until(JOBS, lambda items: items)
    assert made["metadata"]["ownerReferences"][0]["name"] == "tick"


async def test_a_schedule_that_never_comes_is_told(world):
    await world.client.create(CRONJOBS, cron_job(schedule="59 23 31 2 *"), "default")
    (event,) = await world.until(EVENTS, lambda items: items)
    assert (event["type"], event["reason"]) == ("Warning", "InvalidSchedule")


# The pure parts


@given(st.sets(st.integers(0, 40)))
def test_indexes_survive_their_text(chosen):
    assert indexes.parse(indexes.render(chosen), 41) == chosen


def test_indexes_are_written_as_ranges():
    assert indexes.render([0, 1, 2, 4, 6, 7]) == "0-2,4,6,7"
    assert indexes.parse("0-2,x,9", 5) == {0, 1, 2}


@pytest.mark.parametrize(
    ("expression", "zone", "expected"),
    [
        ("*/15 * * * *", "", "2026-03-01T10:15:00+00:00"),
        ("@daily", "", "2026-03-02T00:00:00+00:00"),
        ("30 9 * * mon-fri", "Asia/Kolkata", "2026-03-02T04:00:00+00:00"),
        ("0 12 * * 0", "", "2026-03-01T12:00:00+00:00"),
        ("*/1 * * * ?", "", "2026-03-01T10:08:00+00:00"),
        ("0 0 ? * 1", "", "2026-03-02T00:00:00+00:00"),
    ],
)
def test_schedules(expression, zone, expected):
    after = datetime(2026, 3, 1, 10, 7, tzinfo=UTC)
    assert next(schedule.times(expression, zone, after)).isoformat() == expected


def test_every_so_often_counts_from_the_last_time():
    item = cron_job(schedule="@every 1h30m")
    item["metadata"]["creationTimestamp"] = "2026-03-01T10:00:00Z"

    def at(hour, minute):
        found = schedule.due(item, datetime(2026, 3, 1, hour, minute, tzinfo=UTC))
        return found.last and f"{found.last:%H:%M}", found.missed, f"{found.next:%H:%M}"

    assert at(10, 20) == (None, 0, "11:30")
    assert at(13, 10) == ("13:00", 2, "14:30")
    item["status"] = {"lastScheduleTime": "2026-03-01T13:00:00Z"}
    assert at(14, 29) == (None, 0, "14:30")
    assert at(14, 30) == ("14:30", 1, "16:00")


def test_a_long_absence_is_caught_up_with_one_run():
    item = cron_job(schedule="* * * * *")
    item["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    found = schedule.due(item, datetime(2026, 3, 1, 10, 7, 30, tzinfo=UTC))
    assert found.missed > schedule.MANY
    assert found.last == datetime(2026, 3, 1, 10, 7, tzinfo=UTC)
    item["spec"]["startingDeadlineSeconds"] = 100
    assert schedule.due(item, datetime(2026, 3, 1, 10, 7, 30, tzinfo=UTC)).missed == 2
