"""Pods: the one row that everybody looks at. Its STATUS sums up phase, conditions, and every container's state."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sampan.apiserver.tables.model import (
    AGE,
    NAME,
    NONE,
    Column,
    Object,
    Printer,
    age,
    container_columns,
    has_condition,
    labels_text,
    printer,
    since,
)


def _restartable(container: Object) -> bool:
    return container.get("restartPolicy") == "Always"


def _ended(prefix: str, terminated: Object) -> str:
    if terminated.get("reason"):
        return prefix + str(terminated["reason"])
    if terminated.get("signal"):
        return f"{prefix}Signal:{terminated['signal']}"
    return f"{prefix}ExitCode:{terminated.get('exitCode', 0)}"


class _Restarts:
    """How often, and when last."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def add(self, status: Object) -> None:
        self.count += status.get("restartCount") or 0
        ended = (status.get("lastState") or {}).get("terminated") or {}
        self.last = max(self.last, ended.get("finishedAt") or "")

    def text(self, now: datetime) -> str:
        if self.count and self.last:
            return f"{self.count} ({since(self.last, now)} ago)"
        return str(self.count)


class _Summary:
    """Ready containers, status and restarts of one pod, found in one pass as kubectl's users know them."""

    def __init__(self, pod: Object) -> None:
        self.spec: Object = pod.get("spec") or {}
        self.status: Object = pod.get("status") or {}
        self.pod = pod
        self.ready = 0
        self.init = {each["name"]: each for each in self.spec.get("initContainers") or ()}
        sidecars = sum(1 for each in self.init.values() if _restartable(each))
        self.total = len(self.spec.get("containers") or ()) + sidecars
        self.restarts = _Restarts()
        self.reason = self.status.get("reason") or self.status.get("phase") or ""
        for each in self.status.get("conditions") or ():
            if each.get("type") == "PodScheduled" and each.get("reason") == "SchedulingGated":
                self.reason = "SchedulingGated"
        sidecar_restarts = _Restarts()
        if not self._initializing(sidecar_restarts) or has_condition(pod, "Initialized"):
            self.restarts = sidecar_restarts
            self._containers()
        self._deletion()

    def _initializing(self, sidecar_restarts: _Restarts) -> bool:
        for index, status in enumerate(self.status.get("initContainerStatuses") or ()):
            sidecar = _restartable(self.init.get(status["name"], {}))
            self.restarts.add(status)
            if sidecar:
                sidecar_restarts.add(status)
            state = status.get("state") or {}
            terminated, waiting = state.get("terminated"), state.get("waiting") or {}
            if terminated is not None and terminated.get("exitCode", 0) == 0:
                continue
            if sidecar and status.get("started"):
                self.ready += bool(status.get("ready"))
                continue
            if terminated is not None:
                self.reason = _ended("Init:", terminated)
            elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
                self.reason = f"Init:{waiting['reason']}"
            else:
                self.reason = f"Init:{index}/{len(self.init)}"
            return True
        return False

    def _containers(self) -> None:
        running = False
        for status in reversed(self.status.get("containerStatuses") or ()):
            self.restarts.add(status)
            state = status.get("state") or {}
            terminated, waiting = state.get("terminated"), state.get("waiting") or {}
            if waiting.get("reason"):
                self.reason = waiting["reason"]
            elif terminated is not None:
                self.reason = _ended("", terminated)
            elif status.get("ready") and state.get("running") is not None:
                running = True
                self.ready += 1
        if self.reason == "Completed" and running:
            self.reason = "Running" if has_condition(self.pod, "Ready") else "NotReady"

    def _deletion(self) -> None:
        if not self.pod.get("metadata", {}).get("deletionTimestamp"):
            return
        if self.status.get("reason") == "NodeLost":
            self.reason = "Unknown"
        elif self.status.get("phase") not in ("Succeeded", "Failed"):
            self.reason = "Terminating"


def _gates(pod: Object) -> str:
    gates = (pod.get("spec") or {}).get("readinessGates") or ()
    if not gates:
        return NONE
    passed = sum(has_condition(pod, gate.get("conditionType", "")) for gate in gates)
    return f"{passed}/{len(gates)}"


def _cells(pod: Object, now: datetime) -> list[Any]:
    summary = _Summary(pod)
    spec, status = summary.spec, summary.status
    addresses = status.get("podIPs") or ()
    address = addresses[0].get("ip") if addresses else status.get("podIP")
    return [
        pod["metadata"]["name"],
        f"{summary.ready}/{summary.total}",
        summary.reason,
        summary.restarts.text(now),
        age(pod, now),
        address or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(pod),
    ]


PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "Pod"): Printer(
        (
            NAME,
            Column("Ready", ""),
            Column("Status", ""),
            Column("Restarts", ""),
            AGE,
            Column("IP", "", wide=True),
            Column("Node", "", wide=True),
            Column("Nominated Node", "", wide=True),
            Column("Readiness Gates", "", wide=True),
        ),
        _cells,
    ),
    ("", "PodTemplate"): printer(
        NAME,
        *(Column(c.name, c.value) for c in container_columns("template.spec.containers")),
        Column(
            "Pod Labels",
            lambda obj, _now: labels_text(
                (obj.get("template", {}).get("metadata") or {}).get("labels")
            ),
        ),
    ),
}
