"""The kubelet flags that this node knows, `name=value`, as `sampan up --kubelet-arg` takes them (K3s has the same option).

One row a flag: what it sets and how its text is read. What is wrong is a BadFlag that names the flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sampan.kube.quantity import parse
from sampan.node.pressure import parse_thresholds


class BadFlag(ValueError):
    """Not a flag of the node's, or not a value for it."""


class Flag(NamedTuple):
    field: str  # of NodeConfig
    read: Callable[[str], Any]


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


FLAGS: dict[str, Flag] = {
    "container-log-max-files": Flag("container_log_max_files", _count(2)),
    "container-log-max-size": Flag("container_log_max_size", _size),
    "eviction-hard": Flag("eviction_hard", parse_thresholds),
    "image-gc-high-threshold": Flag("image_gc_high", _percent),
    "image-gc-low-threshold": Flag("image_gc_low", _percent),
}


def read(arguments: Iterable[str]) -> dict[str, Any]:
    """Fields of NodeConfig. Raises BadFlag."""
    found: dict[str, Any] = {}
    for argument in arguments:
        name, sign, value = argument.removeprefix("--").partition("=")
        flag = FLAGS.get(name)
        if flag is None or not sign:
            raise BadFlag(f"{argument}: write NAME=VALUE; names: {', '.join(FLAGS)}")
        try:
            found[flag.field] = flag.read(value)
        except ValueError as error:
            raise BadFlag(f"{name}={value}: {error}") from None
    high, low = found.get("image_gc_high", 85), found.get("image_gc_low", 80)
    if low > high:
        raise BadFlag(f"image-gc-low-threshold={low}: must not be above the high one, {high}")
    return found
