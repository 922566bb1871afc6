"""What /healthz, /livez and /readyz check, under the names that Kubernetes' own checks have.

Monitoring and conformance tests look for those names. Each stands for one task of ours (`Health.add`), which does what that hook of
kube-apiserver starts, or for the start itself; our own further tasks are listed by their names. A task that has ended
makes the server not live, so that whoever watches it starts it again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

START = ""  # done once the server is ready
HOOKS: dict[str, tuple[str, ...]] = {
    "watch cache": ("generic-apiserver-start-informers",),
    START: (
        "start-kube-apiserver-admission-initializer",
        "start-service-ip-repair-controllers",
        "start-system-namespaces-controller",
        "bootstrap-controller",
        "rbac/bootstrap-roles",
        "scheduling/bootstrap-system-priority-classes",
    ),
    "priority and fairness": (
        "priority-and-fairness-config-consumer",
        "priority-and-fairness-config-producer",
        "priority-and-fairness-filter",
    ),
    "crd informer": (
        "start-apiextensions-informers",
        "start-apiextensions-controllers",
        "crd-informer-synced",
    ),
    "apiservice availability": (
        "start-cluster-authentication-info-controller",
        "start-kube-aggregator-informers",
        "apiservice-registration-controller",
        "apiservice-discovery-controller",
        "apiservice-status-available-controller",
        "apiservice-status-local-available-controller",
        "apiservice-status-remote-available-controller",
        "kube-apiserver-autoregistration",
        "apiservice-openapi-controller",
        "apiservice-openapiv3-controller",
    ),
}
NOT_STARTED = "not started"
ENDED = "the task ended"


class Health:
    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ready = False
        self.closing = False
        self.store: Callable[[], str] = lambda: ""  # what is wrong with it
        self.counts: Counter[tuple[str, str, str]] = Counter()  # check, kind, outcome

    def add(self, task: asyncio.Task[None]) -> None:
        self.tasks[task.get_name()] = task

    def checks(self, kind: str) -> dict[str, str]:
        """Checks of `healthz`, `livez` or `readyz` by name: "" or what is wrong."""
        found = {"ping": "", "log": "", "etcd": self.store()}
        if kind == "readyz":
            found["etcd-readiness"] = found["etcd"]
            found["informer-sync"] = "" if self.ready else NOT_STARTED
        for name, hooks in HOOKS.items():
            problem = self._of(name)
            found |= {f"poststarthook/{hook}": problem for hook in hooks}
        found["autoregister-completion"] = "" if self.ready else NOT_STARTED
        for name in self.tasks:
            if name not in HOOKS:
                found[f"poststarthook/{name.replace(' ', '-')}"] = self._of(name)
        if kind == "readyz":
            found["shutdown"] = "the server is shutting down" if self.closing else ""
        for name, problem in found.items():
            self.counts[name, kind, "error" if problem else "success"] += 1
        return found

    def _of(self, name: str) -> str:
        if name == START:
            return "" if self.ready or self.closing else NOT_STARTED
        task = self.tasks.get(name)
        if task is None:
            return NOT_STARTED
        return ENDED if task.done() and not self.closing else ""
