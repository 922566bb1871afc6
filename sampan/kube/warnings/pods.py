"""Pods, and the templates inside workloads. Source: pkg/api/pod/warnings.go, v1.36."""

# No `from __future__ import annotations` here: it would take the name of `annotations` below.
from collections.abc import Iterator
from typing import Any, Final

from sampan.kube import names
from sampan.kube.apparmor import PREFIX as APPARMOR
from sampan.kube.apparmor import deprecated as apparmor_deprecated
from sampan.kube.apparmor import profile as apparmor_profile
from sampan.kube.crowds import Crowd
from sampan.kube.errors import quote
from sampan.kube.objects import annotations, generation
from sampan.kube.objects import name as name_of
from sampan.kube.quantity import parse
from sampan.kube.warnings import labels, overlaps
from sampan.kube.warnings.addresses import of_ip

Object = dict[str, Any]

_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
_ANNOTATIONS: Final = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
_SECCOMP: Final = "seccomp.security.alpha.kubernetes.io/pod"
_CONTAINER_SECCOMP: Final = "container.seccomp.security.alpha.kubernetes.io/"
_VOLUMES: Final = {
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "gitRepo": "deprecated in v1.11, and disabled by default in v1.33+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
}
_NULL_SELECTOR: Final = "a null labelSelector results in matching no pod"
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
_NAME: Final = "which can result in surprising behavior; a DNS label is recommended"


def of_name(obj: Object, used_in: str) -> list[str]:
    if not (name := name_of(obj)) or not (reasons := names.dns1123_label(name)):
        return []
    return [f"metadata.name: this is used in {used_in}, {_NAME}: [{' '.join(reasons)}]"]


def of_template(template: Object | None, path: str) -> list[str]:
    """`path` leads to the template; "" is a pod's own."""
    template = template or {}
    prefix = f"{path}." if path else ""
    spec, marks = template.get("spec") or {}, annotations(template)
    found = [*_nodes(spec, f"{prefix}spec")]
    for key, text in _ANNOTATIONS.items() if marks else ():
        if key in marks:
            found.append(f"{prefix}metadata.annotations[{key}]: {text}")
    if volumes := spec.get("volumes"):
        found += _volumes(volumes, f"{prefix}spec.volumes")
        found += overlaps.of_volumes(volumes)
    found += _repeated(spec.get("hostAliases"), f"{prefix}spec.hostAliases", "ip")
    found += _repeated(spec.get("imagePullSecrets"), f"{prefix}spec.imagePullSecrets", "name")
    for index, secret in enumerate(spec.get("imagePullSecrets") or ()):
        if not secret.get("name"):
            found.append(f'{prefix}spec.imagePullSecrets[{index}].name: invalid empty name ""')
    found += _fractions(spec.get("overhead"), f"{prefix}spec.overhead")
    if marks:
        found += _profiles(spec, marks, prefix, template=bool(path))
    for where, container in _each_container(spec, f"{prefix}spec"):
        found += _container(container, where)
    found += _ports(spec, f"{prefix}spec")
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        text = "must be >= 0; negative values are invalid and will be treated as 1"
        found.append(f"{prefix}spec.terminationGracePeriodSeconds: {text}")
    found += _neighbours(spec.get("affinity") or {}, f"{prefix}spec.affinity")
    for index, server in enumerate((spec.get("dnsConfig") or {}).get("nameservers") or ()):
        found += of_ip(f"{prefix}spec.dnsConfig.nameservers[{index}]", server)
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        found += of_ip(f"{prefix}spec.hostAliases[{index}].ip", alias.get("ip") or "")
    return found


def _each_container(spec: Object, path: str) -> Iterator[tuple[str, Object]]:
    for field in _CONTAINERS:
        for index, container in enumerate(spec.get(field) or ()):
            yield f"{path}.{field}[{index}]", container


def _nodes(spec: Object, path: str) -> Iterator[str]:
    for key in spec.get("nodeSelector") or ():
        if key in labels.DEPRECATED:
            yield f"{path}.nodeSelector[{key}]: {labels.DEPRECATED[key]}"
    affinity = spec.get("affinity") or {}
    if node := affinity.get("nodeAffinity"):
        where = f"{path}.affinity.nodeAffinity"
        for index, term in enumerate((node.get(_REQUIRED) or {}).get("nodeSelectorTerms") or ()):
            yield from labels.of_term(term, f"{where}.{_REQUIRED}.nodeSelectorTerms[{index}]")
        for index, item in enumerate(node.get(_PREFERRED) or ()):
            preference = item.get("preference") or {}
            at = f"{where}.{_PREFERRED}[{index}].preference"
            yield from labels.of_term(preference, at, values=True)
    for index, item in enumerate(spec.get("topologySpreadConstraints") or ()):
        where, key = f"{path}.topologySpreadConstraints[{index}]", item.get("topologyKey") or ""
        if key in labels.DEPRECATED:
            yield f"{where}.topologyKey: {key} is {labels.DEPRECATED[key]}"
        if item.get("labelSelector") is None:
            yield f"{where}.labelSelector: {_NULL_SELECTOR}"


def _neighbours(affinity: Object, path: str) -> Iterator[str]:
    for kind in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(kind) or {}
        for index, term in enumerate(terms.get(_REQUIRED) or ()):
            if term.get("labelSelector") is None:
                yield f"{path}.{kind}.{_REQUIRED}[{index}].labelSelector: {_NULL_SELECTOR}"
        for index, item in enumerate(terms.get(_PREFERRED) or ()):
            if (item.get("podAffinityTerm") or {}).get("labelSelector") is None:
                where = f"{path}.{kind}.{_PREFERRED}[{index}].podAffinityTerm"
                yield f"{where}.labelSelector: {_NULL_SELECTOR}"


def _volumes(volumes: list[Object], path: str) -> Iterator[str]:
    for index, volume in enumerate(volumes):
        for field in volume:
            if field in _VOLUMES:
                shown = "storageOS" if field == "storageos" else field
                yield f"{path}[{index}].{shown}: {_VOLUMES[field]}"
        template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
        if template:
            where = f"{path}[{index}].ephemeral.volumeClaimTemplate.spec"
            yield from of_claim(template.get("spec") or {}, where)


def of_claim(spec: Object, path: str) -> list[str]:
    resources = spec.get("resources") or {}
    found = []
    for side in ("requests", "limits"):
        amount = (resources.get(side) or {}).get("storage")
        if amount is not None and _fractional(amount):
            found.append(_fraction(f"{path}.resources.{side}[storage]", amount))
    return found


def _fractional(amount: Any) -> bool:
    # "128Mi" and "500" are whole without a look: only a sign of a fraction is worth parsing.
    text = str(amount)
    if text.isdecimal() or (text.endswith(("Ki", "Mi", "Gi")) and text[:-2].isdecimal()):
        return False
    try:
        return bool(parse(amount).milli() % 1000)
    except ValueError:
        return False


def _fraction(path: str, amount: Any) -> str:
    return (
        f"{path}: fractional byte value {quote(str(parse(amount)))} is invalid, must be an integer"
    )


def _fractions(amounts: Object | None, path: str) -> Iterator[str]:
    for name in ("memory", "ephemeral-storage"):
        if amounts and name in amounts and _fractional(amounts[name]):
            yield _fraction(f"{path}[{name}]", amounts[name])


def _repeated(items: list[Object] | None, path: str, field: str) -> Iterator[str]:
    if items and len(items) > 1:
        seen = set()
        for index, item in enumerate(items):
            value = item.get(field) or ""
            if value in seen:
                yield f"{path}[{index}].{field}: duplicate {field} {quote(value)}"
            seen.add(value)


def _profiles(spec: Object, marks: Object, prefix: str, *, template: bool) -> Iterator[str]:
    """Confinement by annotation, where no field says it."""
    context = spec.get("securityContext") or {}
    seccomp = 'non-functional in v1.27+; use the "seccompProfile" field instead'
    if _SECCOMP in marks and not context.get("seccompProfile"):
        yield f"{prefix}metadata.annotations[{_SECCOMP}]: {seccomp}"
    for _, container in _each_container(spec, ""):
        name, own = container.get("name") or "", container.get("securityContext") or {}
        if (key := _CONTAINER_SECCOMP + name) in marks and not own.get("seccompProfile"):
            yield f"{prefix}metadata.annotations[{key}]: {seccomp}"
        # Of a pod itself `apparmor.take_over` tells, before the annotation becomes the field.
        key = APPARMOR + name
        if template and key in marks and not own.get("appArmorProfile"):
            outer = context.get("appArmorProfile")
            if not outer or outer != apparmor_profile(marks[key]):
                yield apparmor_deprecated(f"{prefix}metadata.annotations[{key}]")


def _container(container: Object, path: str) -> Iterator[str]:
    if resources := container.get("resources"):
        for side in ("limits", "requests"):
            yield from _fractions(resources.get(side), f"{path}.resources.{side}")
    env = container.get("env")
    if env and len(env) > 1:
        seen = set()
        for index, item in enumerate(env):
            name = item.get("name") or ""
            # X="$(X)more" builds on the earlier one; anything else hides it.
            reference, value = f"$({name})", item.get("value") or ""
            if name in seen and (
                item.get("valueFrom") is not None or value == reference or reference not in value
            ):
                yield (
                    f"{path}.env[{index}]: hides previous definition of {quote(name)}, "
                    "which may be dropped when using apply"
                )
            seen.add(name)


def _ports(spec: Object, path: str) -> Iterator[str]:
    known: dict[tuple[int, str], list[tuple[str, str, int]]] = {}
    for where, container in _each_container(spec, path):
        for index, port in enumerate(container.get("ports") or ()):
            at = f"{where}.ports[{index}]"
            host_ip, host_port = port.get("hostIP") or "", port.get("hostPort") or 0
            if host_ip and not host_port:
                yield f"{at}: hostIP set without hostPort: {_shown(port)}"
            others = known.setdefault(
                (port.get("containerPort") or 0, port.get("protocol") or ""), []
            )
            for other, other_ip, other_port in others:
                if (host_ip, host_port) == (other_ip, other_port):
                    yield f"{at}: duplicate port definition with {other}"
                elif not host_port or not other_port:
                    yield f"{at}: overlapping port definition with {other}"
                elif host_port == other_port and bool(host_ip) != bool(other_ip):
                    yield f"{at}: dangerously ambiguous port definition with {other}"
            others.append((at, host_ip, host_port))
    named: dict[str, str] = {}
    for where, container in _each_container(spec, path):
        for index, port in enumerate(container.get("ports") or ()):
            if name := port.get("name"):
                at = f"{where}.ports[{index}]"
                if (first := named.setdefault(name, at)) != at:
                    yield (
                        f"{at}: duplicate port name {quote(name)} with {first}, "
                        f"services and probes that select ports by name will use {first}"
                    )


def _shown(port: Object) -> str:
    """As Go prints the struct."""
    return (
        f"{{Name:{port.get('name') or ''} HostPort:{port.get('hostPort') or 0} "
        f"ContainerPort:{port.get('containerPort') or 0} Protocol:{port.get('protocol') or ''} "
        f"HostIP:{port.get('hostIP') or ''}}}"
    )


# --- kinds with templates ---------------------------------------------------------------------------


def _pod(new: Object, old: Object | None) -> list[str]:
    if old is not None:
        return []
    of_crowd = _of_crowd({"annotations": annotations(new), "spec": new.get("spec")})
    return [*of_name(new, "the Pod's hostname"), *of_crowd]


def _nameless(part: Object) -> list[str]:
    return of_template({"metadata": {"annotations": part["annotations"]}, "spec": part["spec"]}, "")


_of_crowd: Final = Crowd(_nameless)


def _unchanged(new: Object, old: Object | None) -> bool:
    return old is not None and generation(new) == generation(old)


def _workload(new: Object, old: Object | None, *, named: bool) -> list[str]:
    if _unchanged(new, old):
        return []
    spec = new.get("spec") or {}
    found = of_name(new, "Pod names and hostnames") if named and old is None else []
    return [*found, *of_template(spec.get("template"), "spec.template")]


def _stateful_set(new: Object, old: Object | None) -> list[str]:
    if _unchanged(new, old):
        return []
    spec = new.get("spec") or {}
    found = of_template(spec.get("template"), "spec.template")
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        found += of_claim(claim.get("spec") or {}, f"spec.volumeClaimTemplates[{index}]")
    if (spec.get("revisionHistoryLimit") or 0) < 0:
        text = "a negative value retains all historical revisions; a value >= 0 is recommended"
        found.append(f"spec.revisionHistoryLimit: {text}")
    return found


def of_job(spec: Object, path: str) -> list[str]:
    found = []
    if spec.get("completionMode") == "Indexed":
        if (spec.get("completions") or 0) > 100_000 and (spec.get("parallelism") or 0) > 10_000:
            text = (
                "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism "
                "higher than 10^4, Kubernetes might not be able to track completedIndexes when a "
                "big number of indexes fail"
            )
            found.append(f"{path}: {text}")
    return [*found, *of_template(spec.get("template"), f"{path}.template")]


def _job(new: Object, old: Object | None) -> list[str]:
    if _unchanged(new, old):
        return []
    named = of_name(new, "Pod names and hostnames") if old is None else []
    return [*named, *of_job(new.get("spec") or {}, "spec")]


def _cron_job(new: Object, old: Object | None) -> list[str]:
    if _unchanged(new, old):
        return []
    spec = new.get("spec") or {}
    found = of_name(new, "Pod names and hostnames") if old is None else []
    found += of_job((spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec")
    if "TZ" in (spec.get("schedule") or ""):
        found.append(
            "CRON_TZ or TZ used in spec.schedule is not officially supported, see "
            "https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
        )
    return found


def _pod_template(new: Object, old: Object | None) -> list[str]:
    return [] if _unchanged(new, old) else of_template(new.get("template"), "template")


WARNINGS: Final = {
    ("", "Pod"): _pod,
    ("", "PodTemplate"): _pod_template,
    ("", "ReplicationController"): lambda new, old: _workload(new, old, named=True),
    ("apps", "Deployment"): lambda new, old: _workload(new, old, named=True),
    ("apps", "ReplicaSet"): lambda new, old: _workload(new, old, named=True),
    ("apps", "DaemonSet"): lambda new, old: _workload(new, old, named=False),
    ("apps", "StatefulSet"): _stateful_set,
    ("batch", "Job"): _job,
    ("batch", "CronJob"): _cron_job,
}
