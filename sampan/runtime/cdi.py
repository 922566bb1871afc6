"""Container Device Interface: what a device's vendor has written down about it becomes part of a container's configuration.

    config.CDI_devices, or annotations cdi.k8s.io/*  ──→  specs in /etc/cdi, /var/run/cdi  ──→  devices, mounts, env, groups

A spec file names a kind, `vendor.com/class`, and its devices; a container asks for `vendor.com/class=name`. The later directory
wins over the earlier; two files of one directory that name the same device leave it unresolvable. Edits that would have the
engine run programs of the host, and those that are not known here, are refused: half an edited container is worse than none.
CDI specification 1.0 (github.com/cncf-tags/container-device-interface, SPEC.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
ANNOTATION = "cdi.k8s.io/"
LARGEST = 4 << 20  # bytes of one file
_KIND = re.compile(r"[A-Za-z]([\w.-]*[A-Za-z0-9])?/[A-Za-z]([\w-]*[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9]([\w.:-]*[A-Za-z0-9])?")
EDITS = {"env", "deviceNodes", "mounts", "additionalGids"}

Edits = Mapping[str, Any]


class BadDevice(ValueError):
    """A device that nobody described, or one whose description cannot be followed. Worded for who asked."""


def inject(config: Any, directories: Sequence[Path] = DIRECTORIES) -> None:
    """Add to a ContainerConfig what its CDI devices need. Raises BadDevice, with nothing changed."""
    names = list(dict.fromkeys(asked(config)))
    if not names:
        return
    known, problems = read(directories)
    missing = [name for name in names if name not in known]
    if missing:
        why = f" ({'; '.join(problems)})" if problems else ""
        raise BadDevice(
            f"CDI device injection failed: unresolvable CDI devices {', '.join(missing)}{why}"
        )
    edits: list[Edits] = []
    for name in names:
        for part in known[name]:
            if part and part not in edits:  # what all devices of a kind share comes once
                edits.append(part)
    changed = type(config)()
    changed.CopyFrom(config)
    for part in edits:
        try:
            _apply(part, changed)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = error if isinstance(error, BadDevice) else repr(error)
            text = f"CDI device injection failed: {', '.join(names)}: {what}"
            raise BadDevice(text) from None
    config.CopyFrom(changed)


def asked(config: Any) -> Iterator[str]:
    """Full names of devices: by CRI's field, and by annotation, as before Kubernetes 1.28."""
    yield from (device.name for device in config.CDI_devices)
    for key in sorted(config.annotations):
        if key.startswith(ANNOTATION):
            yield from (name.strip() for name in config.annotations[key].split(","))


def read(directories: Iterable[Path]) -> tuple[dict[str, tuple[Edits, Edits]], list[str]]:
    """(edits of its kind, own edits) by full name of every device, and what is wrong with files and names."""
    found: dict[str, tuple[Edits, Edits]] = {}
    problems = []
    for directory in directories:
        here: dict[str, tuple[Edits, Edits]] = {}
        twice = set()
        for path in sorted(directory.glob("*")) if directory.is_dir() else ():
            if path.suffix not in (".json", ".yaml", ".yml"):
                continue
            try:
                for name, edits in _devices(path):
                    if name in here:
                        twice.add(name)
                    here[name] = edits
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                problems.append(f"{path}: {error}")
        for name in twice:
            del here[name]
            found.pop(name, None)
            problems.append(f"{name}: in more than one file of {directory}")
        found |= here
    return found, problems


def _devices(path: Path) -> Iterator[tuple[str, tuple[Edits, Edits]]]:
    if path.stat().st_size > LARGEST:
        raise ValueError("too large")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        document = json.loads(text)
    else:
        import yaml

        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    kind = str(document["kind"])
    if not _KIND.fullmatch(kind) or not str(document["cdiVersion"]):
        raise ValueError(f"invalid kind {kind!r}")
    shared = document.get("containerEdits") or {}
    for device in document["devices"]:
        name = str(device["name"])
        if not _DEVICE.fullmatch(name):
            raise ValueError(f"invalid device name {name!r}")
        yield f"{kind}={name}", (shared, device.get("containerEdits") or {})


def _apply(edits: Edits, config: Any) -> None:
    if unknown := {key for key, value in edits.items() if value} - EDITS:
        raise BadDevice(f"{', '.join(sorted(unknown))}: not supported")
    for line in edits.get("env") or ():
        key, equals, value = str(line).partition("=")
        if not key or not equals:
            raise BadDevice(f"env {line!r} is not NAME=VALUE")
        config.envs.add(key=key, value=value)
    for node in edits.get("deviceNodes") or ():
        path = _absolute(node["path"])
        config.devices.add(
            container_path=path,
            host_path=_absolute(node.get("hostPath") or path),
            permissions=str(node.get("permissions") or "rwm"),
        )
    for mount in edits.get("mounts") or ():
        config.mounts.add(
            container_path=_absolute(mount["containerPath"]),
            host_path=_absolute(mount["hostPath"]),
            readonly="ro" in (mount.get("options") or ()),
        )
    for gid in edits.get("additionalGids") or ():
        config.linux.security_context.supplemental_groups.append(int(gid))


def _absolute(path: Any) -> str:
    text = str(path)
    if not text.startswith("/") or ".." in text.split("/"):
        raise BadDevice(f"{text!r} is not an absolute path")
    return text
