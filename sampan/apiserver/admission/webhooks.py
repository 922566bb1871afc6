"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook: other people's servers are asked about a request.

Mutating ones one after the other, in the order of their configurations' names, each seeing what those before it made;
validating ones all at once. A webhook that cannot be asked, or gives no proper answer, is judged by its failurePolicy.
Where no configuration names a kind, its requests do not come here at all (`concerns`).
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property
from typing import Any

import orjson

from sampan.apiserver.admission import reinvocation, review
from sampan.apiserver.admission.attributes import (
    CONNECT,
    CREATE,
    CREATE_ONLY,
    DELETE,
    UPDATE,
    Attributes,
    why,
)
from sampan.apiserver.admission.matching import Match, exempt
from sampan.apiserver.admission.plugin import Lookup, Plugin
from sampan.apiserver.admission.source import Source
from sampan.apiserver.call import Call
from sampan.apiserver.resources import Resource
from sampan.kube import errors
from sampan.kube.errors import ApiError

log = logging.getLogger(__name__)

Object = dict[str, Any]

PATCHED = "patch.webhook.admission.k8s.io/"
MUTATED = "mutation.webhook.admission.k8s.io/"
MAX_WARNINGS, MAX_WARNING = 4096, 256  # characters of one webhook's, and of each when they are more
FAILED_OPEN = "failed-open.{}.webhook.admission.k8s.io/"


class CallFailed(Exception):
    """The webhook was not asked or gave no answer; `str()` is the reason."""


class Webhook:
    """One entry of a configuration."""

    def __init__(self, configuration: str, number: int, spec: Object) -> None:
        self.configuration = configuration
        self.name: str = spec["name"]
        self.key = f"{configuration}/{self.name}/{number}"
        self.spec = spec
        self.match = Match(spec, "rules")
        self.ignores_failure = spec.get("failurePolicy") == "Ignore"
        self.if_needed = spec.get("reinvocationPolicy") == "IfNeeded"
        self.timeout = float(spec.get("timeoutSeconds") or 10)
        self.dry = spec.get("sideEffects") in ("None", "NoneOnDryRun")

    @cached_property
    def conditions(self) -> Any:
        """None when there are none: the language is loaded by the first that has some."""
        given = self.spec.get("matchConditions")
        if not given:
            return None
        from sampan.apiserver.admission.conditions import Conditions

        return Conditions(given)


def _webhooks(configuration: Object) -> list[Webhook]:
    name = configuration["metadata"]["name"]
    return [
        Webhook(name, number, spec)
        for number, spec in enumerate(configuration.get("webhooks") or ())
        if spec.get("rules")
    ]


class _Webhooks(Plugin):
    plural = ""
    subresources = ("*",)

    def __init__(self, lookup: Lookup) -> None:
        super().__init__(lookup)
        self.source = Source(lookup, self.plural, _webhooks)

    def concerns(self, row: Resource, subresource: str) -> bool:
        if row.group == "admissionregistration.k8s.io":
            return False
        if not self.source.loaded:
            return True
        if self.source.idle:
            return False
        rows = [each for each in self.lookup.table.rows.values() if each.storage == row.storage]
        return any(
            webhook.match.concerns(rows, subresource)
            for webhooks in self.source.items.values()
            for webhook in webhooks
        )

    async def _all(self) -> list[Webhook]:
        await self.source.load()
        return [webhook for webhooks in self.source.in_order() for webhook in webhooks]

    async def _row(self, webhook: Webhook, attributes: Attributes) -> Resource | None:
        """The version that the webhook wants to see; None when it is not to be asked. Raises ApiError 403, 404."""
        row = await webhook.match.row(attributes, self.lookup)
        if row is None or webhook.conditions is None:
            return row
        from sampan.apiserver.admission.conditions import affordable, bindings
        from sampan.kube import cel
        from sampan.kube.cel.cost import PER_MATCH

        conditions = webhook.conditions

        async def values(budget: cel.Budget) -> Object:
            return await bindings(attributes, row, self.lookup, conditions.uses)

        try:
            return row if await affordable(conditions.hold, values, PER_MATCH) else None
        except cel.EvaluationError as error:
            if webhook.ignores_failure:
                return None
            raise attributes.call.forbidden(str(error), attributes.name) from error

    async def _ask(
        self, webhook: Webhook, attributes: Attributes, row: Resource, *, mutating: bool
    ) -> review.Answer:
        """Raises CallFailed, or ApiError for what the webhook refuses."""
        if attributes.call.dry_run and not webhook.dry:
            raise errors.bad_request(f'admission webhook "{webhook.name}" does not support dry run')
        try:
            version = review.version_for(webhook.spec)
            asked = await review.asked(attributes, row, version)
        except review.InvalidReview as error:
            raise CallFailed(f"could not create admission objects: {error}") from error
        try:
            config = webhook.spec.get("clientConfig") or {}
            answer = await self.lookup.call_webhook(config, asked, webhook.timeout)
        except (OSError, ValueError) as error:
            raise CallFailed(f"failed to call webhook: {error}") from error
        try:
            found = review.answered(asked, answer, mutating=mutating)
        except review.InvalidReview as error:
            raise CallFailed(f"received invalid webhook response: {error}") from error
        call = attributes.call
        for key, value in found.annotations.items():
            self.lookup.annotate(call.request, f"{webhook.name}/{key}", value)
        call.warnings += bounded(found.warnings)
        if not found.allowed:
            raise review.refusal(webhook.name, found.status)
        return found

    def _failed(self, webhook: Webhook, error: CallFailed) -> ApiError:
        return errors.internal(f'failed calling webhook "{webhook.name}": {error}')


def bounded(warnings: list[str]) -> list[str]:
    """What a stranger may add to the headers of an answer: above 4 KiB each is cut, and then there are no more."""
    if sum(map(len, warnings)) <= MAX_WARNINGS:
        return warnings
    found: list[str] = []
    left = MAX_WARNINGS
    for text in warnings:
        cut = text[: min(MAX_WARNING, left)]
        if not cut:
            break
        found.append(cut)
        left -= len(cut)
    return found


class MutatingAdmissionWebhook(_Webhooks):
    plural = "mutatingwebhookconfigurations"

    async def create(self, call: Call, obj: Object) -> None:
        await self._run(call, CREATE, obj, None)

    async def update(self, call: Call, new: Object, old: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self._run(call, UPDATE, new, old)

    async def delete(self, call: Call, obj: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self._run(call, DELETE, None, obj)

    async def connect(self, call: Call, options: Object) -> None:
        await self._run(call, CONNECT, options, None)

    async def act(self, call: Call, body: Object) -> None:
        await self._run(call, CREATE, body, None)

    async def _run(
        self, call: Call, operation: str, obj: Object | None, old: Object | None
    ) -> None:
        webhooks = await self._all()
        if not webhooks:
            return
        attributes = Attributes(call, operation, obj, old, self.lookup.table, mutating=True)
        if exempt(attributes):
            return
        reinvoked = reinvocation.of(call)
        rounds = reinvoked.begin(self.plural, obj)
        for index, webhook in enumerate(webhooks):
            row = await self._row(webhook, attributes)
            if row is None or reinvoked.skips(rounds, webhook.key):
                continue
            place = f"round_{int(reinvoked.repeating)}_index_{index}"
            changed = False
            try:
                answer = await self._ask(webhook, attributes, row, mutating=True)
                changed = await self._patch(webhook, attributes, row, answer.patch, place)
            except CallFailed as error:
                if not webhook.ignores_failure:
                    raise self._failed(webhook, error) from error
                log.warning("webhook %s failed, which it may: %s", webhook.name, error)
                key = FAILED_OPEN.format("mutation") + place
                self.lookup.annotate(call.request, key, webhook.name)
            finally:
                told = {
                    "configuration": webhook.configuration,
                    "webhook": webhook.name,
                    "mutated": changed,
                }
                self.lookup.annotate(call.request, MUTATED + place, orjson.dumps(told).decode())
            reinvoked.asked(rounds, webhook.key, changed=changed, if_needed=webhook.if_needed)
        reinvoked.end(self.plural, obj)

    async def _patch(
        self,
        webhook: Webhook,
        attributes: Attributes,
        row: Resource,
        patch: list[Any] | None,
        place: str,
    ) -> bool:
        """Apply what the webhook wants changed; whether that changed anything. Raises ApiError 500."""
        from sampan.kube.objects import clone
        from sampan.kube.patch import json_patch

        if not patch:
            return False
        seen = await attributes.show(row)
        if seen is None:
            raise errors.internal(
                f'admission webhook "{webhook.name}" attempted to modify the object, '
                "which is not supported for this operation"
            )
        try:
            new = json_patch(clone(seen), patch)
        except ApiError as error:
            raise errors.internal(why(error)) from error
        told = {
            "configuration": webhook.configuration,
            "webhook": webhook.name,
            "patch": patch,
            "patchType": "JSONPatch",
        }
        text = orjson.dumps(told).decode()
        self.lookup.annotate(attributes.call.request, PATCHED + place, text)
        return await attributes.replace(row, new)


class ValidatingAdmissionWebhook(_Webhooks):
    plural = "validatingwebhookconfigurations"

    async def validate_create(self, call: Call, obj: Object) -> None:
        await self._run(call, CREATE, obj, None)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self._run(call, UPDATE, new, old)

    async def delete(self, call: Call, obj: Object) -> None:
        if call.info.subresource not in CREATE_ONLY:
            await self._run(call, DELETE, None, obj)

    async def connect(self, call: Call, options: Object) -> None:
        await self._run(call, CONNECT, options, None)

    async def validate_act(self, call: Call, body: Object) -> None:
        await self._run(call, CREATE, body, None)

    async def _run(
        self, call: Call, operation: str, obj: Object | None, old: Object | None
    ) -> None:
        webhooks = await self._all()
        if not webhooks:
            return
        attributes = Attributes(call, operation, obj, old, self.lookup.table)
        if exempt(attributes):
            return
        relevant = []
        for webhook in webhooks:
            row = await self._row(webhook, attributes)
            if row is not None:
                await attributes.show(row)
                await attributes.show(row, old=True)
                relevant.append((webhook, row))
        # All are heard to the end, as their warnings count; the first refusal in order is the answer.
        results = await asyncio.gather(
            *(
                self._verdict(webhook, attributes, row, index)
                for index, (webhook, row) in enumerate(relevant)
            )
        )
        for refused in results:
            if refused is not None:
                raise refused

    async def _verdict(
        self, webhook: Webhook, attributes: Attributes, row: Resource, index: int
    ) -> ApiError | None:
        try:
            await self._ask(webhook, attributes, row, mutating=False)
        except ApiError as error:
            return error
        except CallFailed as error:
            if not webhook.ignores_failure:
                return self._failed(webhook, error)
            log.warning("webhook %s failed, which it may: %s", webhook.name, error)
            key = f"{FAILED_OPEN.format('validating')}round_0_index_{index}"
            self.lookup.annotate(attributes.call.request, key, webhook.name)
        return None
