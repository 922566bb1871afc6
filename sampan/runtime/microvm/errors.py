"""What can go wrong below the kind, before it becomes one of the sandbox contract's errors.

MicroVMError(SandboxError)
├── MissingPiece    no QEMU, kernel or agent: `install` is the command that brings it
├── BadArtifact     a kernel, image or template is not what it should be: `path` names it
├── VMMError        the virtual machine monitor refused something, or has ended
└── ChannelLost     the guest no longer answers, or answers something else
"""

from __future__ import annotations

from pathlib import Path

from sampan.runtime.sandbox import SandboxError


class MicroVMError(SandboxError):
    pass


class MissingPiece(MicroVMError):
    def __init__(self, why: str, install: str = "") -> None:
        super().__init__(why)
        self.install = install

    def remedied(self) -> str:
        """With what brings it, for who is told nothing else."""
        return f"{self}; to have it: {self.install}" if self.install else str(self)


class BadArtifact(MicroVMError):
    def __init__(self, path: Path | str, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path


class VMMError(MicroVMError):
    pass


class ChannelLost(MicroVMError):
    pass
