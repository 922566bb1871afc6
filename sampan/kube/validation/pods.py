"""Pods and pod templates: the spec as a whole, and what may change in a pod that exists.

A running pod is nearly frozen: images, deadlines and added tolerations may change, scheduling gates may go, and what a
gate holds back may still be narrowed (KEP-3838). Ephemeral containers and resources change by subresources of their own.
"""

from __future__ import annotations

from typing import Any, Final

from sampan.kube import names
from sampan.kube.errors import duplicate, forbidden_field, invalid_value, required
from sampan.kube.objects import clone
from sampan.kube.validation import containers, placement, resources, rules, volumes
from sampan.kube.validation.containers import SORTS
from sampan.kube.validation.rules import Causes, Object

_RESTART: Final = frozenset(("Always", "OnFailure", "Never"))
_DNS: Final = frozenset(("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"))
_PREEMPTION: Final = frozenset(("PreemptLowerPriority", "Never"))
_OS: Final = frozenset(("linux", "windows"))
_GROUP_POLICY: Final = frozenset(("OnRootMismatch", "Always"))
_MAX_NAMESERVERS: Final = 3
_MAX_SEARCHES: Final = 32
_MAX_SEARCH_CHARS: Final = 2048
_ID_MAX: Final = 2**31 - 1

_UPDATE_TEXT: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` "
    "(only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
    "(allow it to be set to 1 if it was previously negative)"
)


def validate_pod(pod: Object, causes: Causes) -> None:
    pod_spec(pod.get("spec") or {}, causes, "spec")


def validate_new_pod(pod: Object, causes: Causes) -> None:
    """What holds only for a pod that is being made."""
    spec = pod.get("spec") or {}
    if spec.get("ephemeralContainers"):
        causes.append(forbidden_field("spec.ephemeralContainers", "cannot be set on create"))
    if spec.get("schedulingGates") and spec.get("nodeName"):
        text = "cannot be set until all schedulingGates have been cleared"
        causes.append(forbidden_field("spec.nodeName", text))


def pod_template(template: Object | None, causes: Causes, path: str) -> None:
    template = template or {}
    metadata = template.get("metadata") or {}
    rules.labels(causes, f"{path}.labels", metadata.get("labels"))
    rules.annotations(causes, f"{path}.annotations", metadata.get("annotations"))
    spec = template.get("spec") or {}
    pod_spec(spec, causes, f"{path}.spec")
    if spec.get("ephemeralContainers"):
        text = "ephemeral containers not allowed in pod template"
        causes.append(forbidden_field(f"{path}.spec.ephemeralContainers", text))


def pod_spec(spec: Object, causes: Causes, path: str) -> None:
    get = spec.get
    by_name = volumes.validate_volumes(get("volumes") or [], causes, f"{path}.volumes")
    context = containers.Context(
        volumes=by_name,
        claims=frozenset(claim.get("name") or "" for claim in get("resourceClaims") or ()),
        host_network=bool(get("hostNetwork")),
        seen=set(),
        host_ports=set(),
    )
    if not get("containers"):
        causes.append(required(f"{path}.containers"))
    for sort in SORTS:
        if found := get(sort.field):
            containers.validate_containers(found, causes, f"{path}.{sort.field}", sort, context)
    rules.choice(causes, f"{path}.restartPolicy", get("restartPolicy"), _RESTART)
    rules.choice(causes, f"{path}.dnsPolicy", get("dnsPolicy"), _DNS)
    _dns(spec, causes, path)
    if found := get("nodeSelector"):
        rules.labels(causes, f"{path}.nodeSelector", found)
    if found := get("securityContext"):
        _security(found, causes, f"{path}.securityContext")
    if get("shareProcessNamespace") and get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        causes.append(invalid_value(f"{path}.shareProcessNamespace", True, text))
    for index, secret in enumerate(get("imagePullSecrets") or ()):
        if not secret.get("name"):
            causes.append(required(f"{path}.imagePullSecrets[{index}].name"))
    if found := get("affinity"):
        placement.affinity(found, causes, f"{path}.affinity")
    if found := get("tolerations"):
        placement.tolerations(found, causes, f"{path}.tolerations")
    if found := get("topologySpreadConstraints"):
        placement.topology_spread(found, causes, f"{path}.topologySpreadConstraints")
    if found := get("resources"):
        resources.requirements(found, causes, f"{path}.resources")
    _names(spec, causes, path)
    _host_aliases(get("hostAliases") or (), causes, f"{path}.hostAliases")
    _gates(spec, causes, path)
    if (deadline := get("activeDeadlineSeconds")) is not None:
        rules.between(causes, f"{path}.activeDeadlineSeconds", deadline, 1, _ID_MAX)
    rules.not_negative(
        causes, f"{path}.terminationGracePeriodSeconds", get("terminationGracePeriodSeconds")
    )
    rules.optional_choice(causes, f"{path}.preemptionPolicy", get("preemptionPolicy"), _PREEMPTION)
    if (system := get("os")) is not None:
        rules.choice(causes, f"{path}.os.name", system.get("name"), _OS)
    for name, value in (get("overhead") or {}).items():
        resources.amount(causes, f"{path}.overhead[{name}]", name, value)


_NAMES: Final = (
    ("serviceAccountName", names.dns1123_subdomain),
    ("nodeName", names.dns1123_subdomain),
    ("hostname", names.dns1123_label),
    ("subdomain", names.dns1123_label),
    ("priorityClassName", names.dns1123_subdomain),
    ("runtimeClassName", names.dns1123_subdomain),
    ("schedulerName", names.dns1123_subdomain),
)


def _names(spec: Object, causes: Causes, path: str) -> None:
    for field, rule in _NAMES:
        value = spec.get(field)
        if value and (reasons := rule(value)):
            causes.extend(invalid_value(f"{path}.{field}", value, reason) for reason in reasons)


def _dns(spec: Object, causes: Causes, path: str) -> None:
    config = spec.get("dnsConfig") or {}
    where = f"{path}.dnsConfig"
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if spec.get("dnsPolicy") == "None" and not servers:
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        causes.append(required(f"{where}.nameservers", text))
    if len(servers) > _MAX_NAMESERVERS:
        text = f"must not have more than {_MAX_NAMESERVERS} nameservers"
        causes.append(invalid_value(f"{where}.nameservers", servers, text))
    for index, server in enumerate(servers):
        rules.name(causes, f"{where}.nameservers[{index}]", server, names.ip)
    if len(searches) > _MAX_SEARCHES:
        text = f"must not have more than {_MAX_SEARCHES} search paths"
        causes.append(invalid_value(f"{where}.searches", searches, text))
    if len(" ".join(searches)) > _MAX_SEARCH_CHARS:
        text = f"must not have more than {_MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        causes.append(invalid_value(f"{where}.searches", searches, text))
    for index, search in enumerate(searches):
        plain = search.removesuffix(".").replace("_", "-") if search != "." else ""
        if plain:
            rules.name(causes, f"{where}.searches[{index}]", plain, names.dns1123_subdomain)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            causes.append(required(f"{where}.options[{index}]", "must not be empty"))


def _security(context: Object, causes: Causes, path: str) -> None:
    containers.identity(context, causes, path)
    rules.between(causes, f"{path}.fsGroup", context.get("fsGroup"), 0, _ID_MAX)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        rules.between(causes, f"{path}.supplementalGroups[{index}]", group, 0, _ID_MAX)
    if (found := context.get("seccompProfile")) is not None:
        containers.confinement(found, causes, f"{path}.seccompProfile", "seccomp")
    if (found := context.get("appArmorProfile")) is not None:
        containers.confinement(found, causes, f"{path}.appArmorProfile", "AppArmor")
    policy = context.get("fsGroupChangePolicy")
    rules.optional_choice(causes, f"{path}.fsGroupChangePolicy", policy, _GROUP_POLICY)
    seen: set[str] = set()
    for index, sysctl in enumerate(context.get("sysctls") or ()):
        where = f"{path}.sysctls[{index}].name"
        name = sysctl.get("name") or ""
        if not name:
            causes.append(required(where))
        elif not names.is_sysctl(name):
            causes.append(invalid_value(where, name, "must be a sysctl name"))
        elif name in seen:
            causes.append(duplicate(where, name))
        seen.add(name)


def _host_aliases(aliases: Any, causes: Causes, path: str) -> None:
    for index, alias in enumerate(aliases):
        rules.name(causes, f"{path}[{index}].ip", alias.get("ip") or "", names.ip)
        for hostname in alias.get("hostnames") or ():
            rules.name(causes, f"{path}[{index}].hostnames", hostname, names.dns1123_subdomain)


def _gates(spec: Object, causes: Causes, path: str) -> None:
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        where = f"{path}.readinessGates[{index}].conditionType"
        rules.name(causes, where, gate.get("conditionType") or "", names.qualified_name)
    seen = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        where = f"{path}.schedulingGates[{index}]"
        name = gate.get("name") or ""
        rules.name(causes, where, name, names.qualified_name)
        if name in seen:
            causes.append(duplicate(where, name))
        seen.add(name)


# --- updates ----------------------------------------------------------------------------------------


def validate_pod_update(new: Object, old: Object, causes: Causes) -> None:
    new_spec, old_spec = new.get("spec") or {}, old.get("spec") or {}
    if new_spec == old_spec:
        return
    for field in ("containers", "initContainers"):
        if len(new_spec.get(field) or ()) != len(old_spec.get(field) or ()):
            text = "pod updates may not add or remove containers"
            causes.append(forbidden_field(f"spec.{field}", text))
            return
    _deadline(new_spec.get("activeDeadlineSeconds"), old_spec.get("activeDeadlineSeconds"), causes)
    _kept_tolerations(new_spec.get("tolerations") or [], old_spec.get("tolerations") or [], causes)
    _kept_gates(
        new_spec.get("schedulingGates") or [], old_spec.get("schedulingGates") or [], causes
    )
    gated = bool(old_spec.get("schedulingGates"))
    changed = _frozen_changes(new_spec, old_spec, gated=gated)
    if changed:
        shown = "\n".join(f"  {path}" for path in changed)
        causes.append(forbidden_field("spec", f"{_UPDATE_TEXT}\n{shown}"))


def _deadline(new: int | None, old: int | None, causes: Causes) -> None:
    if old is None or new == old:
        return
    if new is None:
        text = "must not update from a positive integer to nil value"
        causes.append(invalid_value("spec.activeDeadlineSeconds", new, text))
    elif new > old:
        text = "must be less than or equal to previous value"
        causes.append(invalid_value("spec.activeDeadlineSeconds", new, text))


def _kept_tolerations(new: list[Object], old: list[Object], causes: Causes) -> None:
    def plain(item: Object) -> Object:
        return {key: value for key, value in item.items() if key != "tolerationSeconds"}

    present = [plain(item) for item in new]
    if any(plain(item) not in present for item in old):
        text = "existing toleration can not be modified except its tolerationSeconds"
        causes.append(forbidden_field("spec.tolerations", text))


def _kept_gates(new: list[Object], old: list[Object], causes: Causes) -> None:
    before = [gate.get("name") for gate in old]
    added = [gate.get("name") or "" for gate in new if gate.get("name") not in before]
    if added:
        shown = ", ".join(added)
        text = f"only deletion is allowed, but found new scheduling gates '{shown}'"
        causes.append(forbidden_field("spec.schedulingGates", text))


_MUTABLE: Final = ("activeDeadlineSeconds", "tolerations", "schedulingGates")


def _frozen_changes(new: Object, old: Object, *, gated: bool) -> list[str]:
    """Paths of what changed and must not have."""
    ignored = {*_MUTABLE, "ephemeralContainers"}
    if new.get("terminationGracePeriodSeconds") == 1 and (
        (old.get("terminationGracePeriodSeconds") or 0) < 0
    ):
        ignored.add("terminationGracePeriodSeconds")
    if gated and _only_added(new.get("nodeSelector") or {}, old.get("nodeSelector") or {}):
        # A gated pod may be narrowed to fewer nodes, never widened.
        ignored |= {"nodeSelector", "affinity"}
    changed = []
    for field in sorted({*new, *old} - ignored):
        before, after = old.get(field), new.get(field)
        if before == after or (not before and not after):
            continue
        if field in ("containers", "initContainers"):
            for index, (one, other) in enumerate(zip(before or [], after or [], strict=True)):
                changed += [
                    f"spec.{field}[{index}].{key}"
                    for key in sorted({*one, *other})
                    if key != "image" and one.get(key) != other.get(key)
                ]
        else:
            changed.append(f"spec.{field}")
    return changed


def _only_added(new: Object, old: Object) -> bool:
    return all(new.get(key) == value for key, value in old.items())


def validate_subresource(subresource: str, new: Object, old: Object, causes: Causes) -> None:
    if subresource == "resize":
        _resize(new, old, causes)
    else:
        _ephemeral(new, old, causes)


def _ephemeral(new: Object, old: Object, causes: Causes) -> None:
    """Ephemeral containers are only ever added."""
    spec = clone(new.get("spec") or {})
    pod_spec(spec, causes, "spec")
    present = {item.get("name"): item for item in spec.get("ephemeralContainers") or ()}
    known = {item.get("name") for item in spec.get("containers") or ()}
    for item in (old.get("spec") or {}).get("ephemeralContainers") or ():
        name = item.get("name")
        if name not in present:
            text = f'existing ephemeral containers "{name}" may not be removed\n'
            causes.append(forbidden_field("spec.ephemeralContainers", text))
        elif present[name] != item:
            text = f'existing ephemeral containers "{name}" may not be changed\n'
            causes.append(forbidden_field("spec.ephemeralContainers", text))
    for index, item in enumerate(spec.get("ephemeralContainers") or ()):
        target = item.get("targetContainerName")
        if target and target not in known:
            where = f"spec.ephemeralContainers[{index}].targetContainerName"
            causes.append(invalid_value(where, target, "must name a container of the pod"))


def _resize(new: Object, old: Object, causes: Causes) -> None:
    """KEP-1287: only cpu and memory of containers, and never so that the QoS class is another."""
    new_spec, old_spec = clone(new.get("spec") or {}), clone(old.get("spec") or {})
    pod_spec(new_spec, causes, "spec")
    for spec in (new_spec, old_spec):
        spec.pop("resources", None)
        for sort in SORTS[:2]:
            for container in spec.get(sort.field) or ():
                container.pop("resources", None)
                container.pop("resizePolicy", None)
    if new_spec != old_spec:
        text = "only cpu and memory resources for containers are mutable"
        causes.append(forbidden_field("spec", text))
    if qos_class(new) != qos_class(old):
        text = "Pod QOS Class may not change as a result of resizing"
        causes.append(invalid_value("spec", qos_class(new), text))


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers."""
    spec = pod.get("spec") or {}
    members = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    if spec.get("resources"):
        members = [spec]
    any_set, guaranteed = False, True
    for member in members:
        found = member.get("resources") or {}
        limits, requests = found.get("limits") or {}, found.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, asked = rules.parsed(limits.get(name, 0)), rules.parsed(requests.get(name, 0))
            any_set = any_set or bool(limit) or bool(asked)
            guaranteed = guaranteed and bool(limit) and (not asked or asked == limit)
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
