"""Volumes: a pod goes where its volumes are. Reads claims and PersistentVolumes, as far as a pod names any.

A bound volume's node affinity decides; a claim that is missing, being deleted or not bound keeps its pod waiting and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sampan.kube.placement import matches_term

if TYPE_CHECKING:
    from sampan.scheduler.nodes import NodeInfo
    from sampan.scheduler.pods import PodClass

Object = dict[str, Any]
CONFLICT = "node(s) had volume node affinity conflict"


class Volumes:
    """`claim(namespace, name)` and `volume(name)` give the objects, or None."""

    def __init__(self) -> None:
        self.claim: Callable[[str, str], Object | None] = lambda namespace, name: None
        self.volume: Callable[[str], Object | None] = lambda name: None

    def problem(self, group: PodClass) -> str | None:
        """Why the pod can run nowhere at all; None when its volumes are there."""
        for name in group.claims:
            claim = self.claim(group.namespace, name)
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if "deletionTimestamp" in claim["metadata"]:
                return f'persistentvolumeclaim "{name}" is being deleted'
            bound = claim["spec"].get("volumeName")
            if not bound or (claim.get("status") or {}).get("phase") != "Bound":
                return "pod has unbound immediate PersistentVolumeClaims"
            if self.volume(bound) is None:
                return f'persistentvolume "{bound}" not found'
        return None

    def refusal(self, group: PodClass, info: NodeInfo) -> str | None:
        for name in group.claims:
            claim = self.claim(group.namespace, name)
            volume = self.volume(claim["spec"].get("volumeName", "")) if claim else None
            required = ((volume or {"spec": {}})["spec"].get("nodeAffinity") or {}).get("required")
            if required is not None and not any(
                matches_term(term, info.name, info.labels) for term in required["nodeSelectorTerms"]
            ):
                return CONFLICT
        return None
