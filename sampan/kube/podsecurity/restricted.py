"""The further checks of level `restricted`: what a hardened pod must say of itself."""

from __future__ import annotations

from sampan.kube.podsecurity.baseline import added_capabilities, seccomp
from sampan.kube.podsecurity.model import (
    Pod,
    Violation,
    bad_containers,
    context,
    names,
    setters,
    several,
)


def privilege_escalation(pod: Pod) -> Violation | None:
    if pod.windows and pod.version >= (1, 25):
        return None
    bad = [
        each["name"]
        for each in pod.containers
        if context(each).get("allowPrivilegeEscalation") is not False
    ]
    if not bad:
        return None
    text = f"{bad_containers(bad)} must set securityContext.allowPrivilegeEscalation=false"
    return Violation("allowPrivilegeEscalation != false", text)


def dropped_capabilities(pod: Pod) -> Violation | None:
    if pod.windows and pod.version >= (1, 25):
        return None
    keeping = [
        each["name"]
        for each in pod.containers
        if "ALL" not in ((context(each).get("capabilities") or {}).get("drop") or ())
    ]
    adding, text = added_capabilities(pod, frozenset(("NET_BIND_SERVICE",)))
    details = []
    if keeping:
        details.append(
            f'{bad_containers(keeping)} must set securityContext.capabilities.drop=["ALL"]'
        )
    if adding:
        details.append(text)
    return Violation("unrestricted capabilities", "; ".join(details)) if details else None


VOLUME_TYPES = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "image",
    ]
)


def volume_types(pod: Pod) -> Violation | None:
    bad, kinds = [], set()
    for volume in pod.spec.get("volumes") or ():
        found = [key for key in volume if key != "name"]
        if not VOLUME_TYPES.intersection(found):
            bad.append(volume["name"])
            kinds.update(found or ["unknown"])
    if not bad:
        return None
    verb = "uses" if len(bad) == 1 else "use"
    what = several("restricted volume type", len(kinds))
    text = f"{several('volume', len(bad))} {names(bad)} {verb} {what} {names(sorted(kinds))}"
    return Violation("restricted volume types", text)


def non_root(pod: Pod) -> Violation | None:
    if pod.user_namespace and pod.version >= (1, 35):
        return None
    own = pod.own.get("runAsNonRoot")
    asked = {each["name"]: context(each).get("runAsNonRoot") for each in pod.containers}
    refusing = [name for name, value in asked.items() if value is False]
    silent = [name for name, value in asked.items() if value is None and own is not True]
    if own is False or refusing:
        text = f"{setters(own is False, refusing)} must not set securityContext.runAsNonRoot=false"
    elif silent:
        text = f"pod or {bad_containers(silent)} must set securityContext.runAsNonRoot=true"
    else:
        return None
    return Violation("runAsNonRoot != true", text)


def root_user(pod: Pod) -> Violation | None:
    if pod.user_namespace and pod.version >= (1, 35):
        return None
    pod_too = pod.own.get("runAsUser") == 0
    bad = [each["name"] for each in pod.containers if context(each).get("runAsUser") == 0]
    if not pod_too and not bad:
        return None
    return Violation("runAsUser=0", f"{setters(pod_too, bad)} must not set runAsUser=0")


def seccomp_set(pod: Pod) -> Violation | None:
    if pod.windows and pod.version >= (1, 25):
        return None
    explicit = seccomp(pod)
    if explicit is not None:
        return explicit
    if pod.own.get("seccompProfile"):
        return None
    bad = [each["name"] for each in pod.containers if not context(each).get("seccompProfile")]
    if not bad:
        return None
    text = f'pod or {bad_containers(bad)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
    return Violation("seccompProfile", text)
