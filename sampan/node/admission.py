"""What the node itself refuses: a pod bound to it for which it has no room, or no free host port.

The scheduler has seen to that already for the pods that it binds. A pod whose author wrote `spec.nodeName` comes without
being asked about, and two schedulers may both have given away the last core. Refused pods end as Failed, with kubelet's
reasons (`OutOfcpu`, `NodePorts`), and their controllers make new ones. What counts here never exceeds what the scheduler
counts, so a pod that it placed well is not refused. A pod is asked about once: with `status.startTime` it is in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sampan.kube import objects
from sampan.kube.quantity import parse
from sampan.node import podspec
from sampan.node.plan import Verdict
from sampan.node.podspec import MAIN, SIDECAR, Object
from sampan.node.resources import requested

ANY = "0.0.0.0"  # of a host port: every address of the node
COUNTED = ("cpu", "memory", "ephemeral-storage")


def refusal(
    pod: Object, others: Iterable[Object], allocatable: Mapping[str, str]
) -> Verdict | None:
    """Why the node does not take this pod beside those that it has; None when it does, or has already."""
    if (
        (pod.get("status") or {}).get("startTime")
        or podspec.has_finished(pod)
        or objects.is_deleting(pod)
    ):
        return None
    held = list(others)
    if len(held) + 1 > int(allocatable.get("pods", len(held) + 1)):
        return _too_little("pods", 1, len(held), int(allocatable["pods"]))
    for name in COUNTED:
        wanted = requested(pod, name)
        if not wanted or name not in allocatable:
            continue
        whole, used = parse(allocatable[name]).milli(), sum(requested(o, name) for o in held)
        if used + wanted > whole:
            unit = 1 if name == "cpu" else 1000  # kubelet tells thousandths of a core, and bytes
            return _too_little(name, wanted // unit, used // unit, whole // unit)
    wanted_ports = list(_host_ports(pod))
    if wanted_ports and any(
        _collide(mine, theirs)
        for other in held
        for theirs in _host_ports(other)
        for mine in wanted_ports
    ):
        text = "node(s) didn't have free ports for the requested pod ports"
        return Verdict("NodePorts", f"Pod was rejected: Predicate NodePorts failed: {text}")
    return None


def _too_little(name: str, wanted: int, used: int, whole: int) -> Verdict:
    return Verdict(
        f"OutOf{name}",
        f"Pod was rejected: Node didn't have enough resource: {name}, requested: {wanted}, "
        f"used: {used}, capacity: {whole}",
    )


def _host_ports(pod: Object) -> Iterator[tuple[str, str, int]]:
    """(address, protocol, port) of each."""
    for named in podspec.containers(pod):
        if named.kind in (MAIN, SIDECAR):
            for port in named.container.get("ports") or ():
                if number := port.get("hostPort"):
                    yield port.get("hostIP") or ANY, port.get("protocol") or "TCP", number


def _collide(one: tuple[str, str, int], other: tuple[str, str, int]) -> bool:
    return one[1:] == other[1:] and (one[0] == other[0] or ANY in (one[0], other[0]))
