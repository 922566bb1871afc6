"""Revisions of a workload's template: ControllerRevisions, shared by StatefulSet and DaemonSet.

A revision holds the template as a patch of the workload, so that `kubectl rollout undo` can apply it. Two with the same
data are one: going back to an old template gives its revision a new, higher number instead of a second object.
"""

from __future__ import annotations

from typing import Any

import orjson

from sampan.client.client import Client
from sampan.client.informer import Informer
from sampan.client.resources import CONTROLLERREVISIONS
from sampan.controllers.rollout import template_hash
from sampan.kube.errors import ApiError
from sampan.kube.objects import controller_of, owner_reference

Object = dict[str, Any]

HASH = "controller-revision-hash"


def data_of(workload: Object) -> Object:
    """Keys in order, as Kubernetes has them: whoever wants to know whether a revision is that of a workload compares bytes."""
    data = {"spec": {"template": {**workload["spec"]["template"], "$patch": "replace"}}}
    return orjson.loads(orjson.dumps(data, option=orjson.OPT_SORT_KEYS))  # type: ignore[no-any-return]


def template_of(revision: Object) -> Object:
    template = dict(revision["data"]["spec"]["template"])
    template.pop("$patch", None)
    return template


class History:
    """The revisions of one workload, oldest first."""

    def __init__(self, client: Client, informer: Informer, workload: Object) -> None:
        self.client = client
        self.workload = workload
        uid = workload["metadata"]["uid"]
        self.revisions = sorted(
            (
                each
                for each in informer.owned_by(uid)
                if (controller_of(each) or {}).get("uid") == uid
            ),
            key=lambda each: (each["revision"], each["metadata"]["name"]),
        )

    def named(self, name: str) -> Object | None:
        return next((each for each in self.revisions if each["metadata"]["name"] == name), None)

    async def current(self, collisions: int) -> tuple[Object, int]:
        """(the revision of the present template, collisions): found, made the newest again, or made."""
        data = data_of(self.workload)
        highest = self.revisions[-1]["revision"] if self.revisions else 0
        for each in reversed(self.revisions):
            if each["data"] == data:
                if each["revision"] == highest:
                    return each, collisions
                renewed = {**each, "revision": highest + 1}
                return await self.client.update(CONTROLLERREVISIONS, renewed), collisions
        while True:
            made = self._new(data, highest + 1, collisions)
            try:
                created = await self.client.create(
                    CONTROLLERREVISIONS, made, made["metadata"]["namespace"]
                )
                return created, collisions
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
            name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
            present = await self.client.get(CONTROLLERREVISIONS, name, namespace)
            if (
                present["data"] == data
                and (controller_of(present) or {}).get("uid") == (self.workload["metadata"]["uid"])
            ):
                return present, collisions
            collisions += 1

    def _new(self, data: Object, number: int, collisions: int) -> Object:
        metadata = self.workload["metadata"]
        digest = template_hash(self.workload["spec"]["template"], collisions)
        labels = (self.workload["spec"]["template"].get("metadata") or {}).get("labels") or {}
        return {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": f"{metadata['name'][:223]}-{digest}",
                "namespace": metadata["namespace"],
                "labels": {**labels, HASH: digest},
                "annotations": metadata.get("annotations") or {},
                "ownerReferences": [owner_reference(self.workload)],
            },
            "data": data,
            "revision": number,
        }

    async def forget_old(self, in_use: set[str]) -> None:
        """Delete the oldest that no pod runs, beyond `revisionHistoryLimit`."""
        limit = self.workload["spec"].get("revisionHistoryLimit", 10)
        spare = [each for each in self.revisions if each["metadata"]["name"] not in in_use]
        for each in spare[: max(len(spare) - limit, 0)]:
            metadata = each["metadata"]
            try:
                await self.client.delete(
                    CONTROLLERREVISIONS,
                    metadata["name"],
                    metadata["namespace"],
                    uid=metadata["uid"],
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
