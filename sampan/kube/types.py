"""Names of kinds and of resources: group, version, and kind (what a manifest says) or resource (what a path says)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


def split_api_version(api_version: str) -> tuple[str, str]:
    """`apps/v1` → ("apps", "v1"); `v1` → ("", "v1")."""
    group, slash, version = api_version.rpartition("/")
    return (group, version) if slash else ("", api_version)


class GVK(NamedTuple):
    group: str
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @classmethod
    def from_object(cls, obj: Mapping[str, Any]) -> GVK:
        """What the object says of itself; what it does not say is the empty string."""
        group, version = split_api_version(str(obj.get("apiVersion") or ""))
        return cls(group, version, str(obj.get("kind") or ""))

    def __str__(self) -> str:
        return f"{self.api_version}, Kind={self.kind}"


class GVR(NamedTuple):
    group: str
    version: str
    resource: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.api_version}, Resource={self.resource}"
