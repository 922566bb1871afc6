"""HorizontalPodAutoscaler controller: sets the scale of a workload by what its pods use.

Every `sync_period` an autoscaler reads its metrics, proposes (replicas.py), is held back (limits.py), and writes /scale and its
status. Metrics have no watch: they are made once in a while by those who measure, so this is the one controller with a clock. A
change of the spec is acted on at once. The largest proposal counts; if a metric cannot be had, the others may only add.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sampan.client.resources import HORIZONTALPODAUTOSCALERS, PODS
from sampan.controllers.autoscaling import limits
from sampan.controllers.autoscaling.limits import History
from sampan.controllers.autoscaling.metrics import Metrics
from sampan.controllers.autoscaling.proposals import Measured, Target, measure
from sampan.controllers.autoscaling.replicas import NoMetric
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch, stamp
from sampan.controllers.scales import NotServed, resource_of
from sampan.kube import selectors
from sampan.kube.errors import ApiError
from sampan.kube.objects import clone, labels, set_condition
from sampan.kube.types import GVR

CANNOT_SCALE = "the HPA controller was unable to get the target's current scale: {}"
UNABLE = "the HPA was unable to compute the replica count: {}"


class Unscalable(Exception):
    """Nothing can be decided now; conditions and events have been set."""


class Scaled(NamedTuple):
    gvr: GVR
    scale: Object

    @property
    def replicas(self) -> int:
        return int(self.scale["spec"].get("replicas") or 0)


class HorizontalController(Controller):
    name = "horizontal-pod-autoscaler"
    watches = (
        Watch(HORIZONTALPODAUTOSCALERS, matters=lambda old, new: old["spec"] != new["spec"]),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.autoscalers = self.informer(HORIZONTALPODAUTOSCALERS)
        self.pods = self.informer(PODS)
        self.events = context.recorder(self.name)
        self.settings = context.autoscaling
        self.metrics = Metrics(self.client)
        self.histories: dict[Key, History] = {}
        self.selectors: dict[Key, selectors.LabelSelector] = {}

    async def reconcile(self, key: Key) -> Requeue | None:
        found = self.autoscalers.get(*key)
        if found is None:
            self.histories.pop(key, None)
            self.selectors.pop(key, None)
            return None
        autoscaler = clone(found)
        autoscaler.setdefault("status", {})
        try:
            await self.scale(key, autoscaler)
        except Unscalable:
            pass
        if autoscaler["status"] != (found.get("status") or {}):
            await self.client.update(HORIZONTALPODAUTOSCALERS, autoscaler, "status")
        return Requeue(self.settings.sync_period)

    def condition(self, autoscaler: Object, kind: str, status: bool, why: limits.Reason) -> None:
        set_condition(autoscaler, kind, str(status), *why, stamp(self.clock()))

    async def scale(self, key: Key, autoscaler: Object) -> None:
        target = await self.target(key, autoscaler)
        spec, status = autoscaler["spec"], autoscaler["status"]
        current, most = target.replicas, int(spec["maxReplicas"])
        least = int(spec.get("minReplicas", 1))
        history = self.histories.get(key)
        if history is None:
            history = self.histories[key] = History([(self.clock(), current)])
        status["currentReplicas"] = current
        status.setdefault("desiredReplicas", 0)
        measured: list[Object] | None = None
        if not current and least:
            reason = "scaling is disabled since the replica count of the target is zero"
            self.condition(autoscaler, "ScalingActive", False, ("ScalingDisabled", reason))
            desired, why = 0, ""
        elif current > most:
            desired, why = most, "Current number of replicas above Spec.MaxReplicas"
        elif current < least:
            desired, why = least, "Current number of replicas below Spec.MinReplicas"
        else:
            wanted, name, measured = await self.wanted(key, autoscaler, target)
            why = f"{name} above target" if wanted > current else "All metrics below target"
            decision = limits.decide(
                history, current, wanted, least, most, spec.get("behavior"),
                self.settings, self.clock(),
            )  # fmt: skip
            self.condition(autoscaler, "AbleToScale", True, decision.able)
            self.condition(autoscaler, "ScalingLimited", decision.limited, decision.why)
            desired = decision.replicas
        if desired != current:
            await self.write(autoscaler, target, desired, why)
            history.rescaled(current, desired, spec.get("behavior"), self.clock())
            status["lastScaleTime"] = stamp(self.clock())
        status["desiredReplicas"] = desired
        if measured:
            status["currentMetrics"] = measured
        else:
            status.pop("currentMetrics", None)

    async def target(self, key: Key, autoscaler: Object) -> Scaled:
        reference = autoscaler["spec"]["scaleTargetRef"]
        try:
            kind, version = reference["kind"], reference.get("apiVersion", "")
            gvr = await resource_of(self.client, version, kind)
            name = reference["name"]
            scale = await self.client.get(gvr, name, key.namespace, subresource="scale")
        except (ApiError, NotServed) as error:
            text = error.message if isinstance(error, ApiError) else str(error)
            self.selectors.pop(key, None)
            self.events.event(autoscaler, "Warning", "FailedGetScale", text)
            why = ("FailedGetScale", CANNOT_SCALE.format(text))
            self.condition(autoscaler, "AbleToScale", False, why)
            raise Unscalable from error
        done = "the HPA controller was able to get the target's current scale"
        self.condition(autoscaler, "AbleToScale", True, ("SucceededGetScale", done))
        return Scaled(gvr, scale)

    async def write(self, autoscaler: Object, target: Scaled, desired: int, why: str) -> None:
        spec = {**target.scale["spec"], "replicas": desired}
        size = f"New size: {desired}; reason: {why}"
        try:
            await self.client.update(target.gvr, {**target.scale, "spec": spec}, "scale")
        except ApiError as error:
            self.events.event(
                autoscaler, "Warning", "FailedRescale", f"{size}; error: {error.message}"
            )
            text = f"the HPA controller was unable to update the target scale: {error.message}"
            self.condition(autoscaler, "AbleToScale", False, ("FailedUpdateScale", text))
            raise Unscalable from error
        text = f"the HPA controller was able to update the target scale to {desired}"
        self.condition(autoscaler, "AbleToScale", True, ("SucceededRescale", text))
        self.events.event(autoscaler, "Normal", "SuccessfulRescale", size)

    # What the metrics ask for

    async def wanted(
        self, key: Key, autoscaler: Object, target: Scaled
    ) -> tuple[int, str, list[Object]]:
        """(replicas, the metric that asks for them, status.currentMetrics). Raises Unscalable."""
        selector = self.selector(key, autoscaler, target)
        pods = [pod for pod in self.pods.list(key.namespace) if selector.matches(labels(pod))]
        self.alone(key, autoscaler, selector, pods)
        proposals: list[tuple[int, str]] = []
        failures: list[tuple[str, str, str]] = []  # reason, metric, what went wrong
        statuses: list[Object] = []
        about = Target(
            key.namespace,
            target.replicas,
            int((target.scale.get("status") or {}).get("replicas") or 0),
            str(selector),
            pods,
            autoscaler["spec"].get("behavior"),
        )
        for metric in autoscaler["spec"].get("metrics") or ():
            try:
                measured: Measured = await measure(
                    self.metrics, metric, about, self.settings, self.clock()
                )
            except NoMetric as error:
                reason = f"FailedGet{metric['type']}Metric"
                self.events.event(autoscaler, "Warning", reason, str(error))
                failures.append((reason, _described(metric), str(error)))
                continue
            proposals.append((measured.replicas, measured.name))
            statuses.append(measured.status)
        best = max(proposals, default=(0, ""), key=lambda each: each[0])
        if failures and (not proposals or best[0] < target.replicas):
            reason, metric_name, text = failures[0]
            self.condition(autoscaler, "ScalingActive", False, (reason, UNABLE.format(text)))
            summary = (
                f"invalid metrics ({len(failures)} invalid out of {len(failures) + len(proposals)}), "
                f"first error is: failed to get {metric_name} metric value: {text}"
            )
            self.events.event(autoscaler, "Warning", "FailedComputeMetricsReplicas", summary)
            raise Unscalable
        text = f"the HPA was able to successfully calculate a replica count from {best[1]}"
        self.condition(autoscaler, "ScalingActive", True, ("ValidMetricFound", text))
        return (*best, statuses)

    def selector(self, key: Key, autoscaler: Object, target: Scaled) -> selectors.LabelSelector:
        text = (target.scale.get("status") or {}).get("selector") or ""
        try:
            if not text:
                raise ValueError("selector is required")
            parsed = self.selectors[key] = selectors.parse_labels(text)
        except (ValueError, ApiError) as error:
            required = not text
            self.events.event(
                autoscaler,
                "Warning",
                "SelectorRequired" if required else "InvalidSelector",
                "" if required else str(error),
            )
            why = "missing a selector" if required else f"using an invalid selector: {error}"
            reason = ("InvalidSelector", f"the HPA target's scale is {why}")
            self.condition(autoscaler, "ScalingActive", False, reason)
            raise Unscalable from error
        return parsed

    def alone(
        self,
        key: Key,
        autoscaler: Object,
        selector: selectors.LabelSelector,
        pods: list[Object],
    ) -> None:
        """Two autoscalers over the same pods would pull at them in turns: neither does anything."""
        others = sorted(
            f"{other.namespace}/{other.name}"
            for other, theirs in self.selectors.items()
            if other.namespace == key.namespace
            and other != key
            and any(theirs.matches(labels(pod)) for pod in pods)
        )
        if others:
            both = ", ".join(sorted([f"{key.namespace}/{key.name}", *others]))
            text = f"pods by selector {selector} are controlled by multiple HPAs: {both}"
            self.events.event(autoscaler, "Warning", "AmbiguousSelector", text)
            self.condition(autoscaler, "ScalingActive", False, ("AmbiguousSelector", text))
            raise Unscalable


def _described(metric: Object) -> str:
    """`cpu resource`, `cpu container`, `pods`: as the sum of what went wrong names a metric."""
    kind: str = metric["type"]
    if kind == "Resource":
        return f"{metric['resource']['name']} resource"
    if kind == "ContainerResource":
        return f"{metric['containerResource']['name']} container"
    source: dict[str, Any] = metric.get(kind.lower()) or {}
    return f"{(source.get('metric') or {}).get('name', '')} {kind.lower()}".strip()
