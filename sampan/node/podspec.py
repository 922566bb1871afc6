"""Reading a pod's spec: the questions that planning, status and starting all ask."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

Object = dict[str, Any]

CRITICAL = 2_000_000_000  # priority of system-cluster-critical
STATIC = "kubernetes.io/config.source"
INIT, SIDECAR, MAIN, EPHEMERAL = "init", "sidecar", "main", "ephemeral"
RESTART_ALL = "RestartAllContainers"


class Named(NamedTuple):
    kind: str  # INIT, SIDECAR, MAIN or EPHEMERAL
    container: Object


def inits(pod: Object) -> list[Object]:
    return pod["spec"].get("initContainers") or []


def mains(pod: Object) -> list[Object]:
    return pod["spec"].get("containers") or []


def ephemerals(pod: Object) -> list[Object]:
    return pod["spec"].get("ephemeralContainers") or []


def is_sidecar(container: Object) -> bool:
    """An init container that runs beside the others (KEP-753)."""
    return container.get("restartPolicy") == "Always"


def containers(pod: Object) -> Iterator[Named]:
    for item in inits(pod):
        yield Named(SIDECAR if is_sidecar(item) else INIT, item)
    for item in mains(pod):
        yield Named(MAIN, item)
    for item in ephemerals(pod):
        yield Named(EPHEMERAL, item)


def find(pod: Object, name: str) -> Named | None:
    return next((named for named in containers(pod) if named.container["name"] == name), None)


def full_name(pod: Object) -> str:
    """As kubelet's messages name a pod: `web_default(uid)`."""
    meta = pod["metadata"]
    return f"{meta['name']}_{meta['namespace']}({meta['uid']})"


def field_path(named: Named) -> str:
    """As events refer to a container: `spec.containers{web}`."""
    field = {MAIN: "containers", EPHEMERAL: "ephemeralContainers"}.get(named.kind, "initContainers")
    return f"spec.{field}{{{named.container['name']}}}"


def restart_policy(pod: Object) -> str:
    return pod["spec"].get("restartPolicy") or "Always"


def termination_grace(pod: Object) -> int:
    """Seconds that the pod's containers are given to end."""
    given = pod["metadata"].get("deletionGracePeriodSeconds")
    if pod["metadata"].get("deletionTimestamp") and given is not None:
        return int(given)
    asked = pod["spec"].get("terminationGracePeriodSeconds")
    return 30 if asked is None else int(asked)


def restarts_after(pod: Object, named: Named, exit_code: int) -> bool:
    """Whether the container is started again after it ended so: its own rules, its own policy, then the pod's."""
    if named.kind == EPHEMERAL:
        return False
    container = named.container
    if rule_action(container, exit_code):
        return True  # alone or with all the others (`plan`)
    policy = container.get("restartPolicy") or restart_policy(pod)
    if named.kind == INIT and policy == "Always":
        policy = "OnFailure"  # an init container that succeeded is done
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)


def rule_action(container: Object, exit_code: int) -> str:
    """What the first of its rules that matches asks for (KEP-5307): Restart, RestartAllContainers; "" when none does."""
    for rule in container.get("restartPolicyRules") or ():
        codes = rule.get("exitCodes") or {}
        hit = exit_code in (codes.get("values") or ())
        if hit == (codes.get("operator") != "NotIn"):
            return str(rule.get("action") or "")
    return ""


def may_restart_all(pod: Object) -> bool:
    """Some container has a rule that restarts them all (KEP-5532)."""
    return any(
        rule.get("action") == RESTART_ALL
        for container in (*inits(pod), *mains(pod))
        for rule in container.get("restartPolicyRules") or ()
    )


def container_hash(container: Object) -> str:
    """Changes when a running container has to be replaced; of a pod's containers only the image may change."""
    text = f"{container['name']}\0{container.get('image', '')}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_critical(pod: Object) -> bool:
    """A pod that the cluster or this node cannot do without."""
    source = (pod["metadata"].get("annotations") or {}).get(STATIC, "api")
    return pod["spec"].get("priority", 0) >= CRITICAL or source != "api"


def has_finished(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def api_status(pod: Object, name: str) -> Object | None:
    """What the API last heard of the container."""
    status = pod.get("status") or {}
    for field in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for item in status.get(field) or ():
            if item.get("name") == name:
                return item
    return None
