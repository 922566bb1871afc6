"""The chain: plug-ins in Kubernetes' order, run in two phases around the validation of the object.

    decode → default → prepare → MUTATE → validate the object → VALIDATE → commit

In the first phase a plug-in may change the new object in place, and when a webhook or a policy did, all are asked once more; in
the second it may only refuse. Both see creates,
updates, deletes and, for `connect`, the streaming subresources. One table; a plug-in names the kinds that it looks at, and
which plug-ins care about a kind is found out once, so that the others cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sampan.apiserver.admission.certificates import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from sampan.apiserver.admission.ingressclass import DefaultIngressClass
from sampan.apiserver.admission.limitranger import LimitRanger
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
    DefaultStorageClass,
    StorageObjectInUseProtection,
)
from sampan.apiserver.admission.tolerations import DefaultTolerationSeconds, TaintNodesByCondition
from sampan.apiserver.admission.webhooks import (
    MutatingAdmissionWebhook,
    ValidatingAdmissionWebhook,
)
from sampan.apiserver.call import Call

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

Hooks = list[Callable[..., Any]]


class Admission:
    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.plugins = [plugin(lookup) for plugin in PLUGINS]
        self._hooks: dict[tuple[str, str, str], Hooks] = {}
        lookup.changed = self.forget

    def _of(self, hook: str, call: Call) -> Hooks:
        """What the plug-ins have to say at this hook about this kind and subresource; most often little."""
        row = call.resource
        key = (hook, row.storage, call.info.subresource)
        found = self._hooks.get(key)
        if found is None:
            found = [
                getattr(plugin, hook)
                for plugin in self.plugins
                if getattr(type(plugin), hook) is not getattr(Plugin, hook)
                and plugin.concerns(row, call.info.subresource)
            ]
            self._hooks[key] = found
        return found

    def forget(self) -> None:
        """Which plug-ins care may have changed (a kind came or went)."""
        self._hooks.clear()

    # Before the object is validated

    async def create(self, call: Call, obj: Object) -> None:
        call.reinvocation = None
        for hook in self._of("create", call):
            await hook(call, obj)
        if call.reinvocation is not None and call.reinvocation.wanted:
            call.reinvocation.repeating = True
            for hook in self._of("create", call):
                await hook(call, obj)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        call.reinvocation = None
        for hook in self._of("update", call):
            await hook(call, new, old)
        if call.reinvocation is not None and call.reinvocation.wanted:
            call.reinvocation.repeating = True
            for hook in self._of("update", call):
                await hook(call, new, old)

    async def delete(self, call: Call, obj: Object) -> None:
        """`obj` is what is deleted; nothing may change it."""
        for hook in self._of("delete", call):
            await hook(call, obj)

    async def connect(self, call: Call, options: Object) -> None:
        """A streaming subresource is opened (exec, attach, portforward, proxy) with these options."""
        for hook in self._of("connect", call):
            await hook(call, options)

    async def act(self, call: Call, body: Object) -> None:
        """A subresource that is no object but an action: binding, eviction, token. Both phases at once."""
        for hook in self._of("act", call):
            await hook(call, body)
        for hook in self._of("validate_act", call):
            await hook(call, body)

    # After it is validated, just before it is committed

    async def validate_create(self, call: Call, obj: Object) -> None:
        for hook in self._of("validate_create", call):
            await hook(call, obj)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        for hook in self._of("validate_update", call):
            await hook(call, new, old)
