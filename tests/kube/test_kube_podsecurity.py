"""Pod Security Standards: each check by a pod that fails it, worded as Kubernetes words it."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.kube import podsecurity
from sampan.kube.podsecurity import BASELINE, RESTRICTED, Policy, sentence, violations

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "a",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
    "volumes": [{"name": "v", "emptyDir": {}}],
}


def told(level: str, spec: dict[str, Any], annotations: dict[str, str] | None = None) -> str:
    return sentence(violations(Policy(level), {"annotations": annotations or {}}, spec))


def with_context(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "a", "securityContext": fields}]}


def test_a_careful_pod_passes_every_level() -> None:
    assert told(RESTRICTED, GOOD) == told(BASELINE, GOOD) == ""


def test_a_plain_pod_passes_baseline_and_is_told_all_that_restricted_wants() -> None:
    spec = {"containers": [{"name": "a"}, {"name": "b"}]}
    assert told(BASELINE, spec) == ""
    assert told(RESTRICTED, spec) == (
        'allowPrivilegeEscalation != false (containers "a", "b" must set '
        "securityContext.allowPrivilegeEscalation=false), unrestricted capabilities "
        '(containers "a", "b" must set securityContext.capabilities.drop=["ALL"]), '
        'runAsNonRoot != true (pod or containers "a", "b" must set '
        'securityContext.runAsNonRoot=true), seccompProfile (pod or containers "a", "b" must set '
        'securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")'
    )


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (
            {"hostNetwork": True, "hostIPC": True, "containers": []},
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]},
            'hostPath volumes (volume "v")',
        ),
        (
            {"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 81}]}]},
            'hostPort (container "a" uses hostPorts 80, 81)',
        ),
        (
            with_context(privileged=True),
            'privileged (container "a" must not set securityContext.privileged=true)',
        ),
        (
            with_context(capabilities={"add": ["NET_ADMIN", "CHOWN"]}),
            'non-default capabilities (container "a" must not include "NET_ADMIN" in '
            "securityContext.capabilities.add)",
        ),
        (
            with_context(procMount="Unmasked"),
            'procMount (container "a" must not set securityContext.procMount to "Unmasked")',
        ),
        (
            with_context(seccompProfile={"type": "Unconfined"}),
            'seccompProfile (container "a" must not set securityContext.seccompProfile.type '
            'to "Unconfined")',
        ),
        (
            with_context(seLinuxOptions={"type": "spc_t", "user": "u"}),
            'seLinuxOptions (container "a" set forbidden securityContext.seLinuxOptions: '
            'type "spc_t"; user may not be set)',
        ),
        (
            {"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}},
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]},
            'probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1")',
        ),
        (
            {
                "securityContext": {"windowsOptions": {"hostProcess": True}},
                "containers": [{"name": "a"}],
            },
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
    ],
)
def test_baseline_refuses(spec: dict[str, Any], expected: str) -> None:
    assert told(BASELINE, spec) == expected


def test_an_unconfined_apparmor_annotation_is_refused() -> None:
    key = "container.apparmor.security.beta.kubernetes.io/a"
    found = told(BASELINE, {"containers": [{"name": "a"}]}, {key: "unconfined"})
    assert found.startswith("forbidden AppArmor profile (annotation ")
    assert told(BASELINE, {"containers": []}, {key: "runtime/default"}) == ""


def test_restricted_stands_in_for_what_baseline_says_of_the_same_thing() -> None:
    spec = {**GOOD, "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}
    assert told(RESTRICTED, spec) == (
        'restricted volume types (volume "v" uses restricted volume type "hostPath")'
    )


def test_a_pinned_version_does_not_know_later_checks() -> None:
    spec = {"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]}
    old = Policy(BASELINE, podsecurity.parse_version("v1.33"))
    assert str(old) == "baseline:v1.33"
    assert violations(old, {}, spec) == []
    assert violations(Policy(BASELINE), {}, spec)


def test_a_pod_in_a_user_namespace_may_be_root_in_it() -> None:
    spec = {
        **GOOD,
        "hostUsers": False,
        "securityContext": {"seccompProfile": {"type": "Localhost"}},
    }
    assert told(RESTRICTED, spec) == ""


@pytest.mark.parametrize("text", ["v1", "1.30", "v1.x", "", "v2.1", "v1.01"])
def test_versions_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        podsecurity.parse_version(text)
