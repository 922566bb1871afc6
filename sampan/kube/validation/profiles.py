"""Confinement said twice: seccomp and AppArmor profiles in annotations, which fields took over (KEP-135, KEP-24).

An annotation must be well formed, and where the field is there as well both must say the same.
"""

from __future__ import annotations

from typing import Final

from sampan.kube import apparmor
from sampan.kube.errors import forbidden_field, invalid_value
from sampan.kube.validation.mounts import local_path
from sampan.kube.validation.rules import Causes, Object

_SECCOMP_POD: Final = "seccomp.security.alpha.kubernetes.io/pod"
_SECCOMP: Final = "container.seccomp.security.alpha.kubernetes.io/"
_LOCAL: Final = "localhost/"
_CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
# A field's type → the annotations that mean it.
_SECCOMP_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "Unconfined": ("unconfined",),
    "RuntimeDefault": ("runtime/default", "docker/default"),
}
_APPARMOR_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "Unconfined": ("unconfined",),
    "RuntimeDefault": ("runtime/default",),
}


def seccomp_annotations(marks: Object, causes: Causes, path: str) -> None:
    for key, profile in marks.items():
        if key != _SECCOMP_POD and not key.startswith(_SECCOMP):
            continue
        if profile in ("runtime/default", "docker/default", "unconfined"):
            continue
        if profile.startswith(_LOCAL):
            local_path(causes, f"{path}.{key}", profile.removeprefix(_LOCAL))
        else:
            causes.append(
                invalid_value(f"{path}.{key}", profile, "must be a valid seccomp profile")
            )


def agree(marks: Object, spec: Object, causes: Causes, path: str) -> None:
    """Of new pods and of templates: an annotation and its field say the same."""
    outer = spec.get("securityContext") or {}
    place = "securityContext.seccompProfile"
    if (profile := outer.get("seccompProfile")) is not None and _SECCOMP_POD in marks:
        _same(marks[_SECCOMP_POD], profile, _SECCOMP_NAMES, "seccomp", causes, f"{path}.{place}")
    is_windows = (spec.get("os") or {}).get("name") == "windows"
    for field in _CONTAINERS:
        for index, container in enumerate(spec.get(field) or ()):
            where, name = f"{path}.{field}[{index}]", container.get("name") or ""
            context = container.get("securityContext") or {}
            text = marks.get(_SECCOMP + name)
            if text is not None and (profile := context.get("seccompProfile")) is not None:
                _same(text, profile, _SECCOMP_NAMES, "seccomp", causes, f"{where}.{place}")
            text = marks.get(apparmor.PREFIX + name)
            profile = context.get("appArmorProfile") or outer.get("appArmorProfile")
            if text is not None and profile is not None and not is_windows:
                at = f"{where}.securityContext.appArmorProfile"
                _same(text, profile, _APPARMOR_NAMES, "apparmor", causes, at)


def _same(
    text: str,
    profile: Object,
    names: dict[str, tuple[str, ...]],
    what: str,
    causes: Causes,
    path: str,
) -> None:
    kind = profile.get("type")
    if kind == "Localhost":
        if not text.startswith(_LOCAL):
            refused = "type"
        elif text.removeprefix(_LOCAL) != profile.get("localhostProfile"):
            refused = "localhostProfile"
        else:
            return
    elif kind in names and text not in names[kind]:
        refused = "type"
    else:
        return
    said = "type" if refused == "type" else "profile"
    message = f"{what} {said} in annotation and field must match"
    causes.append(forbidden_field(f"{path}.{refused}", message))
