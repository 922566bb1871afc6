"""Pod Security Standards: which checks of the levels `baseline` and `restricted` a pod fails, and in which words.

A check looks at a pod (its annotations and its spec) and answers None or what is forbidden there. `CHECKS` is the whole
policy: level, the Kubernetes version from which a check counts, and the checks of the lower level that it stands in for.
Source: KEP-2579 and kubernetes.io/docs/concepts/security/pod-security-standards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sampan.kube.podsecurity import baseline, restricted
from sampan.kube.podsecurity.model import (
    BASELINE,
    LATEST,
    LEVELS,
    PRIVILEGED,
    RESTRICTED,
    Object,
    Pod,
    Policy,
    Violation,
    parse_version,
)

__all__ = [
    "BASELINE",
    "CHECKS",
    "LATEST",
    "LEVELS",
    "PRIVILEGED",
    "RESTRICTED",
    "Policy",
    "Violation",
    "parse_version",
    "sentence",
    "violations",
]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    level: str
    look: Callable[[Pod], Violation | None]
    since: tuple[int, int] = (1, 0)
    replaces: tuple[str, ...] = ()


# In the order in which Kubernetes tells them.
CHECKS: tuple[Check, ...] = (
    Check("appArmorProfile", BASELINE, baseline.apparmor),
    Check("capabilities_baseline", BASELINE, baseline.default_capabilities),
    Check("hostNamespaces", BASELINE, baseline.host_namespaces),
    Check("hostPathVolumes", BASELINE, baseline.host_paths),
    Check("hostPorts", BASELINE, baseline.host_ports),
    Check("hostProbesAndHostLifecycle", BASELINE, baseline.probe_hosts, since=(1, 34)),
    Check("privileged", BASELINE, baseline.privileged),
    Check("procMount", BASELINE, baseline.proc_mount_of_host_users),
    Check("seLinuxOptions", BASELINE, baseline.selinux),
    Check("seccompProfile_baseline", BASELINE, baseline.seccomp, since=(1, 19)),
    Check("sysctls", BASELINE, baseline.sysctls),
    Check("windowsHostProcess", BASELINE, baseline.windows_host_process),
    Check("allowPrivilegeEscalation", RESTRICTED, restricted.privilege_escalation, since=(1, 8)),
    Check(
        "capabilities_restricted",
        RESTRICTED,
        restricted.dropped_capabilities,
        since=(1, 22),
        replaces=("capabilities_baseline",),
    ),
    Check(
        "procMount_restricted",
        RESTRICTED,
        baseline.proc_mount,
        since=(1, 35),
        replaces=("procMount",),
    ),
    Check("restrictedVolumes", RESTRICTED, restricted.volume_types, replaces=("hostPathVolumes",)),
    Check("runAsNonRoot", RESTRICTED, restricted.non_root),
    Check("runAsUser", RESTRICTED, restricted.root_user, since=(1, 23)),
    Check(
        "seccompProfile_restricted",
        RESTRICTED,
        restricted.seccomp_set,
        since=(1, 19),
        replaces=("seccompProfile_baseline",),
    ),
)


def violations(policy: Policy, metadata: Object, spec: Object) -> list[Violation]:
    """What the pod does that the level forbids; nothing for `privileged`."""
    if policy.level == PRIVILEGED:
        return []
    pod = Pod(metadata.get("annotations") or {}, spec, policy.version)
    chosen = [check for check in CHECKS if check.since <= policy.version]
    if policy.level == BASELINE:
        chosen = [check for check in chosen if check.level == BASELINE]
    else:
        replaced = {name for check in chosen for name in check.replaces}
        chosen = [check for check in chosen if check.name not in replaced]
    return [found for check in chosen if (found := check.look(pod)) is not None]


def sentence(found: list[Violation]) -> str:
    return ", ".join(str(each) for each in found)
