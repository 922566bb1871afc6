"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook: other people's servers are asked about a request.

Mutating ones one after the other, in the order of their configurations' names, each seeing what those before it made;
validating ones all at once. A webhook that cannot be asked, or gives no proper answer, is judged by its failurePolicy.
Where no configuration names a kind, its requests do not come here at all (`concerns`).
https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import cached_property
from typing import Any

import orjson

from sampan.apiserver.admission import reinvocation, review
from sampan.apiserver.admission.attributes import Attributes, why
from sampan.apiserver.admission.dynamic import Dynamic, Mutating, Validating
from sampan.apiserver.admission.matching import Match, exempt
from sampan.apiserver.admission.measures import ADMIT, VALIDATE, VALIDATING
from sampan.apiserver.admission.plugin import Lookup
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
    """The webhook was not asked or gave no answer; `str()` is the reason, `code` how Kubernetes counts it."""

    def __init__(self, why: str, code: int = 503) -> None:
        super().__init__(why)
        self.code = code


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


class _Webhooks(Dynamic):
    plural = ""
    kind = ""  # in audit annotations
    counted = ""  # in metrics
    phase = ""

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

    async def run(self, call: Call, operation: str, obj: Object | None, old: Object | None) -> None:
        await self.source.load()
        webhooks = [webhook for found in self.source.in_order() for webhook in found]
        if not webhooks:
            return
        mutating = self.phase == ADMIT
        attributes = Attributes(call, operation, obj, old, self.lookup.table, mutating=mutating)
        if exempt(attributes):
            return
        started = time.perf_counter()
        try:
            await self.ask_all(webhooks, attributes)
        finally:
            call.request.waited += time.perf_counter() - started

    async def ask_all(self, webhooks: list[Webhook], attributes: Attributes) -> None:
        raise NotImplementedError

    async def row(self, webhook: Webhook, attributes: Attributes) -> Resource | None:
        """The version that the webhook wants to see; None when it is not to be asked. Raises ApiError 403, 404."""
        row = await webhook.match.row(attributes, self.lookup)
        if row is None or webhook.conditions is None:
            return row
        from sampan.apiserver.admission.conditions import bindings, hold
        from sampan.kube import cel

        conditions = webhook.conditions

        async def values(budget: cel.Budget) -> Object:
            return await bindings(attributes, row, self.lookup, conditions.uses)

        labels = (webhook.name, "webhook", self.phase, attributes.operation)
        try:
            holds = await hold(conditions, values, self.lookup.measures, labels)
            return row if holds else None
        except cel.EvaluationError as error:
            if webhook.ignores_failure:
                return None
            raise attributes.call.forbidden(str(error), attributes.name) from error

    async def ask(
        self, webhook: Webhook, attributes: Attributes, row: Resource, place: str
    ) -> bool:
        """Ask one, and do and count what follows; whether the object was changed. Raises ApiError to refuse."""
        call, refused, code = attributes.call, "", 200
        started = time.perf_counter()
        try:
            answer = await self._answer(webhook, attributes, row)
            if answer.allowed:
                return await self.use(webhook, attributes, row, answer, place)
            refusal = review.refusal(webhook.name, answer.status)
            refused, code = "no_error", refusal.code
            raise refusal
        except CallFailed as error:
            code = error.code
            if not webhook.ignores_failure:
                refused = "calling_webhook_error"
                raise errors.internal(
                    f'failed calling webhook "{webhook.name}": {error}'
                ) from error
            log.warning("webhook %s failed, which it may: %s", webhook.name, error)
            self.lookup.measures.webhook_fail_open[webhook.name, self.counted] += 1
            self.lookup.annotate(call.request, FAILED_OPEN.format(self.kind) + place, webhook.name)
            return False
        except ApiError:
            if not refused:
                refused, code = "apiserver_internal_error", 0
            raise
        finally:
            self.lookup.measures.webhook(
                webhook.name,
                self.counted,
                attributes.operation,
                time.perf_counter() - started,
                code=code,
                refused=refused,
            )

    async def _answer(
        self, webhook: Webhook, attributes: Attributes, row: Resource
    ) -> review.Answer:
        """Raises CallFailed."""
        if attributes.call.dry_run and not webhook.dry:
            raise errors.bad_request(f'admission webhook "{webhook.name}" does not support dry run')
        try:
            version = review.version_for(webhook.spec)
            asked = await review.asked(attributes, row, version)
        except review.InvalidReview as error:
            raise CallFailed(f"could not create admission objects: {error}", 400) from error
        try:
            config = webhook.spec.get("clientConfig") or {}
            answer = await self.lookup.call_webhook(config, asked, webhook.timeout)
        except (OSError, ValueError) as error:
            raise CallFailed(f"failed to call webhook: {error}") from error
        try:
            found = review.answered(asked, answer, mutating=self.phase == ADMIT)
        except review.InvalidReview as error:
            raise CallFailed(f"received invalid webhook response: {error}") from error
        call = attributes.call
        for key, value in found.annotations.items():
            self.lookup.annotate(call.request, f"{webhook.name}/{key}", value)
        call.warnings += bounded(found.warnings)
        return found

    async def use(
        self,
        webhook: Webhook,
        attributes: Attributes,
        row: Resource,
        answer: review.Answer,
        place: str,
    ) -> bool:
        """What follows from an answer that allows the request; whether that changed the object."""
        return False


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


class MutatingAdmissionWebhook(_Webhooks, Mutating):
    plural = "mutatingwebhookconfigurations"
    kind, counted, phase = "mutation", ADMIT, ADMIT

    async def ask_all(self, webhooks: list[Webhook], attributes: Attributes) -> None:
        call, obj = attributes.call, attributes.obj
        reinvoked = reinvocation.of(call)
        rounds = reinvoked.begin(self.plural, obj)
        for index, webhook in enumerate(webhooks):
            row = await self.row(webhook, attributes)
            if row is None or reinvoked.skips(rounds, webhook.key):
                continue
            place = f"round_{int(reinvoked.repeating)}_index_{index}"
            changed = False
            try:
                changed = await self.ask(webhook, attributes, row, place)
            finally:
                told = {
                    "configuration": webhook.configuration,
                    "webhook": webhook.name,
                    "mutated": changed,
                }
                self.lookup.annotate(call.request, MUTATED + place, orjson.dumps(told).decode())
            reinvoked.asked(rounds, webhook.key, changed=changed, if_needed=webhook.if_needed)
        reinvoked.end(self.plural, obj)

    async def use(
        self,
        webhook: Webhook,
        attributes: Attributes,
        row: Resource,
        answer: review.Answer,
        place: str,
    ) -> bool:
        """Apply the patch. Raises ApiError 500 when it cannot be applied."""
        from sampan.kube.objects import clone
        from sampan.kube.patch import json_patch

        if not answer.patch:
            return False
        seen = await attributes.show(row)
        if seen is None:
            raise errors.internal(
                f'admission webhook "{webhook.name}" attempted to modify the object, '
                "which is not supported for this operation"
            )
        try:
            new = json_patch(clone(seen), answer.patch)
        except ApiError as error:
            raise errors.internal(why(error)) from error
        told = {
            "configuration": webhook.configuration,
            "webhook": webhook.name,
            "patch": answer.patch,
            "patchType": "JSONPatch",
        }
        text = orjson.dumps(told).decode()
        self.lookup.annotate(attributes.call.request, PATCHED + place, text)
        return await attributes.replace(row, new)


class ValidatingAdmissionWebhook(_Webhooks, Validating):
    plural = "validatingwebhookconfigurations"
    kind, counted, phase = "validating", VALIDATING, VALIDATE

    async def ask_all(self, webhooks: list[Webhook], attributes: Attributes) -> None:
        relevant = []
        for webhook in webhooks:
            row = await self.row(webhook, attributes)
            if row is not None:
                await attributes.show(row)
                await attributes.show(row, old=True)
                relevant.append((webhook, row))
        # All are heard to the end, as their warnings count; the first refusal in order is the answer.
        results = await asyncio.gather(
            *(
                self.ask(webhook, attributes, row, f"round_0_index_{index}")
                for index, (webhook, row) in enumerate(relevant)
            ),
            return_exceptions=True,
        )
        for refused in results:
            if isinstance(refused, BaseException):
                raise refused
