"""A pod's status as the API shall show it: a pure function of spec, observation and time.

The phase and the conditions follow kubelet's rules (`getPhase`, pod readiness KEP-580, PodReadyToStartContainers
KEP-3085), and so do the reasons that people search for: ContainerCreating, PodInitializing, CrashLoopBackOff.
`changes` then makes the smallest strategic merge patch that takes the API from what it has to what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sampan.kube import objects
from sampan.node import podspec, resize
from sampan.node.observed import EXITED, RUNNING, ContainerState
from sampan.node.plan import ROUND, Blocked, View
from sampan.node.podspec import EPHEMERAL, INIT, MAIN, SIDECAR, Named, Object
from sampan.node.resources import qos_class

OURS = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status says of the node."""

    host_ips: tuple[str, ...]
    runtime: str = "sampan"  # scheme of container ids


def timestamp(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """As Go prints one: 10s, 1m20s, 5m0s."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"


def pod_status(pod: Object, view: View, facts: Facts, now: float, *, done: bool = False) -> Object:
    """The whole wanted status. `done`: nothing of the pod runs any more and nothing will."""
    previous = pod.get("status") or {}
    moment = timestamp(int(now * 1e9))
    groups: dict[str, list[Object]] = {INIT: [], MAIN: [], EPHEMERAL: []}
    for named in podspec.containers(pod):
        group = INIT if named.kind == SIDECAR else named.kind
        groups[group].append(_container(pod, named, view, facts, now, done))
    phase = _phase(pod, view, groups, done)
    status: Object = {
        "phase": phase,
        "startTime": previous.get("startTime") or moment,
        "hostIP": facts.host_ips[0],
        "hostIPs": [{"ip": ip} for ip in facts.host_ips],
        "qosClass": previous.get("qosClass") or qos_class(pod),
    }
    if generation := objects.generation(pod):
        status["observedGeneration"] = generation
    addresses = view.sandbox.addresses if view.sandbox else ()
    if pod["spec"].get("hostNetwork") and view.sandbox:
        addresses = facts.host_ips
    if addresses:
        status["podIP"] = addresses[0]
        status["podIPs"] = [{"ip": ip} for ip in addresses]
    elif previous.get("podIP"):
        # A finished pod keeps the address that it had.
        status["podIP"], status["podIPs"] = previous["podIP"], previous.get("podIPs") or []
    # As kubelet's status manager has it, no pod is Failed, and nobody's resources are free, while a container may still run.
    failed = view.verdict if done or not any_running(view) else None
    if failed:
        status["phase"] = phase = "Failed"
        status["reason"], status["message"] = failed.reason, failed.message
    elif previous.get("reason") and previous.get("phase") == "Failed":
        status["reason"] = previous["reason"]
        status["message"] = previous.get("message", "")
    for field, kind in (
        ("initContainerStatuses", INIT),
        ("containerStatuses", MAIN),
        ("ephemeralContainerStatuses", EPHEMERAL),
    ):
        if groups[kind]:
            status[field] = groups[kind]
    status["conditions"] = _conditions(pod, view, groups, phase, moment)
    status["conditions"] += resize.conditions(pod, view.resized, moment)
    resize.into_pod(status, pod, view.resized)
    if view.disrupted and failed:
        status["conditions"].append(_disruption(pod, failed.message, moment))
    return status


def any_running(view: View) -> bool:
    return any(state.state == RUNNING for history in view.history.values() for state in history)


def _disruption(pod: Object, message: str, moment: str) -> Object:
    """The condition that tells a Job not to count this failure against the pod (KEP-3329)."""
    old = objects.condition(pod, "DisruptionTarget")
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "TerminationByKubelet",
        "message": message,
        "lastProbeTime": None,
        "lastTransitionTime": (old or {}).get("lastTransitionTime") or moment,
    }


def _container(
    pod: Object, named: Named, view: View, facts: Facts, now: float, done: bool
) -> Object:
    container = named.container
    name = container["name"]
    states = view.history.get(name) or ()
    last = states[0] if states else None
    if last is None:
        return _never_seen(pod, named, view, done)
    known = podspec.api_status(pod, name) or {}
    status: Object = {
        "name": name,
        "ready": False,
        "started": False,
        "restartCount": _restarts(states, known),
        "image": last.image or container.get("image", ""),
        "imageID": last.image_id,
        "containerID": f"{facts.runtime}://{last.id}",
        "lastState": {},
    }
    before = next((s for s in states[1:] if s.state == EXITED), None)
    if before is not None:
        status["lastState"] = {"terminated": _terminated(before, view, facts)}
    if last.state == RUNNING and (done or not view.runs(last)):
        # Its sandbox is gone, and with it how it ended.
        status["state"] = {"terminated": _unknown_end(last, facts)}
    elif last.state == RUNNING:
        health = view.health_of(container, last)
        status["state"] = {"running": {"startedAt": timestamp(last.started_at)}}
        resize.into_container(status, last.id, view.resized, known)
        status["started"] = health.started
        status["ready"] = health.started and health.ready
        if named.kind == EPHEMERAL:
            del status["started"]
            status["ready"] = False
    elif last.state == EXITED:
        ended = {"terminated": _terminated(last, view, facts)}
        waiting = None if done else _waiting(pod, named, last, view, now)
        if waiting:
            status["state"], status["lastState"] = {"waiting": waiting}, ended
        else:
            status["state"] = ended
        status["ready"] = named.kind == INIT and last.exit_code == 0
    else:
        status["state"] = {"waiting": _blocked(named, pod, view)}
    _mounts(container, status)
    return status


def _restarts(states: Sequence[ContainerState], known: Object) -> int:
    """The API's count goes on when the runtime has lost the container that it was told of."""
    told = known.get("restartCount") or 0
    last_told = str(known.get("containerID") or "").rpartition("/")[2]
    lost = bool(last_told) and last_told not in {state.id for state in states}
    return max(states[0].restarts, told + lost)


def _never_seen(pod: Object, named: Named, view: View, done: bool) -> Object:
    """No record of it in the runtime: it waits, or what the API was told of it holds."""
    container = named.container
    known = podspec.api_status(pod, container["name"])
    if known and ((known.get("state") or {}).get("terminated")):
        return known
    status: Object = {
        "name": container["name"],
        "ready": False,
        "started": False,
        "restartCount": (known or {}).get("restartCount") or 0,
        "image": container.get("image", ""),
        "imageID": "",
        "lastState": (known or {}).get("lastState") or {},
        "state": {"waiting": _blocked(named, pod, view)},
    }
    if known and (running := (known.get("state") or {}).get("running")):
        lost = {
            "containerID": known.get("containerID", ""),
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated"
            if done
            else "The container could not be located when the node was restarted",
            "startedAt": running.get("startedAt"),
            "finishedAt": None,
        }
        if done:
            status["state"] = {"terminated": lost}
        else:
            # Its next start is a restart, as kubelet counts: this status forgets that it ever ran.
            status["lastState"] = {"terminated": lost}
            status["restartCount"] += 1
    _mounts(container, status)
    return status


def _mounts(container: Object, status: Object) -> None:
    mounts = [
        {"name": mount["name"], "mountPath": mount["mountPath"]}
        | ({"readOnly": True, "recursiveReadOnly": "Disabled"} if mount.get("readOnly") else {})
        for mount in container.get("volumeMounts") or ()
    ]
    if mounts:
        status["volumeMounts"] = mounts


def _blocked(named: Named, pod: Object, view: View) -> Object:
    if blocked := view.blocked.get(named.container["name"]):
        return _reasoned(blocked)
    return {"reason": "PodInitializing" if podspec.inits(pod) else "ContainerCreating"}


def _reasoned(blocked: Blocked) -> Object:
    told = {"reason": blocked.reason, "message": blocked.message}
    return {key: value for key, value in told.items() if value}


def _waiting(
    pod: Object, named: Named, last: ContainerState, view: View, now: float
) -> Object | None:
    """An ended container that is held back from its next start; None when it is shown as ended."""
    if named.kind == INIT and last.exit_code == 0:
        return None
    if not view.restarts(pod, named, last):
        return None
    if blocked := view.blocked.get(last.name):
        return _reasoned(blocked)
    if now < view.backoff.until(last.name, last.finished_at / 1e9):
        delay = duration(view.backoff.delay(last.name))
        return {
            "reason": "CrashLoopBackOff",
            "message": f"back-off {delay} restarting failed container={last.name} "
            f"pod={podspec.full_name(pod)}",
        }
    return None


def _terminated(state: ContainerState, view: View, facts: Facts) -> Object:
    ended: Object = {
        "exitCode": state.exit_code,
        "reason": state.reason or ("Completed" if state.exit_code == 0 else "Error"),
        "startedAt": timestamp(state.started_at) if state.started_at else None,
        "finishedAt": timestamp(state.finished_at),
        "containerID": f"{facts.runtime}://{state.id}",
    }
    message = view.messages.get(state.id) or state.message
    if message:
        ended["message"] = message
    return ended


def _unknown_end(state: ContainerState, facts: Facts) -> Object:
    return {
        "exitCode": 137,
        "reason": "ContainerStatusUnknown",
        "message": "The container could not be located when the pod was terminated",
        "startedAt": timestamp(state.started_at) if state.started_at else None,
        "finishedAt": None,
        "containerID": f"{facts.runtime}://{state.id}",
    }


def _phase(pod: Object, view: View, groups: dict[str, list[Object]], done: bool) -> str:
    previous = (pod.get("status") or {}).get("phase")
    if previous in ("Succeeded", "Failed"):
        return previous
    policy = podspec.restart_policy(pod)
    for spec, status in zip(podspec.inits(pod), groups[INIT], strict=True):
        if podspec.is_sidecar(spec):
            continue
        ended = status["state"].get("terminated")
        last = view.latest(spec["name"])
        again = last is not None and view.restarts(pod, Named(INIT, spec), last)
        if ended and ended["exitCode"] != 0 and (done or (policy == "Never" and not again)):
            return "Failed"
        if not (ended and ended["exitCode"] == 0) and not _begun(groups[MAIN]):
            return "Failed" if done else "Pending"
    running = stopped = succeeded = waiting = 0
    for status in groups[MAIN]:
        state = status["state"]
        if "running" in state:
            running += 1
        elif "terminated" in state:
            stopped += 1
            succeeded += state["terminated"]["exitCode"] == 0
        elif status.get("lastState", {}).get("terminated"):
            stopped += 1
        else:
            waiting += 1
    if done:
        return "Succeeded" if succeeded == len(groups[MAIN]) else "Failed"
    if waiting:
        return "Pending"
    if running or _sidecar_runs(pod, groups):
        return "Running"
    return "Running" if stopped else "Pending"


def _begun(mains: Iterable[Object]) -> bool:
    return any(
        "running" in s["state"] or "terminated" in s["state"] or s["lastState"] for s in mains
    )


def _sidecar_runs(pod: Object, groups: dict[str, list[Object]]) -> bool:
    return any(
        podspec.is_sidecar(spec) and "running" in status["state"]
        for spec, status in zip(podspec.inits(pod), groups[INIT], strict=True)
    ) and _begun(groups[MAIN])


def _conditions(
    pod: Object, view: View, groups: dict[str, list[Object]], phase: str, moment: str
) -> list[Object]:
    wanted: dict[str, tuple[str, str, str]] = {}
    sandbox = view.sandbox
    up = sandbox is not None and sandbox.ready
    wanted["PodReadyToStartContainers"] = ("True" if up else "False", "", "")

    incomplete = []
    for spec, status in zip(podspec.inits(pod), groups[INIT], strict=True):
        ended = status["state"].get("terminated")
        complete = status.get("started") if podspec.is_sidecar(spec) else None
        if not complete and not (ended and ended["exitCode"] == 0):
            incomplete.append(spec["name"])
    begun = _begun(groups[MAIN])
    if phase == "Succeeded":
        wanted["Initialized"] = ("True", "PodCompleted", "")
    elif incomplete and not begun:
        message = f"containers with incomplete status: [{' '.join(incomplete)}]"
        wanted["Initialized"] = ("False", "ContainersNotInitialized", message)
    else:
        wanted["Initialized"] = ("True", "", "")

    unready = [
        spec["name"]
        for spec, status in zip(podspec.mains(pod), groups[MAIN], strict=True)
        if not status["ready"]
    ]
    unready = [
        spec["name"]
        for spec, status in zip(podspec.inits(pod), groups[INIT], strict=True)
        if podspec.is_sidecar(spec) and not status["ready"]
    ] + unready
    if phase == "Succeeded":
        containers = ("False", "PodCompleted", "")
    elif phase == "Failed":
        containers = ("False", "PodFailed", "")
    elif unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        containers = ("False", "ContainersNotReady", message)
    else:
        containers = ("True", "", "")
    wanted["ContainersReady"] = containers
    wanted["Ready"] = containers
    if containers[0] == "True":
        missing = [
            gate["conditionType"]
            for gate in pod["spec"].get("readinessGates") or ()
            if not objects.condition_true(pod, gate["conditionType"])
        ]
        if missing:
            texts = ", ".join(
                f'the status of pod readiness gate "{gate}" is not "True", but '
                f"{(objects.condition(pod, gate) or {}).get('status', 'False')}"
                if objects.condition(pod, gate)
                else f'corresponding condition of pod readiness gate "{gate}" does not exist.'
                for gate in missing
            )
            wanted["Ready"] = ("False", "ReadinessGatesNotReady", texts)
    wanted["PodScheduled"] = ("True", "", "")
    if podspec.may_restart_all(pod):
        wanted["AllContainersRestarting"] = _restarting(pod, view, phase)

    generation = objects.generation(pod)
    conditions = []
    for kind in OURS:
        if kind not in wanted:
            continue
        value, reason, message = wanted[kind]
        old = objects.condition(pod, kind)
        same = old is not None and old.get("status") == value
        entry: Object = {
            "type": kind,
            "status": value,
            "lastProbeTime": None,
            "lastTransitionTime": old["lastTransitionTime"]
            if old is not None and same and old.get("lastTransitionTime")
            else moment,
        }
        if generation:
            entry["observedGeneration"] = generation
        if reason:
            entry["reason"] = reason
        if message:
            entry["message"] = message
        conditions.append(entry)
    return conditions


def _restarting(pod: Object, view: View, phase: str) -> tuple[str, str, str]:
    """True from the exit that restarts all containers until the first of them is made again (KEP-5532)."""
    if phase == "Succeeded":
        return "False", "PodCompleted", ""
    if phase == "Failed":
        return "False", "PodFailed", ""
    names = (each["name"] for each in (*podspec.inits(pod), *podspec.mains(pod)))
    made = {name for name in names if view.latest(name)}
    if not view.round_begun(pod) or made - view.former(pod):
        return "False", "", ""
    return "True", "RestartAllContainersStarted", ROUND


def changes(old: Object, new: Object) -> Object:
    """A strategic merge patch for `status`; empty when nothing has to be written.

    Condition lists merge by type, so conditions of others stay. Address lists merge by address, and so need the
    directive that replaces them whole.
    """
    patch: Object = {}
    for key, value in new.items():
        if key == "conditions":
            continue
        before = old.get(key)
        if before == value or (not before and not value):
            continue
        if key in ("podIPs", "hostIPs") and before:
            value = [{"$patch": "replace"}, *value]
        if key in ("resources", "allocatedResources") and before:
            value = {"$patch": "replace", **value}
        patch[key] = value
    for key in ("reason", "message"):
        if old.get(key) and not new.get(key):
            patch[key] = None
    had = {item.get("type"): item for item in old.get("conditions") or ()}
    moved = []
    for item in new.get("conditions") or ():
        before = had.get(item["type"])
        if before is not None and _plain(before) == _plain(item):
            continue
        entry = dict(item)
        for key in ("reason", "message"):
            if before and before.get(key) and key not in entry:
                entry[key] = None
        moved.append(entry)
    # A resize that is over is told by the absence of its conditions (KEP-1287).
    told = {item["type"] for item in new.get("conditions") or ()}
    moved += [
        {"$patch": "delete", "type": kind}
        for kind in resize.CONDITIONS
        if kind in had and kind not in told
    ]
    if moved:
        patch["conditions"] = moved
    return patch


def _plain(condition: Object) -> Object:
    return {k: v for k, v in condition.items() if v is not None}


def is_urgent(old: Object, new: Object) -> bool:
    """Whether somebody waits for this change: readiness or an end. Steps on the way there may be written together."""
    if old.get("phase") != new.get("phase") and new.get("phase") in ("Succeeded", "Failed"):
        return True
    return _ready(old) != _ready(new)


def _ready(status: Any) -> bool:
    return objects.condition_true({"status": status}, "Ready")
