"""How full the volumes behind claims are: for `/stats/summary` and the metrics `kubelet_volume_stats_*`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sampan.node.volumes.places import Statistics, statistics


@dataclass(frozen=True, slots=True)
class ClaimedVolume:
    pod: str  # uid
    volume: str  # its name in the pod
    namespace: str
    claim: str
    path: Path


@dataclass(frozen=True, slots=True)
class VolumeUsage:
    of: ClaimedVolume
    figures: Statistics


def measure(volumes: Iterable[ClaimedVolume]) -> list[VolumeUsage]:
    """Asks the file systems, which may take a while; what does not answer, or is a device, is left out."""
    found = []
    for volume in volumes:
        try:
            if volume.path.is_dir():
                found.append(VolumeUsage(volume, statistics(volume.path)))
        except OSError:
            continue  # the volume went meanwhile
    return found
