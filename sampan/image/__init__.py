"""OCI images: references, registry client, content store, import, unpacking, building. Never runs anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class UnpackedImage:
    """An image ready to run, made by `image.unpack`."""

    id: str  # sha256:… of the config (or of the manifest for a wasm artifact)
    reference: str
    os: str  # linux | wasip1 | wasi …
    architecture: str
    layers: tuple[Path, ...]  # unpacked layer directories, lowest first: overlayfs lower dirs
    modules: tuple[Path, ...]  # wasm module files, entry point first; empty for an ordinary image
    config: dict[
        str, Any
    ]  # `config` of the OCI image configuration: Entrypoint, Cmd, Env, User, Labels, ExposedPorts …
