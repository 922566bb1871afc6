"""Pods and pod templates: the spec as a whole. What may change in a pod that exists: `pod_updates`."""

from __future__ import annotations

from typing import Any, Final

from sampan.kube import names, podresources
from sampan.kube.crowds import Crowd
from sampan.kube.errors import (
    duplicate,
    forbidden_field,
    invalid_value,
    required,
    too_long,
)
from sampan.kube.validation import (
    containers,
    placement,
    profiles,
    resources,
    rules,
    security,
    volumes,
)
from sampan.kube.validation.containers import SORTS, Context
from sampan.kube.validation.ratchet import anything
from sampan.kube.validation.rules import Causes, Object

_RESTART: Final = ("Always", "OnFailure", "Never")
_DNS: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_PREEMPTION: Final = ("PreemptLowerPriority", "Never")
_MAX_NAMESERVERS: Final = 3
_MAX_SEARCHES: Final = 32
_MAX_SEARCH_CHARS: Final = 2048
_ID_MAX: Final = 2**31 - 1
_HOSTNAME_MAX: Final = 64  # the kernel's

MIRROR: Final = "kubernetes.io/config.mirror"
_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
APP_ARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"

# What a pod of an older server may have. One such value lets all of its field through.
KEPT: Final = (
    anything(
        r"spec\.affinity\.nodeAffinity\.requiredDuring\w+\.nodeSelectorTerms\[\d+\]\.match\w+\[\d+\]\.values"
    ),
    anything(r"spec\.affinity\.pod\w+\..*[sS]elector\."),
    anything(r"spec\.topologySpreadConstraints\[\d+\]\.labelSelector\."),
    anything(r"spec\.initContainers\[\d+\]\.resizePolicy\[\d+\]\.restartPolicy$"),
    anything(r"spec\.volumes\[\d+\]\.projected\.sources\[\d+\]\.\w+(\.items\[\d+\])?\.path$"),
)


def validate_pod(pod: Object, causes: Causes) -> None:
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    if marks := metadata.get("annotations"):
        _annotations(marks, spec, causes, "metadata.annotations")
        if MIRROR in marks:
            text = "static pods do not support resource claims"
            refused = forbidden_field(rules.NO_FIELD, text)
            causes.extend(refused for _ in spec.get("resourceClaims") or ())
    if any("ephemeral" in volume for volume in spec.get("volumes") or ()):
        _own_spec(spec, causes, metadata.get("name") or "")  # its claims are named after the pod
    else:
        causes.extend(_of_crowd(spec))


def _own_spec(spec: Object, causes: Causes, pod: str) -> None:
    pod_spec(spec, causes, "spec", pod=pod, is_pod=True)
    for index, volume in enumerate(spec.get("volumes") or ()):
        image = volume.get("image")
        if image is not None and not image.get("reference"):  # a template's may be filled in later
            causes.append(required(f"spec.volumes[{index}].image.reference"))
    if not spec.get("serviceAccountName"):
        for index, volume in enumerate(spec.get("volumes") or ()):
            for at, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
                if source.get("serviceAccountToken") is not None:
                    where = f"spec.volumes[{index}].projected.sources[{at}].serviceAccountToken"
                    text = "must not be specified when serviceAccountName is not set"
                    causes.append(forbidden_field(where, text))


def _nameless(spec: Object) -> Causes:
    causes: Causes = []
    _own_spec(spec, causes, "")
    return causes


_of_crowd: Final = Crowd(_nameless)


def validate_new_pod(pod: Object, causes: Causes) -> None:
    """What holds only for a pod that is being made."""
    spec = pod.get("spec") or {}
    if spec.get("ephemeralContainers"):
        causes.append(forbidden_field("spec.ephemeralContainers", "cannot be set on create"))
    if spec.get("schedulingGates") and spec.get("nodeName"):
        text = "cannot be set until all schedulingGates have been cleared"
        causes.append(forbidden_field("spec.nodeName", text))
    if marks := (pod.get("metadata") or {}).get("annotations"):
        profiles.agree(marks, spec, causes, "spec")


def pod_template(template: Object | None, causes: Causes, path: str) -> None:
    template = template or {}
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    rules.labels(causes, f"{path}.labels", metadata.get("labels"))
    if marks := metadata.get("annotations"):
        rules.annotations(causes, f"{path}.annotations", marks)
        _annotations(marks, spec, causes, f"{path}.annotations")
    pod_spec(spec, causes, f"{path}.spec")
    if spec.get("ephemeralContainers"):
        text = "ephemeral containers not allowed in pod template"
        causes.append(forbidden_field(f"{path}.spec.ephemeralContainers", text))
    if marks:
        profiles.agree(marks, spec, causes, f"{path}.spec")


def _annotations(marks: Object, spec: Object, causes: Causes, path: str) -> None:
    """Annotations that mean something to the API itself."""
    if MIRROR in marks and not spec.get("nodeName"):
        text = "must set spec.nodeName if mirror pod annotation is set"
        causes.append(invalid_value(f"{path}[{MIRROR}]", marks[MIRROR], text))
    if (cost := marks.get(_DELETION_COST)) is not None and not _is_int32(cost):
        text = "must be a 32bit integer"
        causes.append(invalid_value(f"{path}[{_DELETION_COST}]", cost, text))
    profiles.seccomp_annotations(marks, causes, path)
    for key, profile in marks.items():
        if not key.startswith(APP_ARMOR):
            continue
        name = key.removeprefix(APP_ARMOR)
        present = (each for sort in SORTS for each in spec.get(sort.field) or ())
        if all(each.get("name") != name for each in present):
            causes.append(invalid_value(f"{path}[{key}]", name, "container not found"))
        if profile not in ("", "runtime/default", "unconfined") and (
            not profile.startswith("localhost/")
        ):
            text = f'invalid AppArmor profile name: "{profile}"'
            causes.append(invalid_value(f"{path}[{key}]", profile, text))


def _is_int32(text: str) -> bool:
    digits = text[1:] if text[:1] == "-" else text
    if not (digits.isascii() and digits.isdigit()) or (len(digits) > 1 and digits[0] == "0"):
        return False
    return len(digits) < 11 and -(2**31) <= int(text) < 2**31


def pod_spec(
    spec: Object, causes: Causes, path: str, *, pod: str = "", is_pod: bool = False
) -> None:
    """`pod` is the name of the pod, when the spec is that of one (`is_pod`) and not of a template."""
    get = spec.get
    claims: frozenset[str] = frozenset()
    if listed := get("resourceClaims"):
        claims = frozenset(each["name"] for each in listed if each.get("name"))
        _resource_claims(listed, causes, f"{path}.resourceClaims")
    restart = get("restartPolicy") or ""
    context = Context(
        volumes=volumes.validate_volumes(get("volumes") or [], causes, f"{path}.volumes", pod),
        claims=claims,
        host_network=bool(get("hostNetwork")),
        host_users=security.is_host_users(spec),
        is_pod=is_pod,
        restart_policy=restart,
        grace=get("terminationGracePeriodSeconds"),
        system=(get("os") or {}).get("name") or None,
        seen=set(),
        host_ports=set(),
    )
    if not get("containers"):
        causes.append(required(f"{path}.containers"))
    for sort in SORTS:
        if found := get(sort.field):
            containers.validate_containers(found, causes, f"{path}.{sort.field}", sort, context)
    if (found := get("resources")) is not None:
        _resources(found, spec, causes, f"{path}.resources")
    if restart not in _RESTART:
        rules.listed(causes, f"{path}.restartPolicy", restart, _RESTART)
    policy = get("dnsPolicy") or ""
    if policy not in _DNS:
        rules.listed(causes, f"{path}.dnsPolicy", policy, _DNS)
    if get("dnsConfig") is not None or policy == "None":
        _dns(get("dnsConfig"), policy, causes, f"{path}.dnsConfig")
    if found := get("nodeSelector"):
        rules.labels(causes, f"{path}.nodeSelector", found)
    if found := get("securityContext"):
        security.of_pod(found, spec, causes, f"{path}.securityContext")
    security.host_process(spec, causes, path)
    if get("shareProcessNamespace") and get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        causes.append(invalid_value(f"{path}.securityContext.shareProcessNamespace", True, text))
    if found := get("affinity"):
        placement.affinity(found, causes, f"{path}.affinity")
    if found := get("tolerations"):
        placement.tolerations(found, causes, f"{path}.tolerations")
    if found := get("topologySpreadConstraints"):
        placement.topology_spread(found, causes, f"{path}.topologySpreadConstraints")
    if get("hostUsers") is False:
        security.host_users(spec, causes, path)
    _names(spec, causes, path)
    if found := get("hostAliases"):
        _host_aliases(found, causes, f"{path}.hostAliases")
    if get("readinessGates") or get("schedulingGates"):
        _gates(spec, causes, path)
    if (deadline := get("activeDeadlineSeconds")) is not None:
        rules.between(causes, f"{path}.activeDeadlineSeconds", deadline, 1, _ID_MAX)
    if (preemption := get("preemptionPolicy")) is not None:
        rules.listed(causes, f"{path}.preemptionPolicy", preemption, _PREEMPTION)
    if overhead := get("overhead"):
        resources.requirements({"limits": overhead}, causes, f"{path}.overhead")
    if get("os") is not None:
        security.operating_system(spec, causes, path)
    containers.file_keys(spec, causes, path)


_NAMES: Final = (
    ("serviceAccountName", names.dns1123_subdomain),
    ("nodeName", names.dns1123_subdomain),
    ("hostname", names.dns1123_label),
    ("subdomain", names.dns1123_label),
    ("priorityClassName", names.dns1123_subdomain),
)


def _names(spec: Object, causes: Causes, path: str) -> None:
    for field, rule in _NAMES:
        value = spec.get(field)
        if value and (reasons := rule(value)):
            causes.extend(invalid_value(f"{path}.{field}", value, reason) for reason in reasons)
    if (name := spec.get("runtimeClassName")) is not None:
        rules.name(causes, f"{path}.runtimeClassName", name, names.dns1123_subdomain)
    if (name := spec.get("hostnameOverride")) is not None:
        where = f"{path}.hostnameOverride"
        for other in ("setHostnameAsFQDN", "hostNetwork"):
            if spec.get(other):
                text = f"may not be specified when {other} is true"
                causes.append(forbidden_field(where, text))
        if len(name) > _HOSTNAME_MAX:
            causes.append(too_long(where, name, _HOSTNAME_MAX))
        rules.name(causes, where, name, names.dns1123_subdomain)


def _resource_claims(claims: list[Object], causes: Causes, path: str) -> None:
    """Devices that the pod is given (KEP-4381): by name, or made from a template."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        where, name = f"{path}[{index}]", claim.get("name") or ""
        if not name:
            causes.append(required(f"{where}.name"))
        elif name in seen:
            causes.append(duplicate(f"{where}.name", name))
        else:
            rules.name(causes, f"{where}.name", name, names.dns1123_label)
        seen.add(name)
        fields = ("resourceClaimName", "resourceClaimTemplateName")
        given = [field for field in fields if claim.get(field) is not None]
        if len(given) == 2:
            text = (
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            )
            causes.append(invalid_value(where, claim, text))
        if not given:
            text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            causes.append(invalid_value(where, claim, text))
        for field in given:
            rules.name(causes, f"{where}.{field}", claim[field], names.dns1123_subdomain)


def _resources(found: Object, spec: Object, causes: Causes, path: str) -> None:
    """Of the pod as a whole (KEP-2837): at least what its containers ask, and no container above it."""
    if (spec.get("os") or {}).get("name") == "windows":
        causes.append(forbidden_field(path, "may not be set for a windows pod"))
        return
    if found.get("claims") is not None:
        text = "claims may not be set for Resources at pod-level"
        causes.append(forbidden_field(f"{path}.claims", text))
    claims = frozenset(each.get("name") or "" for each in spec.get("resourceClaims") or ())
    resources.requirements(found, causes, path, claims, check=resources.pod_resource)
    for side in ("requests", "limits"):
        given = found.get(side) or {}
        for name, total in podresources.of_containers(spec, side).items():
            if side == "limits" and not name.startswith(podresources.HUGE_PAGES):
                continue
            if name in given and total > rules.parsed(given[name]):
                text = f"must be greater than or equal to aggregate container {side} of {total}"
                where = f"{path}.{side}[{name}]"
                causes.append(invalid_value(where, str(rules.parsed(given[name])), text))
    limits = found.get("limits") or {}
    for index, container in enumerate(spec.get("containers") or ()):
        for name, amount in ((container.get("resources") or {}).get("limits") or {}).items():
            if name in limits and rules.parsed(amount) > rules.parsed(limits[name]):
                where = f"{path}.containers[{index}][{name}].limits"
                text = f"must be less than or equal to pod limits of {rules.parsed(limits[name])}"
                causes.append(invalid_value(where, str(rules.parsed(amount)), text))


def _dns(config: Object | None, policy: str, causes: Causes, path: str) -> None:
    if config is None:
        causes.append(required(path, "must provide `dnsConfig` when `dnsPolicy` is None"))
        return
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if policy == "None" and not servers:
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        causes.append(required(f"{path}.nameservers", text))
        return
    if len(servers) > _MAX_NAMESERVERS:
        text = f"must not have more than {_MAX_NAMESERVERS} nameservers"
        causes.append(invalid_value(f"{path}.nameservers", servers, text))
    for index, server in enumerate(servers):
        rules.name(causes, f"{path}.nameservers[{index}]", server, names.ip)
    if len(searches) > _MAX_SEARCHES:
        text = f"must not have more than {_MAX_SEARCHES} search paths"
        causes.append(invalid_value(f"{path}.searches", searches, text))
    if len(" ".join(searches)) > _MAX_SEARCH_CHARS:
        text = f"must not have more than {_MAX_SEARCH_CHARS} characters (including spaces) in the search list"
        causes.append(invalid_value(f"{path}.searches", searches, text))
    for index, search in enumerate(searches):
        if search != ".":
            where = f"{path}.searches[{index}]"
            rules.name(causes, where, search.removesuffix("."), names.search_domain)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            causes.append(required(f"{path}.options[{index}]", "must not be empty"))


def _host_aliases(aliases: Any, causes: Causes, path: str) -> None:
    for index, alias in enumerate(aliases):
        rules.name(causes, f"{path}[{index}].ip", alias.get("ip") or "", names.ip)
        for at, hostname in enumerate(alias.get("hostnames") or ()):
            where = f"{path}[{index}].hostnames[{at}]"
            rules.name(causes, where, hostname, names.dns1123_subdomain)


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


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort, from cpu and memory of all containers."""
    spec = pod.get("spec") or {}
    members = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    if spec.get("resources"):
        members = [spec]
    return _qos_of([member.get("resources") for member in members])


def _qos(resources: list[Object | None]) -> str:
    any_set, guaranteed = False, True
    for found in resources:
        if not found:
            guaranteed = False
            continue
        limits, requests = found.get("limits") or {}, found.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, asked = rules.parsed(limits.get(name, 0)), rules.parsed(requests.get(name, 0))
            any_set = any_set or bool(limit) or bool(asked)
            guaranteed = guaranteed and bool(limit) and (not asked or asked == limit)
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


_qos_of: Final = Crowd(_qos)
