"""Pods and observations for the node's tests, as small as the API allows."""

from __future__ import annotations

from typing import Any

from sampan.node.observed import EXITED, RUNNING, ContainerState, SandboxState
from sampan.node.plan import View

NOW = 1_800_000_000.0
SANDBOX = SandboxState("sandbox-0", 0, True, 1, ("10.0.0.7",))


def container(name: str = "web", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": f"{name}:1", **fields}


def make_pod(*mains: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "boat",
            "namespace": "harbour",
            "uid": "11111111-2222-3333-4444-555555555555",
            "resourceVersion": "7",
            "generation": 1,
        },
        "spec": {"containers": list(mains) or [container()], "nodeName": "n1", **spec},
        "status": {},
    }


def running(name: str = "web", *, sandbox: str = "sandbox-0", **fields: Any) -> ContainerState:
    fields.setdefault("id", f"{name}-id")
    fields.setdefault("started_at", int((NOW - 5) * 1e9))
    return ContainerState(name=name, sandbox_id=sandbox, state=RUNNING, **fields)


def exited(
    name: str = "web", code: int = 1, *, sandbox: str = "sandbox-0", ago: float = 1.0, **fields: Any
) -> ContainerState:
    fields.setdefault("id", f"{name}-id-{fields.get('restarts', 0)}")
    return ContainerState(
        name=name,
        sandbox_id=sandbox,
        state=EXITED,
        exit_code=code,
        started_at=int((NOW - ago - 1) * 1e9),
        finished_at=int((NOW - ago) * 1e9),
        **fields,
    )


def view_of(*states: ContainerState, sandbox: SandboxState | None = SANDBOX, **fields: Any) -> View:
    history: dict[str, list[ContainerState]] = {}
    for state in sorted(states, key=lambda s: s.restarts, reverse=True):
        history.setdefault(state.name, []).append(state)
    return View(sandbox=sandbox, history=history, **fields)
