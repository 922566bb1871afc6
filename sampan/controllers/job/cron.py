"""CronJob controller: makes a Job when the schedule says so, and keeps only as many finished ones as it is told to.

A Job is named after the minute for which it is made, so that one that was made already is never made twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sampan.client.resources import CRONJOBS, JOBS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch, stamp
from sampan.controllers.job.expiry import finished
from sampan.controllers.job.schedule import MANY, Impossible, due
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    clone,
    condition_true,
    controller_of,
    is_deleting,
    owner_reference,
)

SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"


class CronJobController(Controller):
    name = "cronjob-controller"
    watches = (Watch(CRONJOBS), Watch(JOBS, owner="CronJob"))

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.cron_jobs = self.informer(CRONJOBS)
        self.jobs = self.informer(JOBS)
        self.events = context.recorder(self.name)

    async def reconcile(self, key: Key) -> Requeue | None:
        cron_job = self.cron_jobs.get(*key)
        if cron_job is None or is_deleting(cron_job):
            return None
        cron_job = clone(cron_job)
        jobs = [
            job
            for job in self.jobs.owned_by(cron_job["metadata"]["uid"])
            if (controller_of(job) or {}).get("uid") == cron_job["metadata"]["uid"]
        ]
        self.observe(cron_job, jobs)
        await self.forget_old(cron_job, jobs)
        requeue = None
        if not cron_job["spec"].get("suspend"):
            requeue = await self.serve(cron_job, jobs)
        await self.write(key, cron_job)
        return requeue

    def observe(self, cron_job: Object, jobs: list[Object]) -> None:
        """What became of the Jobs that were made."""
        status = cron_job.setdefault("status", {})
        known = {job["metadata"]["uid"]: job for job in jobs}
        before = {each["uid"] for each in status.get("active") or ()}
        for uid in before:
            job = known.get(uid)
            if job is not None and finished(job) is not None:
                kind = "Complete" if condition_true(job, "Complete") else "Failed"
                text = f"Saw completed job: {job['metadata']['name']}, condition: {kind}"
                self.events.event(cron_job, "Normal", "SawCompletedJob", text)
        show_active(status, [job for job in jobs if finished(job) is None])
        ended = [
            job["status"]["completionTime"]
            for job in jobs
            if condition_true(job, "Complete") and job["status"].get("completionTime")
        ]
        if ended:
            latest = max([*ended, status.get("lastSuccessfulTime") or ""])
            status["lastSuccessfulTime"] = latest

    async def forget_old(self, cron_job: Object, jobs: list[Object]) -> None:
        spec = cron_job["spec"]
        for kind, limit in (
            ("Complete", spec.get("successfulJobsHistoryLimit", 3)),
            ("Failed", spec.get("failedJobsHistoryLimit", 1)),
        ):
            ended = [job for job in jobs if condition_true(job, kind) and not is_deleting(job)]
            ended.sort(key=lambda job: (finished(job) or 0.0, job["metadata"]["name"]))
            for job in ended[: max(len(ended) - limit, 0)]:
                await self.delete(cron_job, job)

    async def serve(self, cron_job: Object, jobs: list[Object]) -> Requeue | None:
        """Make the Job that is due, unless an earlier one forbids it. The answer is when to look again."""
        now = datetime.fromtimestamp(self.clock(), UTC)
        try:
            found = due(cron_job, now)
        except Impossible as error:
            text = f"invalid schedule: {error}"
            self.events.event(cron_job, "Warning", "InvalidSchedule", text)
            return None
        except ValueError as error:
            text = f"unparseable schedule: {error}"
            self.events.event(cron_job, "Warning", "UnparseableSchedule", text)
            return None
        if found.missed > MANY:
            text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
            self.events.event(cron_job, "Warning", "TooManyMissedTimes", text)
        if found.last is not None:
            await self.make(cron_job, jobs, found.last)
        if found.next is None:
            return None
        return Requeue((found.next - now).total_seconds() + 0.05)

    async def make(self, cron_job: Object, jobs: list[Object], moment: datetime) -> None:
        status, spec = cron_job["status"], cron_job["spec"]
        active = [job for job in jobs if finished(job) is None]
        deadline = spec.get("startingDeadlineSeconds")
        age = self.clock() - moment.timestamp()
        if deadline is not None and age > deadline:
            text = f"Missed scheduled time to start a job: {moment:%a, %d %b %Y %H:%M:%S} +0000"
            self.events.event(cron_job, "Warning", "MissSchedule", text)
            return
        job = job_of(cron_job, moment)
        if any(each["metadata"]["name"] == job["metadata"]["name"] for each in jobs):
            # made by the last turn, whose status the informer does not show yet: it must not be replaced by itself
            status["lastScheduleTime"] = stamp(moment.timestamp())
            return
        policy = spec.get("concurrencyPolicy", "Allow")
        if policy == "Forbid" and active:
            text = "Not starting job because prior execution is running and concurrency policy is Forbid"
            self.events.event(cron_job, "Normal", "JobAlreadyActive", text)
            return
        if policy == "Replace":
            for job in active:
                await self.delete(cron_job, job)
            active = []
        try:
            made = await self.client.create(JOBS, job, job["metadata"]["namespace"])
        except ApiError as error:
            if error.reason != "AlreadyExists":
                text = f"Error creating job: {error.message}"
                self.events.event(cron_job, "Warning", "FailedCreate", text)
                raise
        else:
            text = f"Created job {made['metadata']['name']}"
            self.events.event(cron_job, "Normal", "SuccessfulCreate", text)
            show_active(status, [*active, made])
        status["lastScheduleTime"] = stamp(moment.timestamp())

    async def delete(self, cron_job: Object, job: Object) -> None:
        metadata = job["metadata"]
        try:
            await self.client.delete(
                JOBS,
                metadata["name"],
                metadata["namespace"],
                uid=metadata["uid"],
                propagation="Background",
            )
        except ApiError as error:
            if error.code not in (404, 409):
                raise
        text = f"Deleted job {metadata['name']}"
        self.events.event(cron_job, "Normal", "SuccessfulDelete", text)

    async def write(self, key: Key, cron_job: Object) -> None:
        known = self.cron_jobs.get(*key)
        if known is not None and (known.get("status") or {}) != cron_job["status"]:
            await self.client.update(CRONJOBS, cron_job, "status")


def show_active(status: Object, jobs: list[Object]) -> None:
    """References to the Jobs that run, oldest first; left out when none does."""
    jobs = sorted(jobs, key=lambda job: job["metadata"]["name"])
    status.pop("active", None)
    if jobs:
        status["active"] = [
            {
                "kind": "Job",
                "namespace": job["metadata"]["namespace"],
                "name": job["metadata"]["name"],
                "uid": job["metadata"]["uid"],
                "apiVersion": "batch/v1",
                "resourceVersion": job["metadata"]["resourceVersion"],
            }
            for job in jobs
        ]


def job_of(cron_job: Object, moment: datetime) -> Object:
    """The Job for a scheduled time, named after its minute."""
    template = clone(cron_job["spec"]["jobTemplate"])
    source = template.get("metadata") or {}
    metadata = cron_job["metadata"]
    minute = int(moment.timestamp()) // 60
    zone = cron_job["spec"].get("timeZone")
    shown = moment
    if zone:
        from zoneinfo import ZoneInfo

        shown = moment.astimezone(ZoneInfo(zone))
    annotations = {**(source.get("annotations") or {}), SCHEDULED: shown.isoformat()}
    if shown.utcoffset() == timedelta(0):
        annotations[SCHEDULED] = stamp(moment.timestamp())
    made: Object = {
        "name": f"{metadata['name'][:52]}-{minute}",
        "namespace": metadata["namespace"],
        "annotations": annotations,
        "ownerReferences": [owner_reference(cron_job)],
    }
    for key in ("labels", "finalizers"):
        if source.get(key):
            made[key] = source[key]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": made,
        "spec": template["spec"],
    }
