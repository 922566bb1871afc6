"""What the agent is asked for: messages made of the sandbox contract's values. Pure, but for the image's own files."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from sampan.image import UnpackedImage, lookup
from sampan.linux import trees
from sampan.linux.cgroups import weight_of
from sampan.runtime.container.capabilities import DEFAULT, NAMES
from sampan.runtime.container.oci import MASKED, READONLY
from sampan.runtime.container.users import Identity, identity
from sampan.runtime.microvm import seccomp
from sampan.runtime.microvm.channel import GuestError
from sampan.runtime.microvm.protocol import Field, Key
from sampan.runtime.microvm.volumes import Volume
from sampan.runtime.sandbox import (
    CannotStart,
    ContainerSpec,
    ExecRequest,
    Resources,
    SandboxSpec,
    SecurityContext,
)

PIDS_OWN, PIDS_POD, PIDS_TARGET, PIDS_AGENT = range(4)
# Files of the pod's in the guest, and where a container sees them unless it mounts its own.
POD_FILES = {
    "/etc/hostname": "/run/v/hostname",
    "/etc/resolv.conf": "/run/v/resolv.conf",
    "/etc/hosts": "/run/v/hosts",
}
OPEN_FILES = 1 << 20
OPEN_FILES_LIMIT: Field = (
    Key.RLIMIT,
    struct.pack("<QQQ", resource.RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
)
STORAGE_LIMIT = "sampan.dev/storage-limit"  # annotation of a container: bytes of its writable layer
BEYOND = 64 << 10  # bytes that it may have more, so that who watches sees a limit exceeded


# UPDATEs of a container: none of its processes runs, or they do again (cgroup-v2.rst).
FREEZE: Field = (Key.CGROUP, "cgroup.freeze=1")
THAW: Field = (Key.CGROUP, "cgroup.freeze=0")


def start(
    pod: SandboxSpec,
    container: ContainerSpec,
    who: Identity,
    slot: int,
    mounts: Sequence[tuple[Volume, str]],
    target: int,
    init: str = "",
    disk: int = 0,
    devices: Sequence[tuple[str, str]] = (),
) -> list[Field]:
    """START. `mounts`: with their places in the container; `target`: channel whose processes are to be seen; `init`: by inits.py;
    `disk`: drive of the writable layer; `devices`: the guest's, with their places.
    """
    security = container.security
    privileged = security.privileged
    masked = (
        security.masked_paths if security.masked_paths is not None else () if privileged else MASKED
    )
    readonly = (
        security.readonly_paths
        if security.readonly_paths is not None
        else ()
        if privileged
        else READONLY
    )
    message: list[Field] = [
        (Key.ID, container.id),
        (Key.SLOT, slot),
        (Key.READONLY, security.readonly_root),
        (Key.STDIN, container.stdin),
        (Key.PRIVILEGED, privileged),
        *pid_mode(pod, container, target),
        *process(container, who, container.args, container.tty),
        *((Key.CGROUP, f"{name}={value}") for name, value in limits(container.resources)),
        *hidden(masked, readonly),
    ]
    if disk:
        message.append((Key.UPPER, disk))
    if (limit := container.annotations.get(STORAGE_LIMIT, "")).isdigit() and int(limit):
        message.append((Key.LIMIT, int(limit) + BEYOND))
    for source, place in devices:
        message.append((Key.MOUNT, mount(source, place, False, device=True)))
    if init:
        message.append((Key.INIT, 1))
        message.append((Key.ENV, "container=oci"))
    own = {os.path.normpath(place) for _, place in mounts}
    for place, source in POD_FILES.items():
        if place not in own:
            message.append((Key.MOUNT, mount(source, place, security.readonly_root)))
    for volume, place in sorted(mounts, key=lambda each: os.path.normpath(each[1]).count("/")):
        message.append((Key.MOUNT, mount(volume.guest, place, volume.readonly)))
    return message


def hidden(masked: Iterable[str], readonly: Iterable[str]) -> list[Field]:
    """Paths that a container does not see, or not to write to; in this order they shape a stage (native/stage.h)."""
    return [
        *((Key.MASKED, path) for path in masked),
        *((Key.READONLY_PATH, path) for path in readonly),
    ]


def mount(source: str, place: str, readonly: bool, *, device: bool = False) -> bytes:
    return bytes([readonly | device << 1]) + os.fsencode(source) + b"\0" + os.fsencode(place)


def pid_mode(pod: SandboxSpec, container: ContainerSpec, target: int) -> list[Field]:
    mode = container.security.pid_mode
    if mode.startswith("target:"):
        return [(Key.PID_MODE, PIDS_TARGET), (Key.TARGET, target)]
    if mode == "pod" and pod.share_processes:
        return [(Key.PID_MODE, PIDS_POD)]
    return [(Key.PID_MODE, PIDS_OWN)]


def process(container: ContainerSpec, who: Identity, args: Sequence[str], tty: bool) -> list[Field]:
    """What a first process and a further one have in common."""
    security = container.security
    granted = capabilities(security)
    environment = dict(container.env)
    environment.setdefault("HOME", who.home)
    if tty:
        environment.setdefault("TERM", "xterm")
    message: list[Field] = [
        (Key.TTY, tty),
        (Key.CWD, container.cwd or "/"),
        (Key.UID, who.uid),
        (Key.GID, who.gid),
        (Key.UMASK, 0o022),
        (Key.CAPS_BOUNDING, mask(granted)),
        # What a plain user holds is only what the program file itself grants.
        (Key.CAPS_PERMITTED, mask(granted) if who.uid == 0 else 0),
        (Key.NO_NEW_PRIVILEGES, security.no_new_privileges),
        (Key.OOM_SCORE, container.resources.oom_score_adj),
        OPEN_FILES_LIMIT,
        *((Key.GROUP, group) for group in who.groups),
        *((Key.ARG, word) for word in args),
        *((Key.ENV, f"{name}={value}") for name, value in environment.items()),
    ]
    if program := seccomp_filter(security, granted):
        message.append((Key.SECCOMP, program))
    return message


def execute(
    container: ContainerSpec, who: Identity, request: ExecRequest, target: int, stdin: bool
) -> list[Field]:
    """EXEC."""
    return [
        (Key.TARGET, target),
        (Key.STDIN, stdin),
        *process(container, who, request.args, request.tty),
    ]


def capabilities(security: SecurityContext) -> tuple[str, ...]:
    """Names with CAP_; a guest has them all to give, whatever the runtime itself holds."""
    added = {name.upper().removeprefix("CAP_") for name in security.add_capabilities}
    dropped = {name.upper().removeprefix("CAP_") for name in security.drop_capabilities}
    wanted = set(NAMES) if security.privileged or "ALL" in added else set(DEFAULT)
    if "ALL" in dropped and not security.privileged:
        wanted = set(NAMES) if "ALL" in added else set()
    wanted |= added
    wanted -= dropped - (added if "ALL" in dropped else set())
    return tuple(f"CAP_{name}" for name in NAMES if name in wanted)


def mask(granted: Sequence[str]) -> int:
    return sum(1 << NAMES.index(name.removeprefix("CAP_")) for name in granted)


def seccomp_filter(security: SecurityContext, granted: tuple[str, ...]) -> bytes:
    name = security.seccomp
    if security.privileged or name == "unconfined":
        return b""
    machine = platform.machine()
    if name.startswith("localhost/"):
        import json

        path = Path(name.removeprefix("localhost/"))
        try:
            return seccomp.compile(json.loads(path.read_bytes()), machine)
        except (OSError, ValueError) as error:
            raise CannotStart(f"seccomp profile {path}: {error}") from error
    return seccomp.default(granted, machine)


def limits(resources: Resources) -> list[tuple[str, str]]:
    """Files of the container's cgroup (version 2) and what to write there."""
    settings = []
    if resources.cpu_shares:
        settings.append(("cpu.weight", str(weight_of(resources.cpu_shares))))
    if resources.cpu_quota or resources.cpu_period:
        quota = str(resources.cpu_quota) if resources.cpu_quota > 0 else "max"
        settings.append(("cpu.max", f"{quota} {resources.cpu_period or 100_000}"))
    if resources.memory:
        settings.append(("memory.max", "max" if resources.memory < 0 else str(resources.memory)))
    if resources.pids:
        settings.append(("pids.max", "max" if resources.pids < 0 else str(resources.pids)))
    for name, value in resources.unified.items():
        # A guest has no swap, and its kernel may be built without; nor may it count memory that nobody limits.
        idle = name.startswith("memory.swap.") or (
            name == "memory.oom.group" and not resources.memory
        )
        if "/" not in name and not idle:
            settings.append((name, value))
    return settings


def who_runs(container: ContainerSpec, image: UnpackedImage) -> Identity:
    """The container's user, by the image's own passwd and group. Raises CannotStart."""
    names = container.directory / "names"
    (names / "etc").mkdir(parents=True, exist_ok=True)
    try:
        for name in ("passwd", "group"):
            if (file := lookup.find(image.layers, f"etc/{name}")) is not None:
                shutil.copyfile(file, names / "etc" / name)
        return identity(names, container.security)
    finally:
        trees.remove_quietly(names)


def explain(error: GuestError, args: tuple[str, ...]) -> str:
    """An engine's words for the two mistakes that users make."""
    if error.where == "execute the program" and args:
        if error.number == errno.ENOENT and "/" not in args[0]:
            return f'exec: "{args[0]}": executable file not found in $PATH'
        return f'exec: "{args[0]}": {os.strerror(error.number).lower()}'
    return str(error)


def shell_code(error: GuestError) -> int:
    """As a shell would end: 127 for what is not there, 126 for what cannot be executed."""
    return 127 if error.number == errno.ENOENT else 126
