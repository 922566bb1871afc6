"""Errors of the node agent: each carries the reason that `kubectl describe` shows for it.

NodeError
├── SandboxError      the pod's sandbox cannot be made              FailedCreatePodSandBox
├── VolumeError       a volume cannot be made or found              FailedMount
│   └── ClaimError    the claim behind it is not there, or not bound  FailedMount
├── ImageError        the image cannot be had                       ErrImagePull, ErrImageNeverPull, InvalidImageName
├── ContainerError    a container cannot be configured or started   CreateContainerConfigError, RunContainerError, …
└── HookError         a lifecycle hook failed                       FailedPostStartHook, FailedPreStopHook
"""

from __future__ import annotations


class NodeError(Exception):
    """Root. `reason` is a CamelCase word of the API, the text is a sentence for people."""

    reason = "Failed"

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        if reason:
            self.reason = reason


class SandboxError(NodeError):
    reason = "FailedCreatePodSandBox"


class VolumeError(NodeError):
    reason = "FailedMount"


class ClaimError(VolumeError):
    pass


class ImageError(NodeError):
    reason = "ErrImagePull"


class ContainerError(NodeError):
    reason = "CreateContainerError"


class HookError(NodeError):
    reason = "FailedPostStartHook"
