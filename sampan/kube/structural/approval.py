"""Groups under k8s.io and kubernetes.io belong to the community: a definition there names its approval (KEP-1111)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from sampan.kube import errors
from sampan.kube.errors import Cause

ANNOTATION: Final = "api-approved.kubernetes.io"
_SEE: Final = "see https://github.com/kubernetes/enhancements/pull/1111"


def is_protected(group: str) -> bool:
    return f".{group}".endswith((".k8s.io", ".kubernetes.io"))


def state(crd: dict[str, Any]) -> tuple[str, str, str]:
    """(condition status, reason, message) for a protected group."""
    text = ((crd.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION) or ""
    start = f'protected groups must have approval annotation "{ANNOTATION}"'
    if not text:
        return "False", "MissingAnnotation", f"{start}, {_SEE}"
    if text.startswith("unapproved"):
        return "False", "UnapprovedAnnotation", f"not approved: {errors.quote(text)}"
    try:
        url = urlsplit(text)
    except ValueError:
        url = urlsplit("")
    if url.scheme and url.netloc:
        return "True", "ApprovedAnnotation", f"approved in {text}"
    words = f'with either a URL or a reason starting with "unapproved", {_SEE}'
    return "False", "InvalidAnnotation", f"{start} {words}"


def validate(new: dict[str, Any], old: dict[str, Any] | None, causes: list[Cause]) -> None:
    """What was accepted once may stay as it is."""
    if not is_protected((new.get("spec") or {}).get("group") or ""):
        return
    _, reason, message = state(new)
    if old is not None and state(old)[1] == reason:
        return
    path = f"metadata.annotations[{ANNOTATION}]"
    if reason == "MissingAnnotation":
        causes.append(errors.required(path, message))
    elif reason == "InvalidAnnotation":
        text = ((new.get("metadata") or {}).get("annotations") or {}).get(ANNOTATION)
        causes.append(errors.invalid_value(path, text, message))
