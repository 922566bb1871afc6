"""The chain: plug-ins in Kubernetes' order, run in two phases around the validation of the object.

    decode → default → prepare → MUTATE → validate the object → VALIDATE → commit

In the first phase a plug-in may change the new object in place, and when a webhook or a policy did, all are asked once more; in
the second it may only refuse. Both see creates,
updates, deletes and, for `connect`, the streaming subresources. One table; a plug-in names the kinds that it looks at, and
which plug-ins care about a kind is found out once, so that the others cost nothing.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

from sampan.apiserver.admission.attributes import CONNECT, CREATE, DELETE, UPDATE
from sampan.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from sampan.apiserver.admission.defaultclass import DefaultIngressClass, DefaultStorageClass
from sampan.apiserver.admission.dynamic import Validating
from sampan.apiserver.admission.limitranger import LimitRanger
from sampan.apiserver.admission.measures import ADMIT, FASTEST, VALIDATE, Measures
from sampan.apiserver.admission.namespaces import NamespaceLifecycle
from sampan.apiserver.admission.noderestriction import NodeRestriction
from sampan.apiserver.admission.plugin import Lookup, Object, Plugin
from sampan.apiserver.admission.podsecurity import PodSecurity
from sampan.apiserver.admission.policies import (
    MutatingAdmissionPolicy,
    ValidatingAdmissionPolicy,
)
from sampan.apiserver.admission.priority import Priority
from sampan.apiserver.admission.privilege import Privilege
from sampan.apiserver.admission.resourcequota import ResourceQuota
from sampan.apiserver.admission.runtimeclass import RuntimeClass
from sampan.apiserver.admission.serviceaccounts import ServiceAccount
from sampan.apiserver.admission.storage import (
    PersistentVolumeClaimResize,
    StorageObjectInUseProtection,
)
from sampan.apiserver.admission.tolerations import DefaultTolerationSeconds, TaintNodesByCondition
from sampan.apiserver.admission.webhooks import (
    MutatingAdmissionWebhook,
    ValidatingAdmissionWebhook,
)
from sampan.apiserver.call import Call
from sampan.kube.errors import ApiError

PLUGINS: tuple[type[Plugin], ...] = (
    Privilege,
    NodeRestriction,
    NamespaceLifecycle,
    LimitRanger,
    ServiceAccount,
    TaintNodesByCondition,
    PodSecurity,
    Priority,
    DefaultTolerationSeconds,
    StorageObjectInUseProtection,
    PersistentVolumeClaimResize,
    RuntimeClass,
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
    DefaultIngressClass,
    DefaultStorageClass,
    MutatingAdmissionPolicy,
    MutatingAdmissionWebhook,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionWebhook,
    ResourceQuota,
)


class Step:
    """What the plug-ins have to say in one phase of one kind of request, and how long they take for it."""

    __slots__ = ("admitted", "hooks", "rejected")

    def __init__(self, measures: Measures, hook: str, plugins: list[Plugin]) -> None:
        phase, operation = HOOKS[hook]
        self.admitted, self.rejected = (
            measures.steps[phase, operation, each] for each in ("false", "true")
        )
        self.hooks = []
        for plugin in plugins:
            own = VALIDATE if isinstance(plugin, Validating) else phase
            labels = (type(plugin).__name__, own, operation)
            admitted, rejected = (measures.plugins[(*labels, each)] for each in ("false", "true"))
            self.hooks.append((getattr(plugin, hook), admitted, rejected))

    async def run(self, *request: Any) -> None:
        """Raises ApiError when one refuses."""
        started = since = perf_counter()
        for hook, admitted, rejected in self.hooks:
            try:
                await hook(*request)
            except ApiError:
                now = perf_counter()
                rejected.observe(now - since)
                self.rejected.observe(now - started)
                raise
            now = perf_counter()
            took = now - since
            since = now
            if (
                took < FASTEST
            ):  # nearly always; a call for each plug-in would cost as much as most of them
                admitted.counts[0] += 1
                admitted.total += took
            else:
                admitted.observe(took)
        self.admitted.observe(since - started)


# hook of a plug-in: (phase, operation)
HOOKS = {
    "create": (ADMIT, CREATE),
    "update": (ADMIT, UPDATE),
    "delete": (ADMIT, DELETE),
    "connect": (ADMIT, CONNECT),
    "act": (ADMIT, CREATE),
    "validate_create": (VALIDATE, CREATE),
    "validate_update": (VALIDATE, UPDATE),
    "validate_act": (VALIDATE, CREATE),
}


class Admission:
    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.plugins = [plugin(lookup) for plugin in PLUGINS]
        self._steps: dict[tuple[str, str, str], Step] = {}
        lookup.changed = self.forget

    def _of(self, hook: str, call: Call) -> Step:
        """What the plug-ins have to say at this hook about this kind and subresource; most often little."""
        row = call.resource
        key = (hook, row.storage, call.info.subresource)
        found = self._steps.get(key)
        if found is None:
            plugins = [
                plugin
                for plugin in self.plugins
                if getattr(type(plugin), hook) is not getattr(Plugin, hook)
                and plugin.concerns(row, call.info.subresource)
            ]
            found = self._steps[key] = Step(self.lookup.measures, hook, plugins)
        return found

    def forget(self) -> None:
        """Which plug-ins care may have changed (a kind came or went)."""
        self._steps.clear()

    # Before the object is validated

    async def create(self, call: Call, obj: Object) -> None:
        await self._mutate(call, "create", obj)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        await self._mutate(call, "update", new, old)

    async def _mutate(self, call: Call, hook: str, *objects: Object) -> None:
        call.reinvocation = None
        await self._of(hook, call).run(call, *objects)
        if call.reinvocation is not None and call.reinvocation.wanted:
            call.reinvocation.repeating = True
            await self._of(hook, call).run(call, *objects)

    async def delete(self, call: Call, obj: Object) -> None:
        """`obj` is what is deleted; nothing may change it."""
        await self._of("delete", call).run(call, obj)

    async def connect(self, call: Call, options: Object) -> None:
        """A streaming subresource is opened (exec, attach, portforward, proxy) with these options."""
        await self._of("connect", call).run(call, options)

    async def act(self, call: Call, body: Object) -> None:
        """A subresource that is no object but an action: binding, eviction, token. Both phases at once."""
        await self._of("act", call).run(call, body)
        await self._of("validate_act", call).run(call, body)

    # After it is validated, just before it is committed

    async def validate_create(self, call: Call, obj: Object) -> None:
        await self._of("validate_create", call).run(call, obj)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        await self._of("validate_update", call).run(call, new, old)
