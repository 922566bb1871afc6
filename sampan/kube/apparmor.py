"""AppArmor profiles by annotation, as they were before Kubernetes v1.30, and the field that took over (KEP-24).

A new pod's annotation becomes the field of its container, so that nothing below the API server knows annotations.
"""

from __future__ import annotations

from typing import Any, Final

Object = dict[str, Any]

PREFIX: Final = "container.apparmor.security.beta.kubernetes.io/"
_LOCAL: Final = "localhost/"
_LONGEST: Final = 4095


def deprecated(path: str) -> str:
    return f'{path}: deprecated since v1.30; use the "appArmorProfile" field instead'


def profile(annotation: str) -> Object | None:
    """The field that says the same; None for what means nothing."""
    if annotation == "unconfined":
        return {"type": "Unconfined"}
    if annotation == "runtime/default":
        return {"type": "RuntimeDefault"}
    name = annotation.removeprefix(_LOCAL)
    if name == annotation or not name:
        return None
    return {"type": "Localhost", "localhostProfile": name}


def take_over(pod: Object) -> list[str]:
    """Give the containers of a new pod the profiles that its annotations name; warnings about them."""
    annotations = pod["metadata"].get("annotations") or {}
    spec = pod.get("spec") or {}
    if not any(key.startswith(PREFIX) for key in annotations):
        return []
    if (spec.get("os") or {}).get("name") == "windows":
        return []
    outer, found = (spec.get("securityContext") or {}).get("appArmorProfile"), []
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            key = PREFIX + (container.get("name") or "")
            context = container.get("securityContext") or {}
            if key not in annotations or context.get("appArmorProfile") is not None:
                continue
            wanted = profile(annotations[key])
            name = (wanted or {}).get("localhostProfile", "")
            if name != name.strip() or len(name) > _LONGEST:
                wanted = None
            if wanted is not None and wanted == outer:
                continue
            if wanted is not None:
                container["securityContext"] = {**context, "appArmorProfile": wanted}
            found.append(deprecated(f"metadata.annotations[{key}]"))
    return found
