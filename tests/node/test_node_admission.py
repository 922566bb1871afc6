"""What a node refuses of what is bound to it, and what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from node_pods import container, make_pod

from sampan.node.admission import refusal
from sampan.node.flags import read
from sampan.node.gate import forbidden_sysctl, other_system

ROOM = {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "10Gi", "pods": "2"}


def asking(cpu: str, memory: str = "1Mi", port: int = 0, **fields: Any) -> dict[str, Any]:
    ports = [{"containerPort": 80, "hostPort": port, **fields}] if port else []
    requests = {"cpu": cpu, "memory": memory}
    return make_pod(container(resources={"requests": requests}, ports=ports))


def finished() -> dict[str, Any]:
    return asking("9") | {"status": {"phase": "Failed"}}


CASES: list[tuple[dict[str, Any], list[dict[str, Any]], str, str]] = [
    (asking("2"), [], "", ""),
    (asking("2"), [asking("100m")], "OutOfcpu",
     "Node didn't have enough resource: cpu, requested: 2000, used: 100, capacity: 2000"),
    (asking("1", "2Gi"), [], "OutOfmemory",
     "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"),
    (make_pod(), [make_pod()], "", ""),
    (make_pod(), [make_pod(), make_pod()], "OutOfpods", "requested: 1, used: 2, capacity: 2"),
    (asking("9") | {"status": {"startTime": "2026-01-01T00:00:00Z"}}, [], "", ""),
    (finished(), [], "", ""),
    (asking("1", port=80), [asking("1", port=81)], "", ""),
    (asking("1", port=80), [asking("1", port=80)], "NodePorts", "Predicate NodePorts failed"),
    (asking("1", port=80), [asking("1", port=80, protocol="UDP")], "", ""),
    (asking("1", port=80, hostIP="127.0.0.1"), [asking("1", port=80, hostIP="127.0.0.2")], "", ""),
    (asking("1", port=80, hostIP="127.0.0.1"), [asking("1", port=80)], "NodePorts", "free ports"),
]  # fmt: skip


@pytest.mark.parametrize(("pod", "others", "reason", "text"), CASES)
def test_what_is_refused(
    pod: dict[str, Any], others: list[dict[str, Any]], reason: str, text: str
) -> None:
    verdict = refusal(pod, others, ROOM)
    if not reason:
        assert verdict is None
    else:
        assert verdict is not None
        assert verdict.reason == reason
        assert text in verdict.message
        assert verdict.message.startswith("Pod was rejected: ")


@pytest.mark.parametrize(
    ("name", "allowed", "forbidden"),
    [
        ("net.ipv4.tcp_syncookies", "kernel.sem", False),
        ("kernel/shm_rmid_forced", "kernel.sem", False),
        ("kernel.msgmax", "kernel.sem", True),
        ("kernel.msgmax", "net.core.somaxconn,kernel.msg*", False),
        ("net/core/somaxconn", "net.core.somaxconn", False),
    ],
)
def test_sysctls_that_are_not_safe_need_leave(name: str, allowed: str, forbidden: bool) -> None:
    pod = make_pod(securityContext={"sysctls": [{"name": name, "value": "1"}]})
    fields = read([f"allowed-unsafe-sysctls={allowed}"])
    verdict = forbidden_sysctl(pod, fields["allowed_unsafe_sysctls"])
    assert (verdict is not None) == forbidden
    if verdict:
        assert (verdict.reason, verdict.message) == (
            "SysctlForbidden",
            f'Pod was rejected: forbidden sysctl: "{name}" not allowlisted',
        )


def test_a_pod_for_another_system_is_not_taken() -> None:
    assert other_system(make_pod()) is None
    assert other_system(make_pod(os={"name": "linux"})) is None
    verdict = other_system(make_pod(os={"name": "windows"}))
    assert verdict is not None and verdict.reason == "PodOSNotSupported"
