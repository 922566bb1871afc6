"""The kubelet flags that this node knows, `name=value`, as `sampan up --kubelet-arg` takes them (K3s has the same option).

One row a flag: what it sets of NodeConfig and how its text is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sampan.kube.flags import BadFlag, Flag, duration, read_flags
from sampan.kube.names import is_sysctl
from sampan.kube.quantity import parse
from sampan.node.pressure import parse_thresholds


def _size(text: str) -> int:
    value = parse(text).value()
    if value <= 0:
        raise ValueError("must be more than nothing")
    return value


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise ValueError(f"must be a whole number, at least {least}")
        return int(text)

    return read


def _percent(text: str) -> int:
    if not text.isdigit() or int(text) > 100:
        raise ValueError("must be a percentage, 0 to 100")
    return int(text)


def _absolute(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _sysctls(text: str) -> tuple[str, ...]:
    found = tuple(each.strip() for each in text.split(","))
    for each in found:
        if not is_sysctl(each.removesuffix("*").rstrip("./")):
            raise ValueError(f"{each!r} is no sysctl, nor one with * at its end")
    return tuple(each.replace("/", ".") for each in found)


FLAGS: dict[str, Flag] = {
    "allowed-unsafe-sysctls": Flag("allowed_unsafe_sysctls", _sysctls),
    "container-log-max-files": Flag("container_log_max_files", _count(2)),
    "container-log-max-size": Flag("container_log_max_size", _size),
    "eviction-hard": Flag("eviction_hard", parse_thresholds),
    "image-gc-high-threshold": Flag("image_gc_high", _percent),
    "image-gc-low-threshold": Flag("image_gc_low", _percent),
    "pod-manifest-path": Flag("pod_manifest_path", _absolute),
    "resolv-conf": Flag("resolv_conf", _absolute),
    "root-dir": Flag("root_dir", _absolute),
    "shutdown-grace-period": Flag("shutdown_grace", duration),
    "shutdown-grace-period-critical-pods": Flag("shutdown_grace_critical", duration),
}


def read(arguments: Iterable[str]) -> dict[str, Any]:
    """Fields of NodeConfig. Raises BadFlag."""
    found = read_flags(FLAGS, arguments)
    high, low = found.get("image_gc_high", 85), found.get("image_gc_low", 80)
    if low > high:
        raise BadFlag(f"image-gc-low-threshold={low}: must not be above the high one, {high}")
    if found.get("shutdown_grace_critical", 0.0) > found.get("shutdown_grace", 0.0):
        name = "shutdown-grace-period-critical-pods"
        raise BadFlag(f"{name}: must not be longer than shutdown-grace-period")
    return found
