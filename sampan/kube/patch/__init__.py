"""The three patches that change an object: JSON patch, JSON merge patch and strategic merge patch.

Each is pure: it returns a new object that shares nothing with its arguments, so that later steps may change the result
in place. Failures are ApiError: 400 when the patch itself is malformed, 422 when it does not apply to this object.
Server-side apply is not a patch of this kind; it lives with managed fields.
"""

from sampan.kube.patch.json_patch import json_patch
from sampan.kube.patch.merge_patch import create_merge_patch, merge_patch
from sampan.kube.patch.strategic import strategic_merge_patch

__all__ = ["create_merge_patch", "json_patch", "merge_patch", "strategic_merge_patch"]
