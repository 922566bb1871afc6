"""The configuration file of `sampan runtime`: what a stock kubelet's or crictl's runtime is told. TOML, all of it optional.

    listen = "unix:///run/sampan/cri.sock"
    pod_cidr = "10.42.0.0/16"               # of the built-in bridge; else what a kubelet tells of its Node
    cni_conf_dir = "/etc/cni/net.d"         # plugins configured here are used instead
    insecure_registries = ["registry.lan:5000"]
    kinds = ["container", "wasm"]           # else all that work here

    [oci]                                   # OCI runtimes by RuntimeClass handler, a name or a path
    container = "runc"                      # else crun, or runc where that does not work
    gvisor = "/usr/local/bin/runsc"

A key that is not known is an error, so that a misspelt one is not silently without effect.
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan.cli.config import ConfigError


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a string")
    return value


def texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    return tuple(text(item) for item in value)


def handlers(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be a table of handler = runtime")
    found = {name: text(item) for name, item in value.items()}
    for name, command in found.items():
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if not words:
            raise ValueError(f"{name}: names no runtime")
    return found


# Key of the file → setting of `Config`, and how its value is read.
KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "listen": ("cri_listen", text),
    "pod_cidr": ("cluster_cidr", text),
    "cni_conf_dir": ("cni_conf_dir", lambda value: Path(text(value))),
    "insecure_registries": ("insecure_registries", texts),
    "kinds": ("runtime_kinds", texts),
    "oci": ("oci_runtimes", handlers),
}


def read(path: Path | None) -> dict[str, Any]:
    """Settings for `Config.make`. Raises ConfigError naming file and key."""
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from None
    settings = {}
    for key, value in document.items():
        if key not in KEYS:
            raise ConfigError(f"--config {path}: {key}: unknown; known are {', '.join(KEYS)}")
        setting, reading = KEYS[key]
        try:
            settings[setting] = reading(value)
        except ValueError as error:
            raise ConfigError(f"--config {path}: {key}: {error}") from None
    return settings
