"""PodSecurity: the namespace's labels say which of the Pod Security Standards its pods must meet (KEP-2579).

`enforce` refuses pods; `warn` answers with a warning and also looks at the templates of workloads; `audit` leaves an
annotation for the audit log. A namespace without the labels costs one search in its bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from sampan.apiserver.admission.plugin import Object, Plugin
from sampan.apiserver.call import Call
from sampan.kube import errors, podsecurity
from sampan.kube.podsecurity import LATEST, LEVELS, RESTRICTED, Policy

PREFIX = "pod-security.kubernetes.io/"
MODES = ("enforce", "audit", "warn")
MOST_PODS = 3000  # looked at when a namespace becomes stricter
# Where a kind keeps the pod that it makes.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "core/podtemplates": ("template",),
    "core/replicationcontrollers": ("spec", "template"),
    "apps/daemonsets": ("spec", "template"),
    "apps/deployments": ("spec", "template"),
    "apps/replicasets": ("spec", "template"),
    "apps/statefulsets": ("spec", "template"),
    "batch/cronjobs": ("spec", "jobTemplate", "spec", "template"),
    "batch/jobs": ("spec", "template"),
}


class Policies(NamedTuple):
    enforce: Policy
    audit: Policy
    warn: Policy
    causes: tuple[errors.Cause, ...] = ()


def policies(labels: dict[str, str]) -> Policies:
    """What a namespace's labels ask for. One that cannot be read counts as the strictest, so that a slip opens nothing."""
    found, causes = [], []
    for mode in MODES:
        level, version = labels.get(PREFIX + mode), labels.get(f"{PREFIX}{mode}-version")
        policy = Policy()
        if level is not None:
            if level not in LEVELS:
                field = f"metadata.labels[{PREFIX}{mode}]"
                text = "must be one of privileged, baseline, restricted"
                causes.append(errors.invalid_value(field, level, text))
                # Only enforcing fails closed: a warning too many would tell nothing.
                level = RESTRICTED if mode == "enforce" else podsecurity.PRIVILEGED
            policy = Policy(level)
        if version is not None:
            try:
                policy = policy._replace(version=podsecurity.parse_version(version))
            except ValueError as error:
                field = f"metadata.labels[{PREFIX}{mode}-version]"
                causes.append(errors.invalid_value(field, version, str(error)))
                policy = policy._replace(version=LATEST)
        found.append(policy)
    enforce, audit, warn = found
    if PREFIX + "warn" not in labels and LEVELS.index(enforce.level) > 0:
        # What is enforced on pods is worth a warning on the workloads that make them.
        warn = enforce
    return Policies(enforce, audit, warn, tuple(causes))


class PodSecurity(Plugin):
    storages = ("core/namespaces", "core/pods", *TEMPLATES)
    subresources = ("", "ephemeralcontainers")

    async def validate_create(self, call: Call, obj: Object) -> None:
        if call.resource.storage == "core/namespaces":
            causes = policies(obj["metadata"].get("labels") or {}).causes
            if causes:
                raise call.invalid(list(causes), obj["metadata"].get("name", ""))
        else:
            await self.judge(call, obj)

    async def validate_update(self, call: Call, new: Object, old: Object) -> None:
        if call.resource.storage == "core/namespaces":
            await self.namespace_changed(call, new, old)
        elif call.resource.storage == "core/pods":
            if changed(new, old):
                await self.judge(call, new)
        else:
            await self.judge(call, new)

    async def judge(self, call: Call, obj: Object) -> None:
        """A pod, or the template of a workload, by the policies of its namespace."""
        entry = await self.lookup.entry("", "v1", "namespaces", "", call.info.namespace)
        if entry is None or PREFIX.encode() not in entry.data:
            return
        asked = policies(entry.object()["metadata"].get("labels") or {})
        pod: Object | None = obj
        is_pod = call.resource.storage == "core/pods"
        if not is_pod:
            for key in TEMPLATES[call.resource.storage]:
                pod = (pod or {}).get(key)
            if not pod or not pod.get("spec"):
                return
        assert pod is not None
        metadata, spec = pod.get("metadata") or {}, pod["spec"]
        found = podsecurity.violations(asked.enforce, metadata, spec) if is_pod else []
        if found:
            text = f'violates PodSecurity "{asked.enforce}": {podsecurity.sentence(found)}'
            raise call.forbidden(text, obj["metadata"].get("name", ""))
        if is_pod and asked.warn == asked.enforce:
            return
        found = podsecurity.violations(asked.warn, metadata, spec)
        if found:
            call.warnings.append(
                f'would violate PodSecurity "{asked.warn}": {podsecurity.sentence(found)}'
            )

    async def namespace_changed(self, call: Call, new: Object, old: Object) -> None:
        after = policies(new["metadata"].get("labels") or {})
        before = policies(old["metadata"].get("labels") or {})
        if after.causes and after.causes != before.causes:
            raise call.invalid(list(after.causes))
        now, then = after.enforce, before.enforce
        if now == then or now.level == podsecurity.PRIVILEGED:
            return
        if now.version == then.version and LEVELS.index(now.level) <= LEVELS.index(then.level):
            return
        call.warnings += await self.offenders(call.info.name, now)

    async def offenders(self, namespace: str, policy: Policy) -> list[str]:
        """Warnings about the pods that are there already and would be refused now."""
        entries = await self.lookup.within("", "v1", "pods", namespace)
        by_reason: dict[str, list[str]] = {}
        for entry in entries[:MOST_PODS]:
            pod = entry.object()
            found = podsecurity.violations(policy, pod["metadata"], pod["spec"])
            if found:
                reasons = ", ".join(each.reason for each in found)
                by_reason.setdefault(reasons, []).append(pod["metadata"]["name"])
        told = []
        if len(entries) > MOST_PODS:
            told.append(
                f"new PodSecurity enforce level only checked against the first {MOST_PODS} "
                f"of {len(entries)} existing pods"
            )
        if by_reason:
            told.append(
                f'existing pods in namespace "{namespace}" violate the new PodSecurity '
                f'enforce level "{policy}"'
            )
        lines = []
        for reasons, pods in by_reason.items():
            others = len(pods) - 1
            more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
            lines.append(f"{min(pods)}{more}: {reasons}")
        return told + sorted(lines)


def changed(new: Object, old: Object) -> bool:
    """Did anything change that the checks look at? Of a running pod that is mostly an image."""
    keys = ("containers", "initContainers", "ephemeralContainers", "securityContext")
    return any(new["spec"].get(key) != old["spec"].get(key) for key in keys)
