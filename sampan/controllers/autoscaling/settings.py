"""What a cluster's administrator may set about autoscaling: kube-controller-manager's flags and their defaults."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds, but for `tolerance`."""

    sync_period: float = 15.0  # metrics are looked at so often: that is how often they are made
    tolerance: float = 0.1  # a ratio of usage to target this close to 1 changes nothing
    downscale_stabilization: float = 300.0
    cpu_initialization_period: float = 300.0  # a pod's first CPU readings are looked at twice
    initial_readiness_delay: float = 30.0  # a pod that was ready before this was never ready
