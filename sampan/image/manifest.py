"""Manifests and image configurations: pure reading of OCI image-spec 1.1 and Docker schema 2 documents.

`describe` turns a manifest and its configuration into the `Image` record that the store keeps; `choose` picks one entry
of a multi-platform index. WebAssembly comes in two forms: an artifact whose configuration is `application/vnd.wasm.config.*`
and whose layers are modules (CNCF "Wasm OCI artifact layout"), and an ordinary image with os `wasip1`/`wasi`.
"""

from __future__ import annotations

import hashlib
import json
import platform as host
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sampan.image.errors import BadImage
from sampan.image.reference import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
WASM_CONFIG_PREFIX = "application/vnd.wasm.config."
WASM_LAYERS = frozenset(
    {
        "application/wasm",
        "application/vnd.wasm.content.layer.v1+wasm",
        "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
    }
)
# What is in a layer is seen by its first bytes; the type says that it is a tar archive that we can read (not encrypted, say).
TAR_LAYERS = re.compile(
    r"application/vnd\.oci\.image\.layer\.(?:nondistributable\.)?v1\.tar(?:\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(?:foreign\.)?diff\.tar(?:[.+](?:gzip|zstd))?"
)
WASM_SYSTEMS = ("wasip1", "wasip2", "wasi")
WASM_ARCHITECTURES = ("wasm", "wasm32", "wasm64")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
MAX_LAYERS = 512


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Any) -> Descriptor:
        if not isinstance(data, dict):
            raise BadImage("a descriptor is not an object")
        digest, size = data.get("digest"), data.get("size")
        if not isinstance(digest, str) or not is_digest(digest):
            raise BadImage(f"invalid digest {digest!r} in a descriptor")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BadImage(f"invalid size {size!r} of {digest}")
        annotations, platform = data.get("annotations") or {}, data.get("platform") or {}
        if not isinstance(annotations, dict) or not isinstance(platform, dict):
            raise BadImage(f"invalid annotations or platform of {digest}")
        return cls(str(data.get("mediaType") or ""), digest, size, annotations, platform)

    @classmethod
    def of(cls, media_type: str, data: bytes) -> Descriptor:
        return cls(media_type, "sha256:" + hashlib.sha256(data).hexdigest(), len(data))

    def json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.annotations:
            shown["annotations"] = dict(self.annotations)
        if self.platform:
            shown["platform"] = dict(self.platform)
        return shown


@dataclass(frozen=True, slots=True)
class Image:
    """What the store knows of one image. `tags` and `digests` are the names it has there now."""

    id: str
    manifest: str  # digest of the manifest
    size: int  # bytes of configuration and layers, as transferred
    os: str
    architecture: str
    variant: str
    created: str
    layers: tuple[str, ...]  # blob digests, lowest first
    diff_ids: tuple[str, ...]  # digests of the uncompressed layers; empty for a wasm artifact
    wasm: bool  # a wasm artifact: the layers are the modules
    config: dict[str, Any]
    labels: dict[str, str]
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    pinned: bool = (
        False  # the embedded registry has a tag for it: garbage collection leaves it alone
    )

    @property
    def platform(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def read_json(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadImage(f"{what} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadImage(f"{what} is not a JSON object")
    return document


def media_type_of(document: Mapping[str, Any], declared: str = "") -> str:
    """The document's own word, else the header's, else what its shape says."""
    own = document.get("mediaType") or declared.partition(";")[0].strip()
    if own in INDEXES or own in MANIFESTS:
        return str(own)
    if isinstance(document.get("manifests"), list):
        return OCI_INDEX
    if document.get("schemaVersion") == 1:
        raise BadImage("Docker image format v1 is no longer supported; push the image again")
    if isinstance(document.get("config"), dict):
        return OCI_MANIFEST
    raise BadImage(f"not an image manifest: media type {own or 'unknown'!r}")


def read_layers(manifest: Mapping[str, Any]) -> tuple[Descriptor, list[Descriptor]]:
    """Descriptors of the configuration and of the layers, lowest first, of an image that could be unpacked. BadImage."""
    config = Descriptor.read(manifest.get("config"))
    entries = manifest.get("layers")
    if not isinstance(entries, list):
        raise BadImage("the manifest has no list of layers")
    if len(entries) > MAX_LAYERS:
        raise BadImage(f"the image has {len(entries)} layers; at most {MAX_LAYERS} are taken")
    layers = [Descriptor.read(layer) for layer in entries]
    if not is_wasm_artifact(config, layers):
        for layer in layers:
            if TAR_LAYERS.fullmatch(layer.media_type) is None:
                raise BadImage(f"layer {layer.digest} has unknown media type {layer.media_type!r}")
    return config, layers


def is_wasm_artifact(config: Descriptor, layers: Sequence[Descriptor]) -> bool:
    return config.media_type.startswith(WASM_CONFIG_PREFIX) or (
        bool(layers) and all(layer.media_type in WASM_LAYERS for layer in layers)
    )


def check_platform(config: Mapping[str, Any], platforms: Sequence[str]) -> None:
    """Raises BadImage when the image's configuration names a platform that is none of `platforms`.

    An index is chosen from (`choose`); this is for the image that comes alone. One that names no platform is believed.
    """
    system, machine = config.get("os"), config.get("architecture")
    if not system or not machine:
        return
    offer = Descriptor(OCI_MANIFEST, "", 0, platform={"os": system, "architecture": machine})
    choose([offer], platforms)


def default_platforms(*, prefer_wasm: bool = False) -> tuple[str, ...]:
    """What this machine can run, best first. Without root only wasm runs: `prefer_wasm`."""
    machine = MACHINES.get(host.machine(), host.machine())
    wasm = tuple(f"{system}/wasm" for system in WASM_SYSTEMS)
    return (*wasm, f"linux/{machine}") if prefer_wasm else (f"linux/{machine}", *wasm)


def choose(entries: Sequence[Descriptor], platforms: Sequence[str]) -> Descriptor:
    """The entry for the first platform in `platforms` that the index has."""
    images = [entry for entry in entries if entry.media_type in MANIFESTS | INDEXES]
    for wanted in platforms:
        system, _, architecture = wanted.partition("/")
        for entry in images:
            entry_os, entry_arch = entry.platform.get("os"), entry.platform.get("architecture")
            if entry_os == system and (
                entry_arch == architecture
                or (system in WASM_SYSTEMS and entry_arch in WASM_ARCHITECTURES)
            ):
                return entry
    if len(images) == 1 and not images[0].platform:
        return images[0]
    offered = sorted(
        f"{entry.platform.get('os')}/{entry.platform.get('architecture')}" for entry in images
    )
    raise BadImage(
        f"no match for platform in manifest: wanted one of {', '.join(platforms)}; "
        f"the image has {', '.join(offered) or 'none'}"
    )


def _strings(value: Any, what: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise BadImage(f"{what} of the image configuration is not a map of strings")
    return value


def _check_config(config: dict[str, Any]) -> None:
    """The fields that a runtime acts on have the types that it relies on."""
    for name in ("Entrypoint", "Cmd", "Env"):
        value = config.get(name)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            raise BadImage(f"{name} of the image configuration is not a list of strings")
    for name in ("User", "WorkingDir", "StopSignal"):
        if not isinstance(config.get(name, "") or "", str):
            raise BadImage(f"{name} of the image configuration is not a string")
    for name in ("ExposedPorts", "Volumes"):
        if not isinstance(config.get(name) or {}, dict):
            raise BadImage(f"{name} of the image configuration is not a map")


def describe(manifest_digest: str, manifest: Mapping[str, Any], config_blob: bytes) -> Image:
    """The record of an image. Raises BadImage naming the field that is wrong."""
    config_at, layers = read_layers(manifest)
    document = read_json(config_blob, "the image configuration")
    is_artifact = is_wasm_artifact(config_at, layers)
    created = document.get("created")
    common: dict[str, Any] = {
        "manifest": manifest_digest,
        "size": config_at.size + sum(layer.size for layer in layers),
        "variant": str(document.get("variant") or ""),
        "created": created if isinstance(created, str) else "",
        "layers": tuple(layer.digest for layer in layers),
    }
    if is_artifact:
        modules = [layer for layer in layers if layer.media_type in WASM_LAYERS]
        if not modules:
            raise BadImage("a wasm artifact without a layer of type application/wasm")
        common["layers"] = tuple(layer.digest for layer in modules)
        title = modules[0].annotations.get("org.opencontainers.image.title") or "main.wasm"
        config = document.get("config")
        config = dict(config) if isinstance(config, dict) else {}
        config.setdefault("Entrypoint", ["/" + str(title).lstrip("/")])
        _check_config(config)
        return Image(
            id=manifest_digest,
            os=str(document.get("os") or "wasip1"),
            architecture=str(document.get("architecture") or "wasm"),
            diff_ids=(),
            wasm=True,
            config=config,
            labels=_strings(config.get("Labels"), "Labels"),
            **common,
        )
    rootfs = document.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != len(layers):
        raise BadImage(
            f"the image configuration names {len(diff_ids or [])} layers, the manifest {len(layers)}"
        )
    if not all(isinstance(diff, str) and is_digest(diff) for diff in diff_ids):
        raise BadImage("rootfs.diff_ids of the image configuration holds an invalid digest")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise BadImage("`config` of the image configuration is not an object")
    _check_config(config)
    return Image(
        id=config_at.digest,
        os=str(document.get("os") or "linux"),
        architecture=str(document.get("architecture") or ""),
        diff_ids=tuple(diff_ids),
        wasm=False,
        config=config,
        labels=_strings(config.get("Labels"), "Labels"),
        **common,
    )
