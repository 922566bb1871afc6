"""Strategies by the name that the resource table uses."""

from __future__ import annotations

from sampan.apiserver.resources import Resource
from sampan.apiserver.strategies.base import Strategy
from sampan.apiserver.strategies.certificates import SigningRequestStrategy
from sampan.apiserver.strategies.cluster import (
    APIServiceStrategy,
    EventStrategy,
    NamespaceStrategy,
    NodeStrategy,
    OrphaningStrategy,
    ReturningStrategy,
    SecretStrategy,
)
from sampan.apiserver.strategies.daemonsets import DaemonSetStrategy
from sampan.apiserver.strategies.jobs import JobStrategy
from sampan.apiserver.strategies.pods import PodStrategy
from sampan.apiserver.strategies.services import ServiceStrategy
from sampan.apiserver.strategies.volumes import ClaimStrategy, VolumeStrategy

__all__ = ["Strategies", "Strategy"]


class Strategies:
    """One instance of each for one server: some hold state (the pools of service addresses)."""

    def __init__(self, service_cidr: str, node_ports: tuple[int, int]) -> None:
        # Imported here: its module is made of this package's parts.
        from sampan.apiserver.crd.strategy import CustomStrategy, DefinitionStrategy

        self.services = ServiceStrategy(service_cidr, node_ports)
        self._generic = Strategy()
        self._named: dict[str, Strategy] = {
            "pod": PodStrategy(),
            "daemonset": DaemonSetStrategy(),
            "job": JobStrategy(),
            "service": self.services,
            "apiservice": APIServiceStrategy(),
            "event": EventStrategy(),
            "namespace": NamespaceStrategy(),
            "node": NodeStrategy(),
            "certificatesigningrequest": SigningRequestStrategy(),
            "secret": SecretStrategy(),
            "orphaning": OrphaningStrategy(),
            "returning": ReturningStrategy(),
            "persistentvolume": VolumeStrategy(),
            "persistentvolumeclaim": ClaimStrategy(),
            "custom": CustomStrategy(),
            "customresourcedefinition": DefinitionStrategy(),
        }

    def of(self, resource: Resource) -> Strategy:
        return self._named.get(resource.strategy, self._generic)
