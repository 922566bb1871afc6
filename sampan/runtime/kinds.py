"""The table of sandbox kinds. A kind is imported when first asked for, so a node pays only for those it runs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from sampan.runtime.sandbox import SandboxKind

KINDS = {
    "wasm": "sampan.runtime.wasm.kind:WasmKind",
    "container": "sampan.runtime.container.kind:ContainerKind",
    "microvm": "sampan.runtime.microvm.kind:MicroVMKind",
}


def load(name: str, directory: Path, run_directory: Path, instance: str) -> SandboxKind:
    """Make the kind `name`. Raises KeyError when there is none of that name."""
    module, _, attribute = KINDS[name].partition(":")
    kind: SandboxKind = getattr(import_module(module), attribute)(
        directory, run_directory, instance
    )
    return kind
