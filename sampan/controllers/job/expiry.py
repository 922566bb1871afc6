"""Finished Jobs with `ttlSecondsAfterFinished` are deleted when their time is over."""

from __future__ import annotations

from sampan.client.resources import JOBS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, is_deleting, parse_time


def finished(job: Object) -> float | None:
    """When the Job ended, in seconds since the epoch; None while it runs."""
    for kind in ("Complete", "Failed"):
        found = condition(job, kind)
        if found is not None and found["status"] == "True":
            return parse_time(found["lastTransitionTime"]).timestamp()
    return None


class JobExpiryController(Controller):
    name = "ttl-after-finished-controller"
    watches = (Watch(JOBS),)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.jobs = self.informer(JOBS)

    async def reconcile(self, key: Key) -> Requeue | None:
        job = self.jobs.get(*key)
        if job is None or is_deleting(job):
            return None
        seconds, ended = job["spec"].get("ttlSecondsAfterFinished"), finished(job)
        if seconds is None or ended is None:
            return None
        left = ended + seconds - self.clock()
        if left > 0:
            return Requeue(left)
        metadata = job["metadata"]
        try:
            # Only in the state that was judged: its time may have been made longer meanwhile.
            await self.client.delete(
                JOBS,
                key.name,
                key.namespace,
                uid=metadata["uid"],
                resource_version=metadata["resourceVersion"],
                propagation="Foreground",
            )
        except ApiError as error:
            if error.code != 404:
                raise
        return None
