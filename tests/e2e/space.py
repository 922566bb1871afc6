"""One namespace of a cluster, for the tests of one file: kubectl bound to it, and waits for what pods do."""

from __future__ import annotations

import json
from typing import Any

from box import pod
from cluster import Cluster, wait_for


class Space:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def kubectl(self, *arguments: str, **options: Any) -> str:
        return self.cluster.kubectl("-n", self.name, *arguments, **options)

    def kubectl_fails(self, *arguments: str, stdin: str | None = None) -> str:
        return self.cluster.kubectl_fails("-n", self.name, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        return self.cluster.get("-n", self.name, *arguments)

    def apply(self, *objects: dict[str, Any]) -> str:
        wrapped = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        return self.kubectl("apply", "-f", "-", stdin=json.dumps(wrapped))

    def read(self, what: str) -> Any:
        """An object or list of this namespace's core group; for what is asked again and again."""
        return self.cluster.read(f"/api/v1/namespaces/{self.name}/{what}")

    # Pods

    def start(self, kind: str, name: str, *args: str, **fields: Any) -> dict[str, Any]:
        """A pod of one box, applied."""
        made = pod(kind, name, *args, **fields)
        self.apply(made)
        return made

    def ready(self, what: str, timeout: float = 30) -> None:
        self.kubectl(
            "wait", "--for=condition=Ready", f"--timeout={timeout}s", what, timeout=timeout + 10
        )

    def phase(self, name: str, phase: str, timeout: float = 30) -> None:
        condition = f"--for=jsonpath={{.status.phase}}={phase}"
        self.kubectl(
            "wait", condition, f"--timeout={timeout}s", f"pod/{name}", timeout=timeout + 10
        )

    def output(self, kind: str, name: str, *args: str, **fields: Any) -> str:
        """What a pod that ends well has printed."""
        self.start(
            kind,
            name,
            *args,
            **{"spec": {"restartPolicy": "Never"} | fields.pop("spec", {}), **fields},
        )
        self.phase(name, "Succeeded")
        return self.kubectl("logs", name)

    def says(self, name: str, text: str, timeout: float = 30) -> str:
        """The log of `name`, once it holds `text`."""

        def log() -> str:
            status, body = self.cluster.request(
                "GET", f"/api/v1/namespaces/{self.name}/pods/{name}/log"
            )
            assert status == 200 and text in body.decode(), body.decode()
            return body.decode()

        return wait_for(log, timeout, f"{text!r} in the log of {name}")

    def container_status(
        self, name: str, key: str = "containerStatuses", index: int = 0
    ) -> dict[str, Any]:
        def reported() -> Any:
            return self.read(f"pods/{name}")["status"].get(key)

        return wait_for(reported, what=f"{key} of {name}")[index]

    def waiting(self, name: str, *reasons: str, timeout: float = 30) -> dict[str, Any]:
        """The container's waiting state, once its reason is one of `reasons`."""

        def state() -> Any:
            statuses = self.read(f"pods/{name}")["status"].get("containerStatuses", [])
            assert statuses and statuses[0]["state"].get("waiting", {}).get("reason") in reasons, (
                statuses
            )
            return statuses[0]["state"]["waiting"]

        return wait_for(state, timeout, f"{name} waiting for {reasons}")

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """(type, reason, message) of the events about an object."""
        items = self.read(f"events?fieldSelector=involvedObject.name%3D{name}")["items"]
        return [(item["type"], item["reason"], item["message"]) for item in items]

    def event(self, name: str, reason: str, says: str = "", timeout: float = 15) -> str:
        """The message of the object's event with this reason (which `says` something), once there."""

        def found() -> str:
            events = self.events(name)
            messages = [message for _, why, message in events if why == reason and says in message]
            assert messages, events
            return messages[-1] or "-"

        return wait_for(found, timeout, f"event {reason} of {name}")
