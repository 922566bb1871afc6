"""ValidatingAdmissionPolicy and MutatingAdmissionPolicy, as plug-ins: when there is a policy and a binding, and only then, the
language and what judges (`validating.py`) or changes (`mutating.py`) a request are loaded.

https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sampan.apiserver.admission.dynamic import Dynamic, Mutating, Validating
from sampan.apiserver.admission.matching import GROUP, Match
from sampan.apiserver.admission.plugin import Lookup
from sampan.apiserver.admission.source import Source
from sampan.apiserver.call import Call
from sampan.apiserver.resources import Resource

if TYPE_CHECKING:
    from sampan.apiserver.admission.invocations import Policy

Object = dict[str, Any]
P = TypeVar("P", bound="Policy")


class Kept:
    """A policy as it is stored, compiled when the first request wants it."""

    __slots__ = ("_compiled", "match", "stored")

    def __init__(self, policy: Object) -> None:
        self.stored = policy
        constraints = (policy.get("spec") or {}).get("matchConstraints") or {}
        self.match = Match(constraints, "resourceRules")
        self._compiled: Any = None

    def compiled(self, make: type[P]) -> P:
        if self._compiled is None:
            self._compiled = make(self.stored)
        found: P = self._compiled
        return found


class Binding:
    def __init__(self, binding: Object) -> None:
        self.name: str = binding["metadata"]["name"]
        self.spec: Object = binding.get("spec") or {}
        self.policy: str = self.spec.get("policyName") or ""
        resources = self.spec.get("matchResources")
        self.match = None if resources is None else Match(resources, "resourceRules")
        self.actions: list[str] = list(self.spec.get("validationActions") or ())
        self.params: Object | None = self.spec.get("paramRef")


class Policies(Dynamic):
    kind = ""  # validating | mutating

    def __init__(self, lookup: Lookup) -> None:
        super().__init__(lookup)
        self.policies = Source(lookup, f"{self.kind}admissionpolicies", Kept)
        self.bindings = Source(lookup, f"{self.kind}admissionpolicybindings", Binding)

    def concerns(self, row: Resource, subresource: str) -> bool:
        if row.group == GROUP:
            return False
        if self.policies.idle or self.bindings.idle:
            return False
        if not (self.policies.loaded and self.bindings.loaded):
            return True
        rows = [each for each in self.lookup.table.rows.values() if each.storage == row.storage]
        return any(
            policy.match.concerns(rows, subresource) for policy in self.policies.items.values()
        )

    async def load(self) -> bool:
        """Is there anything to ask?"""
        return bool(await self.policies.load() and await self.bindings.load())


class MutatingAdmissionPolicy(Policies, Mutating):
    kind = "mutating"

    async def run(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if obj is not None and await self.load():
            from sampan.apiserver.admission.mutating import mutate

            await mutate(self, call, operation, obj, old)


class ValidatingAdmissionPolicy(Policies, Validating):
    kind = "validating"

    async def run(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        if await self.load():
            from sampan.apiserver.admission.validating import judge

            await judge(self, call, operation, obj, old)
