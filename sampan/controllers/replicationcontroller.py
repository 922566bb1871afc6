"""ReplicationController controller: the ReplicaSet's elder in core/v1, kept in step by the same code.

Only three things differ: the resource, a selector that is a plain map of labels, and a status that does not count pods on
their way out.
"""

from __future__ import annotations

from typing import ClassVar

from sampan.client.resources import PODS, REPLICATIONCONTROLLERS
from sampan.controllers.base import Object, Watch
from sampan.controllers.replicaset import ReplicaSetController
from sampan.kube.selectors import LabelSelector, from_map


class ReplicationControllerController(ReplicaSetController):
    name = "replication-controller"
    resource = REPLICATIONCONTROLLERS
    uncounted: ClassVar[frozenset[str]] = frozenset({"terminatingReplicas"})
    watches = (
        Watch(REPLICATIONCONTROLLERS),
        Watch(PODS, owner="ReplicationController"),
        Watch(PODS, keys=lambda self, pod: self.adopters(pod)),
    )

    def selector(self, owner: Object) -> LabelSelector:
        return from_map(owner["spec"]["selector"])
