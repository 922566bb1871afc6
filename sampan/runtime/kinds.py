"""The table of sandbox kinds. A kind is imported when first asked for, so a node pays only for those it runs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from sampan.runtime.sandbox import SandboxKind, Support

KINDS = {
    "wasm": "sampan.runtime.wasm.kind:WasmKind",
    "container": "sampan.runtime.container.kind:ContainerKind",
    "microvm": "sampan.runtime.microvm.kind:MicroVMKind",
}

# Of kinds whose probe takes long: whether their pieces are here, told at a node's start without importing the kind. The
# probe itself is the first pod's, and `sampan doctor`'s.
GLANCES = {"microvm": "sampan.runtime.microvm.presence:glance"}


def glance(name: str, directory: Path) -> Support | None:
    """None: this kind has nothing quicker than its probe."""
    if name not in GLANCES:
        return None
    module, _, attribute = GLANCES[name].partition(":")
    support: Support = getattr(import_module(module), attribute)(directory)
    return support


def load(
    name: str, directory: Path, run_directory: Path, instance: str, engine: str = ""
) -> SandboxKind:
    """Make the kind `name`; with `engine`, containers under that OCI runtime. Raises KeyError for an unknown name."""
    if engine:
        from sampan.runtime.container.kind import ContainerKind

        return ContainerKind(directory, run_directory, instance, engine)
    module, _, attribute = KINDS[name].partition(":")
    kind: SandboxKind = getattr(import_module(module), attribute)(
        directory, run_directory, instance
    )
    return kind
