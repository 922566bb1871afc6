"""Which module of an image a command line means, and how it wants to be served: pure decisions over files and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sampan.image import UnpackedImage, lookup
from sampan.runtime.sandbox import CannotStart, ContainerSpec, Resources, SandboxSpec
from sampan.runtime.wasm import launch

HTTP = "sampan.dev/http"
HTTP_PORT = "sampan.dev/http-port"
HTTP_TIMEOUT = "sampan.dev/http-timeout"
HTTP_MAX_BODY = "sampan.dev/http-max-body"
HTTP_CONCURRENCY = "sampan.dev/http-concurrency"
MEMORY = "sampan.dev/wasm-memory"
# annotation: (limit of engine.Limits, what it may be at most)
COUNTS = {
    "sampan.dev/wasm-table-elements": ("table_elements", 4 << 20),
    "sampan.dev/wasm-instances": ("instances", 1024),
    "sampan.dev/wasm-tables": ("tables", 256),
    "sampan.dev/wasm-memories": ("memories", 64),
}
DEFAULT_PORT = 8080
DEFAULT_TIMEOUT = 30.0  # s
DEFAULT_MAX_BODY = 8 << 20  # bytes
MAX_BODY = 256 << 20
DEFAULT_CONCURRENCY = 32
MAX_CONCURRENCY = 128
CPU_PERIOD = 100_000  # µs, the kernel's default

_UNITS = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Service:
    """How a module is served."""

    protocol: str  # launch.WAGI or launch.WASI
    port: int
    timeout: float  # s, for one request
    max_body: int  # bytes, of a request
    concurrency: int  # requests at once


def find(image: UnpackedImage, args: Sequence[str], cwd: str = "/") -> tuple[Path, list[str]]:
    """The module file and its argv. Raises CannotStart naming what was looked for.

    A wasm artifact holds modules and no file system: an argv that names one runs it, any other argv is the entry
    module's arguments. In an ordinary image argv[0] is a path in its file system.
    """
    if args:
        path = lookup.find(image.layers, os.path.join(cwd or "/", args[0]))
        if path is not None:
            return path, list(args)
        for module in image.modules:
            if module.name == os.path.basename(args[0]):
                return module, list(args)
        if image.modules and args[0] in (image.config.get("Entrypoint") or ())[:1]:
            return image.modules[0], list(args)  # an artifact's title; its file is named by digest
    if image.modules and (not args or not (image.layers or args[0].endswith(".wasm"))):
        return image.modules[0], [image.modules[0].name, *args]
    if not args:
        raise CannotStart(f"image {image.reference} names no entry point and holds no module")
    raise CannotStart(f"{args[0]}: no such module in image {image.reference}")


def service(
    image: UnpackedImage, pod: SandboxSpec, container: ContainerSpec, handler: bool
) -> Service | None:
    """How to serve the container over HTTP, None when it is a plain command. Raises CannotStart for a bad value.

    `handler`: the module exports wasi:http/incoming-handler, and is served without being told to.
    """
    annotations, labels = _settings(image, pod, container)
    how = annotations.get(HTTP, labels.get(HTTP, launch.WASI if handler else ""))
    if how in ("", "none", "off"):
        return None
    if how not in (launch.WAGI, launch.WASI):
        raise CannotStart(f'{HTTP}: "{how}" is not known; "wagi", "wasi" and "none" are')
    if handler != (how == launch.WASI):
        what = "does not export wasi:http/incoming-handler" if not handler else "is no CGI program"
        raise CannotStart(f'{HTTP}: "{how}", but the module {what}')
    concurrency = annotations.get(HTTP_CONCURRENCY, labels.get(HTTP_CONCURRENCY, ""))
    return Service(
        protocol=how,
        port=_port(annotations, labels, image, pod, container),
        timeout=_seconds(annotations.get(HTTP_TIMEOUT, labels.get(HTTP_TIMEOUT, ""))),
        max_body=_bytes(
            HTTP_MAX_BODY, annotations.get(HTTP_MAX_BODY, labels.get(HTTP_MAX_BODY, "")), MAX_BODY
        )
        or DEFAULT_MAX_BODY,
        concurrency=_count(HTTP_CONCURRENCY, concurrency, MAX_CONCURRENCY) or DEFAULT_CONCURRENCY,
    )


def cores(resources: Resources, machine: int) -> int:
    """Of the machine's, those that the CPU limit leaves, rounded up."""
    if resources.cpu_quota > 0:
        period = resources.cpu_period or CPU_PERIOD
        return max(1, min(machine, -(-resources.cpu_quota // period)))
    return machine


def processes(service: Service, resources: Resources, machine: int) -> int:
    """How many may serve at once: a core each, of those that its CPU limit leaves it, and a request each."""
    return max(1, min(cores(resources, machine), service.concurrency))


def limits(image: UnpackedImage, pod: SandboxSpec, container: ContainerSpec) -> dict[str, int]:
    """Of one instance of the module, as engine.Limits has them. Raises CannotStart for a bad value."""
    annotations, labels = _settings(image, pod, container)
    most = container.resources.memory or 0
    asked = _bytes(MEMORY, annotations.get(MEMORY, labels.get(MEMORY, "")), 4 << 30)
    memory = min(filter(None, (most, asked)), default=launch.NO_LIMIT)
    found = {"memory": memory}
    for name, (limit, highest) in COUNTS.items():
        text = annotations.get(name, labels.get(name, ""))
        found[limit] = _count(name, text, highest) or launch.NO_LIMIT
    return found


def _settings(
    image: UnpackedImage, pod: SandboxSpec, container: ContainerSpec
) -> tuple[dict[str, str], Mapping[str, str]]:
    """(annotations, labels of the image)"""
    return {**pod.annotations, **container.annotations}, image.config.get("Labels") or {}


def _count(name: str, text: str, highest: int) -> int:
    """0 when it is not given."""
    if text and not (text.isdigit() and 0 < int(text) <= highest):
        raise CannotStart(f'{name}: "{text}" is not a number from 1 to {highest}')
    return int(text or 0)


def _port(
    annotations: Mapping[str, str],
    labels: Mapping[str, str],
    image: UnpackedImage,
    pod: SandboxSpec,
    container: ContainerSpec,
) -> int:
    """Annotation, label, $PORT, the image's EXPOSE, the pod's first port, 8080."""
    exposed = [name.partition("/")[0] for name in image.config.get("ExposedPorts") or {}]
    candidates = (
        (HTTP_PORT, annotations.get(HTTP_PORT, labels.get(HTTP_PORT, ""))),
        ("PORT", container.env.get("PORT", "")),
        ("ExposedPorts", exposed[0] if exposed else ""),
        ("ports", str(pod.ports[0].container_port) if pod.ports else ""),
    )
    for name, text in candidates:
        if text:
            if not text.isdigit() or not 0 < int(text) < 65536:
                raise CannotStart(f'{name}: "{text}" is not a port number')
            return int(text)
    return DEFAULT_PORT


def _seconds(text: str) -> float:
    if not text:
        return DEFAULT_TIMEOUT
    for suffix, factor in _SECONDS.items():  # "ms" comes before "s" and "m"
        if text.endswith(suffix) and _decimal(text[: -len(suffix)]):
            return max(0.001, float(text[: -len(suffix)]) * factor)
    if _decimal(text):
        return max(0.001, float(text))
    raise CannotStart(f'{HTTP_TIMEOUT}: "{text}" is not a duration such as 500ms, 30s or 2m')


def _bytes(name: str, text: str, most: int) -> int:
    """0 when it is not given."""
    if not text:
        return 0
    digits = text.rstrip("kKMGi")
    if digits.isdigit() and int(digits) and text[len(digits) :] in _UNITS:
        return min(int(digits) * _UNITS[text[len(digits) :]], most)
    raise CannotStart(f'{name}: "{text}" is not a number of bytes such as 65536, 64Ki or 8Mi')


def _decimal(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
