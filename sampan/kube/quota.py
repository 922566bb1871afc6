"""Resource quotas as arithmetic: what an object uses, which quotas it falls under, and what would be too much.

`usage` has one evaluator a kind and one for all others (`count/<plural>.<group>`, also for custom resources). Amounts are
quantities by the names that `spec.hard` uses. Source: kubernetes.io/docs/concepts/policy/resource-quotas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sampan.kube import podresources
from sampan.kube.podresources import Amounts
from sampan.kube.quantity import Quantity

Object = dict[str, Any]

ONE = Quantity.of(1)
COMPUTE = ("cpu", "memory", "ephemeral-storage")
STORAGE_CLASS_SUFFIX = ".storageclass.storage.k8s.io/"
VOLUME_CLASS_SUFFIX = ".volumeattributesclass.storage.k8s.io/"
# Kinds that are also counted by their bare plural.
COUNTED = frozenset(
    (
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "services",
    )
)


def count_name(group: str, plural: str) -> str:
    return f"count/{plural}.{group}" if group else f"count/{plural}"


def counted_kind(name: str) -> tuple[str, str] | None:
    """(group, plural) that a quota's resource name is about; None for compute names, which are about pods."""
    if name.startswith("count/"):
        plural, _, group = name[6:].partition(".")
        return group, plural
    if name in COUNTED:
        return "", name
    if name in ("services.loadbalancers", "services.nodeports"):
        return "", "services"
    if name == "requests.storage" or STORAGE_CLASS_SUFFIX in name or VOLUME_CLASS_SUFFIX in name:
        return "", "persistentvolumeclaims"
    return None


def kinds_of(hard: Iterable[str]) -> set[tuple[str, str]]:
    """(group, plural) of everything that these names need counted."""
    return {counted_kind(name) or ("", "pods") for name in hard}


def usage(group: str, plural: str, obj: Object) -> Amounts:
    """What one object uses. A pod that has ended uses nothing but its place among `count/pods`."""
    found = {count_name(group, plural): ONE}
    if group:
        return found
    if plural in COUNTED and plural != "pods":
        found[plural] = ONE
    measure = _MEASURES.get(plural)
    if measure is not None:
        found.update(measure(obj))
    return found


def _pod(pod: Object) -> Amounts:
    if (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
        return {}
    spec = pod["spec"]
    found: Amounts = {"pods": ONE}
    for name, amount in podresources.of_pod(spec, "requests").items():
        if name in COMPUTE:
            found[name] = amount
        if name in COMPUTE or name.startswith("hugepages-") or "/" in name:
            found[f"requests.{name}"] = amount
        if name.startswith("hugepages-"):
            found[name] = amount
    for name, amount in podresources.of_pod(spec, "limits").items():
        if name in COMPUTE:
            found[f"limits.{name}"] = amount
    return found


def _service(service: Object) -> Amounts:
    spec = service.get("spec") or {}
    kind, ports = spec.get("type", "ClusterIP"), spec.get("ports") or ()
    found: Amounts = {}
    node_ports = 0
    if kind == "NodePort":
        node_ports = len(ports)
    elif kind == "LoadBalancer":
        found["services.loadbalancers"] = ONE
        allocated = spec.get("allocateLoadBalancerNodePorts") is not False
        node_ports = len(ports) if allocated else sum(1 for each in ports if each.get("nodePort"))
    if node_ports:
        found["services.nodeports"] = Quantity.of(node_ports)
    return found


def _claim(claim: Object) -> Amounts:
    spec = claim.get("spec") or {}
    asked = podresources.amounts((spec.get("resources") or {}).get("requests")).get("storage")
    held = podresources.amounts((claim.get("status") or {}).get("allocatedResources"))
    if asked is not None and held.get("storage", asked) > asked:
        asked = held["storage"]  # a volume that grows counts what it grows to
    prefixes = [""]
    if spec.get("storageClassName"):
        prefixes.append(spec["storageClassName"] + STORAGE_CLASS_SUFFIX)
    if spec.get("volumeAttributesClassName"):
        prefixes.append(spec["volumeAttributesClassName"] + VOLUME_CLASS_SUFFIX)
    found: Amounts = {}
    for prefix in prefixes:
        found[f"{prefix}persistentvolumeclaims"] = ONE
        if asked is not None:
            found[f"{prefix}requests.storage"] = asked
    return found


_MEASURES: dict[str, Callable[[Object], Amounts]] = {
    "pods": _pod,
    "services": _service,
    "persistentvolumeclaims": _claim,
}


# Scopes


def requirements(quota: Object) -> list[Object]:
    """scopes and scopeSelector as one list of `{scopeName, operator, values}`."""
    spec = quota.get("spec") or {}
    plain = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    return plain + list((spec.get("scopeSelector") or {}).get("matchExpressions") or ())


def in_scope(quota: Object, group: str, plural: str, obj: Object) -> bool:
    """Does the quota count this object? Scopes only ever select pods, but for the one of volume classes."""
    for each in requirements(quota):
        look = _SCOPES.get(each["scopeName"])
        if look is None or not look(each, group, plural, obj):
            return False
    return True


def _among(each: Object, present: str | None) -> bool:
    operator, values = each.get("operator", "Exists"), each.get("values") or ()
    if operator == "Exists":
        return present is not None
    if operator == "DoesNotExist":
        return present is None
    return (present in values) == (operator == "In")


def _of_pod(look: Callable[[Object], bool]) -> Callable[[Object, str, str, Object], bool]:
    return lambda each, group, plural, obj: (group, plural) == ("", "pods") and look(obj["spec"])


def _terminating(spec: Object) -> bool:
    return (spec.get("activeDeadlineSeconds") or -1) >= 0


def _crosses_namespaces(spec: Object) -> bool:
    affinity = spec.get("affinity") or {}
    for key in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(key) or {}
        terms = list(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        weighted = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [each.get("podAffinityTerm") or {} for each in weighted]
        if any(
            term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms
        ):
            return True
    return False


def _priority_class(each: Object, group: str, plural: str, obj: Object) -> bool:
    if (group, plural) != ("", "pods"):
        return False
    return _among(each, obj["spec"].get("priorityClassName") or None)


def _volume_class(each: Object, group: str, plural: str, obj: Object) -> bool:
    if (group, plural) != ("", "persistentvolumeclaims"):
        return False
    return _among(each, (obj.get("spec") or {}).get("volumeAttributesClassName") or None)


_SCOPES: dict[str, Callable[[Object, str, str, Object], bool]] = {
    "Terminating": _of_pod(_terminating),
    "NotTerminating": _of_pod(lambda spec: not _terminating(spec)),
    "BestEffort": _of_pod(podresources.best_effort),
    "NotBestEffort": _of_pod(lambda spec: not podresources.best_effort(spec)),
    "CrossNamespacePodAffinity": _of_pod(_crosses_namespaces),
    "PriorityClass": _priority_class,
    "VolumeAttributesClass": _volume_class,
}


# Decisions


def hard_of(quota: Object) -> Amounts:
    """The limits in force: those that were counted. A quota that nobody has counted yet holds nobody back."""
    return podresources.amounts((quota.get("status") or {}).get("hard"))


def used_of(quota: Object) -> Amounts:
    return podresources.amounts((quota.get("status") or {}).get("used"))


def counted(hard: Iterable[str], amounts: Amounts) -> Amounts:
    """Of these amounts what the quota has a limit for."""
    return {name: amounts[name] for name in hard if name in amounts}


def total(
    quota: Object, objects: Iterable[tuple[str, str, Object]], hard: Iterable[str]
) -> Amounts:
    """What all these (group, plural, object) use together, zero where nothing does."""
    names = list(hard)
    found = {name: Quantity() for name in names}
    for group, plural, obj in objects:
        if in_scope(quota, group, plural, obj):
            podresources.add(found, counted(names, usage(group, plural, obj)))
    return found


def missing(hard: Iterable[str], pod: Object) -> dict[str, list[str]]:
    """Names that the quota limits and that a container of the pod does not state, with those containers.

    A quota on CPU or memory obliges every container to say what it asks for. Resources of the whole pod stand for all.
    """
    spec = pod["spec"]
    found: dict[str, list[str]] = {}
    for name in hard:
        side, _, resource = name.rpartition(".")
        if not side:
            side, resource = "requests", name
        if resource not in ("cpu", "memory") or side not in ("requests", "limits"):
            continue
        if resource in ((spec.get("resources") or {}).get(side) or {}):
            continue
        for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
            if resource not in ((container.get("resources") or {}).get(side) or {}):
                found.setdefault(name, []).append(container["name"])
    return found


def told(amounts: Amounts) -> str:
    """`cpu=1,pods=3`, as refusals show amounts."""
    return ",".join(f"{name}={amounts[name]}" for name in sorted(amounts))
