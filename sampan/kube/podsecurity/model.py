"""What the checks of the Pod Security Standards look at, and how they tell what they find."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sampan.kube.errors import quote

Object = dict[str, Any]

PRIVILEGED, BASELINE, RESTRICTED = "privileged", "baseline", "restricted"
LEVELS = (PRIVILEGED, BASELINE, RESTRICTED)
LATEST = (1, 1 << 30)
_VERSION = re.compile(r"v1\.([0-9]|[1-9][0-9]*)")


class Policy(NamedTuple):
    level: str = PRIVILEGED
    version: tuple[int, int] = LATEST

    def __str__(self) -> str:
        version = "latest" if self.version == LATEST else f"v1.{self.version[1]}"
        return f"{self.level}:{version}"


def parse_version(text: str) -> tuple[int, int]:
    """`latest` or `v1.N`. ValueError otherwise."""
    if text == "latest":
        return LATEST
    found = _VERSION.fullmatch(text)
    if found is None:
        raise ValueError('must be "latest" or "v1.x"')
    return 1, int(found[1])


class Violation(NamedTuple):
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


@dataclass(frozen=True, slots=True)
class Pod:
    annotations: dict[str, str]
    spec: Object
    version: tuple[int, int] = LATEST

    @property
    def containers(self) -> Iterator[Object]:
        for key in ("initContainers", "containers", "ephemeralContainers"):
            yield from self.spec.get(key) or ()

    @property
    def own(self) -> Object:
        """The pod's own security context."""
        return self.spec.get("securityContext") or {}

    @property
    def windows(self) -> bool:
        return (self.spec.get("os") or {}).get("name") == "windows"

    @property
    def user_namespace(self) -> bool:
        return self.spec.get("hostUsers") is False


def context(container: Object) -> Object:
    return container.get("securityContext") or {}


# How a finding is told


def names(items: list[str]) -> str:
    return ", ".join(quote(item) for item in items)


def several(one: str, count: int) -> str:
    return one if count == 1 else f"{one}s"


def bad_containers(bad: list[str]) -> str:
    return f"{several('container', len(bad))} {names(bad)}"


def setters(pod_too: bool, bad: list[str]) -> str:
    """`pod and containers "a", "b"`: who set something explicitly."""
    return " and ".join(["pod"] * pod_too + ([bad_containers(bad)] if bad else []))
