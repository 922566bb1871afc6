"""Warnings: what is valid and yet deprecated, without effect, or likely not meant. One sentence each.

They travel in `Warning` headers, and kubectl prints them. Wording follows Kubernetes v1.36 (pkg/api/*/warnings.go and the
strategies of pkg/registry). One table: a kind's function gets the new object and, on an update, the old one. A pod that
exists is not looked at again: its template was, when a person last touched it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sampan.kube.types import GVK
from sampan.kube.warnings import others, pods

Object = dict[str, Any]
Warn = Callable[[Object, Object | None], list[str]]

_TABLE: Final[dict[tuple[str, str], Warn]] = {**pods.WARNINGS, **others.WARNINGS}


def warnings_for(gvk: GVK, new: Object, old: Object | None = None) -> list[str]:
    """What its writer should know about a valid object."""
    warn = _TABLE.get((gvk.group, gvk.kind))
    return warn(new, old) if warn is not None else []
