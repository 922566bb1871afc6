"""The kube-controller-manager flags that the controllers know, `name=value`, as `--kube-controller-manager-arg` takes them (K3s has
the same option).
"""

from __future__ import annotations

from collections.abc import Iterable

from sampan.controllers.autoscaling.settings import Settings
from sampan.kube.flags import Flag, duration, read_flags


def _period(text: str) -> float:
    seconds = duration(text)
    if not seconds:
        raise ValueError("must be more than nothing")
    return seconds


def _ratio(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError("must be a share, 0 to 1")
    return value


_SCALER = "horizontal-pod-autoscaler"
FLAGS: dict[str, Flag] = {
    f"{_SCALER}-cpu-initialization-period": Flag("cpu_initialization_period", duration),
    f"{_SCALER}-downscale-stabilization": Flag("downscale_stabilization", duration),
    f"{_SCALER}-initial-readiness-delay": Flag("initial_readiness_delay", duration),
    f"{_SCALER}-sync-period": Flag("sync_period", _period),
    f"{_SCALER}-tolerance": Flag("tolerance", _ratio),
}


def read(arguments: Iterable[str]) -> Settings:
    """Raises BadFlag."""
    return Settings(**read_flags(FLAGS, arguments))
