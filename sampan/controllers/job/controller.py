"""Job controller: runs pods until enough of them have succeeded, and counts each exactly once.

A pod carries the finalizer `batch.kubernetes.io/job-tracking` until it is counted: its uid goes into
`status.uncountedTerminatedPods`, then the finalizer goes, then the count rises. A crash between any two of these steps
neither loses nor repeats one (KEP-2307). The decisions are in `plan.py`.
"""

from __future__ import annotations

import asyncio

from sampan.client.resources import JOBS, PODS
from sampan.controllers.base import (
    Context,
    Controller,
    Expectations,
    Key,
    Object,
    Requeue,
    Watch,
    stamp,
)
from sampan.controllers.job import indexes, plan
from sampan.controllers.job.plan import TRACKING, Outcome, Picture
from sampan.controllers.pods import claim, create_pods, delete_pod, from_template
from sampan.kube.errors import ApiError
from sampan.kube.objects import (
    clone,
    condition,
    condition_true,
    controller_of,
    finalizers,
    is_deleting,
    set_condition,
)
from sampan.kube.selectors import from_object

MANAGER = "kubernetes.io/job-controller"
BURST = 500  # most pods made in one reconcile
TARGETS = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}


def tracked_job(pod: Object) -> list[Key]:
    """The Job of a pod that still has to be counted, also when the Job is gone."""
    owner = controller_of(pod)
    if owner is None or owner["kind"] != "Job":
        return []
    return [Key(pod["metadata"]["namespace"], owner["name"])]


class JobController(Controller):
    name = "job-controller"
    watches = (Watch(JOBS), Watch(PODS, keys=lambda self, pod: tracked_job(pod)))

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.jobs = self.informer(JOBS)
        self.pods = self.informer(PODS)
        self.expectations = Expectations(self.pods)
        self.events = context.recorder(self.name)

    async def reconcile(self, key: Key) -> Requeue | None:
        job = self.jobs.get(*key)
        if job is None:
            self.expectations.forget(key)
            await self.let_go(self.orphans(key))
            return None
        if job["spec"].get("managedBy", MANAGER) != MANAGER:
            return None
        pods = await claim(self.client, self.pods, JOBS, job, from_object(job["spec"]["selector"]))
        if is_deleting(job) or is_over(job):
            await self.let_go(pods)
            return None
        return await self.drive(key, clone(job), pods)

    def orphans(self, key: Key) -> list[Object]:
        """Pods that wait to be counted by a Job that is gone."""
        return [
            pod
            for pod in self.pods.list(key.namespace)
            if TRACKING in finalizers(pod) and key in tracked_job(pod)
        ]

    async def drive(self, key: Key, job: Object, pods: list[Object]) -> Requeue | None:
        now = self.clock()
        status = job.setdefault("status", {})
        suspended = bool(job["spec"].get("suspend"))
        if not status.get("startTime") and not suspended:
            status["startTime"] = stamp(now)
        found = plan.examine(job, pods)
        end = plan.outcome(found, now)
        waits: list[float] = []
        if end is not None:
            self.announce(job, end)
            await self.stop(key, job, found.active)
        else:
            self.suspend(job, suspended)
            if suspended:
                await self.dismiss(key, job, found.active)
            elif self.expectations.satisfied(key):
                waits += await self.adjust(key, job, found)
            left = plan.deadline_in(found, now)
            waits += [left] if left is not None else []
        await self.count(job, found, pods, end, suspended)
        return Requeue(max(min(waits), 0.0) + 0.01) if waits else None

    # Making and stopping pods

    async def adjust(self, key: Key, job: Object, found: Picture) -> list[float]:
        wanted = plan.wanted(found, self.clock())
        await self.dismiss(key, job, wanted.stop)
        made = [self.create(key, job, found, index) for index in wanted.create[:BURST]]
        await create_pods(made, self.events, job)
        return [wanted.wait] if wanted.wait is not None else []

    async def create(self, key: Key, job: Object, found: Picture, index: int | None) -> None:
        pod = pod_of(job, found, index)
        made = await self.client.create(PODS, pod, key.namespace)
        self.expectations.expect_created(key, made)
        found.active.append(made)
        name = made["metadata"]["name"]
        self.events.event(job, "Normal", "SuccessfulCreate", f"Created pod: {name}")

    async def dismiss(self, key: Key, job: Object, pods: list[Object]) -> None:
        """Stop pods that did nothing wrong: they are no failures, and need not be counted."""
        await self.let_go(pods)
        await self.stop(key, job, pods)

    async def stop(self, key: Key, job: Object, pods: list[Object]) -> None:
        async def one(pod: Object) -> None:
            await delete_pod(self.client, self.expectations, key, pod)
            text = f"Deleted pod: {pod['metadata']['name']}"
            self.events.event(job, "Normal", "SuccessfulDelete", text)

        await asyncio.gather(*(one(pod) for pod in pods))

    async def let_go(self, pods: list[Object]) -> None:
        """Take the tracking finalizer off: these pods were counted, or count for nothing."""

        async def one(pod: Object) -> None:
            metadata = pod["metadata"]
            kept = [each for each in finalizers(pod) if each != TRACKING]
            patch = {
                "metadata": {
                    "uid": metadata["uid"],
                    "resourceVersion": metadata["resourceVersion"],
                    "finalizers": kept or None,
                }
            }
            try:
                await self.client.patch(PODS, metadata["name"], patch, metadata["namespace"])
            except ApiError as error:
                if error.code != 404:
                    raise

        await asyncio.gather(*(one(pod) for pod in pods if TRACKING in finalizers(pod)))

    # Status

    def announce(self, job: Object, end: Outcome) -> None:
        """The outcome is settled; the final condition follows when the last pod has ended."""
        moment = stamp(self.clock())
        set_condition(job, TARGETS[end.kind], "True", end.reason, end.message, moment)

    def suspend(self, job: Object, suspended: bool) -> None:
        status, moment = job["status"], stamp(self.clock())
        if suspended:
            status.pop("startTime", None)
            if set_condition(job, "Suspended", "True", "JobSuspended", "Job suspended", moment):
                self.events.event(job, "Normal", "Suspended", "Job suspended")
        elif condition(job, "Suspended") is not None:
            if set_condition(job, "Suspended", "False", "JobResumed", "Job resumed", moment):
                self.events.event(job, "Normal", "Resumed", "Job resumed")
                status["startTime"] = moment

    async def count(
        self, job: Object, found: Picture, pods: list[Object], end: Outcome | None, suspended: bool
    ) -> None:
        """Bring the status up to date, by steps that may each be the last before a crash."""
        status = job["status"]
        uncounted = status.get("uncountedTerminatedPods") or {}
        waiting = {key: list(uncounted.get(key) or ()) for key in ("succeeded", "failed")}
        waiting["failed"] += [pod["metadata"]["uid"] for pod in found.failed]
        # A stopped pod that never said how it ended; when nobody wanted it to stop, it failed.
        lost = [pod for pod in found.terminating if TRACKING in finalizers(pod)]
        counts_lost = end is None and not suspended and not found.replaces_only_failed
        if counts_lost:
            waiting["failed"] += [
                pod["metadata"]["uid"]
                for pod in lost
                if pod["metadata"]["uid"] not in waiting["failed"]
            ]
        if found.indexed:
            put(status, "completedIndexes", indexes.render(found.done))
            if job["spec"].get("backoffLimitPerIndex") is not None:
                status["failedIndexes"] = indexes.render(found.broken)
        else:
            waiting["succeeded"] += [pod["metadata"]["uid"] for pod in found.succeeded]
        status["uncountedTerminatedPods"] = {key: each for key, each in waiting.items() if each}
        put(status, "active", len(found.active) if end is None else 0)
        status["ready"] = plan.ready_count(found) if end is None else 0
        status["terminating"] = len(found.terminating) + (len(found.active) if end else 0)
        job = await self.write(job)
        settled = {uid for each in waiting.values() for uid in each}
        let_go = [pod for pod in pods if pod["metadata"]["uid"] in settled]
        let_go += found.ignored + (found.succeeded if found.indexed else [])
        if not counts_lost:
            let_go += lost
        await self.let_go(let_go)
        status = job["status"]
        for key, uids in waiting.items():
            if uids and not (key == "succeeded" and found.indexed):
                status[key] = status.get(key, 0) + len(uids)
        if found.indexed:
            put(status, "succeeded", len(found.done))
        status["uncountedTerminatedPods"] = {}
        if end is not None and not found.active and not found.terminating:
            self.finish(job, end)
        await self.write(job)

    def finish(self, job: Object, end: Outcome) -> None:
        moment = stamp(self.clock())
        set_condition(job, end.kind, "True", end.reason, end.message, moment)
        if end.kind == "Complete":
            job["status"]["completionTime"] = moment
            self.events.event(job, "Normal", "Completed", "Job completed")
        else:
            self.events.event(job, "Warning", end.reason, end.message)

    async def write(self, job: Object) -> Object:
        """Store the status when it changed; the Job as it is stored now."""
        metadata = job["metadata"]
        known = self.jobs.get(metadata["namespace"], metadata["name"]) or {}
        if (
            known.get("status") == job["status"]
            and known["metadata"]["resourceVersion"] == metadata["resourceVersion"]
        ):
            return job
        return await self.client.update(JOBS, job, "status")


def put(status: Object, key: str, value: object) -> None:
    """Zero and empty are left out, as the API does."""
    if value:
        status[key] = value
    else:
        status.pop(key, None)


def is_over(job: Object) -> bool:
    return condition_true(job, "Complete") or condition_true(job, "Failed")


def pod_of(job: Object, found: Picture, index: int | None) -> Object:
    """A pod of the Job's template, to be counted when it ends; of an index, with its name, host name and variable."""
    pod = from_template(clone(job["spec"]["template"]), job)
    metadata, spec = pod["metadata"], pod["spec"]
    metadata["finalizers"] = [*(metadata.get("finalizers") or ()), TRACKING]
    if index is None:
        return pod
    name = job["metadata"]["name"]
    metadata["generateName"] = f"{name[: 57 - len(str(index))]}-{index}-"
    metadata.setdefault("labels", {})[indexes.INDEX] = str(index)
    metadata.setdefault("annotations", {})[indexes.INDEX] = str(index)
    if job["spec"].get("backoffLimitPerIndex") is not None:
        metadata["annotations"][plan.FAILURES] = str(plan.failures_of(found, index))
    spec.setdefault("hostname", f"{name[: 62 - len(str(index))]}-{index}")
    source = {"fieldRef": {"fieldPath": f"metadata.labels['{indexes.INDEX}']"}}
    variable = {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}
    for key in ("initContainers", "containers"):
        for container in spec.get(key) or ():
            present = container.get("env") or []
            if all(each["name"] != variable["name"] for each in present):
                container["env"] = [*present, variable]
    return pod
