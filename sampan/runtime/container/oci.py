"""config.json of the OCI runtime spec (1.0) for one container: a pure function of what was asked.

https://github.com/opencontainers/runtime-spec/blob/main/config.md
"""

from __future__ import annotations

import json
import os
import resource
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sampan.linux import cgroups
from sampan.runtime.container import capabilities, seccomp
from sampan.runtime.container.users import Identity
from sampan.runtime.container.view import Bind
from sampan.runtime.sandbox import (
    CannotStart,
    ContainerSpec,
    Device,
    IDMap,
    Mount,
    NotSupported,
    Resources,
    SandboxSpec,
)

MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
    "/sys/devices/virtual/powercap", "/sys/firmware",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

OPEN_FILES = 1 << 20  # as Docker's and containerd's units have it

# Paths that the pod's own files take when the container mounts nothing there.
POD_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm")


@dataclass(frozen=True, slots=True)
class Place:
    """What the pod and the host decide for all its containers."""

    network: str | None  # namespace paths; None: the host's
    ipc: str | None
    uts: str | None
    pid: str | None  # "" : a new one
    shm: str
    files: dict[str, Path] = field(default_factory=dict)  # target → source, of POD_FILES
    cgroup: str = ""  # path for the engine to make; "": we made it ourselves
    own_cgroups: bool = False  # it is the root of what the container sees of cgroups (v2)
    cgroup_mounts: tuple[tuple[str, str], ...] = ()  # (source, target) to show v1 hierarchies
    cgroup_skeleton: str = ""  # a directory of the host with a mount point for each of them
    least_oom_score: int = -1000  # cannot be lowered further here
    user: str = ""  # path of the pod's user namespace; "": the host's
    sys: str = ""  # a sysfs of the pod's network, where the container cannot mount one


def configuration(
    sandbox: SandboxSpec, container: ContainerSpec, identity: Identity, place: Place, root: Path
) -> dict[str, Any]:
    """Raises CannotStart for a localhost seccomp profile that cannot be read."""
    security = container.security
    granted = capabilities.granted(
        security.privileged, security.add_capabilities, security.drop_capabilities
    )
    # What a plain user holds is only what the program file itself grants, so no ambient set.
    held = granted if identity.uid == 0 else []
    environment = dict(container.env)
    environment.setdefault("HOME", identity.home)
    if container.tty:
        environment.setdefault("TERM", "xterm")
    linux: dict[str, Any] = {
        "namespaces": namespaces(place),
        "maskedPaths": paths(security.masked_paths, MASKED, security.privileged),
        "readonlyPaths": paths(security.readonly_paths, READONLY, security.privileged),
        "devices": [device(item) for item in all_devices(container)],
    }
    if profile := seccomp_profile(security.seccomp, security.privileged, granted):
        linux["seccomp"] = profile
    if place.cgroup:
        linux["cgroupsPath"] = place.cgroup
        linux["resources"] = resources(container.resources, container, security.privileged)
    if sandbox.user_namespace is not None:
        users = sandbox.user_namespace
        linux["uidMappings"] = [mapping(users.uids)]
        linux["gidMappings"] = [mapping(users.gids)]
    propagation = {mount.propagation for mount in container.mounts}
    if "rshared" in propagation:
        linux["rootfsPropagation"] = "rshared"
    elif "rslave" in propagation:
        linux["rootfsPropagation"] = "rslave"
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(root), "readonly": security.readonly_root},
        "process": {
            "terminal": container.tty,
            "user": {
                "uid": identity.uid,
                "gid": identity.gid,
                "umask": 0o022,
                "additionalGids": list(identity.groups),
            },
            "args": list(container.args),
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": container.cwd or "/",
            "capabilities": {
                "bounding": granted,
                "permitted": held,
                "effective": held,
                "inheritable": [],
                "ambient": [],
            },
            "noNewPrivileges": security.no_new_privileges,
            "oomScoreAdj": max(place.least_oom_score, container.resources.oom_score_adj),
            # Whatever shell or unit the runtime was started from, and however many that had.
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": open_files(), "hard": open_files()}],
        },
        "mounts": mounts(sandbox, container, place),
        "linux": linux,
    }


def namespaces(place: Place) -> list[dict[str, str]]:
    listed = [{"type": "mount"}]
    if place.user:
        listed.append({"type": "user", "path": place.user})
    for kind, path in (
        ("network", place.network),
        ("ipc", place.ipc),
        ("uts", place.uts),
        ("pid", place.pid),
    ):
        if path:
            listed.append({"type": kind, "path": path})
        elif path == "":
            listed.append({"type": kind})
    if place.own_cgroups:
        listed.append({"type": "cgroup"})
    return listed


def mapping(ids: IDMap) -> dict[str, int]:
    return {"containerID": 0, "hostID": ids.host, "size": ids.length}


def staged(
    configuration: dict[str, Any], place: Path, container: ContainerSpec, users: Path | None
) -> list[Bind]:
    """What has to be shown to the engine in a view, at `place`; the configuration then refers to that.

    With `users`, the pod's user namespace: the root and every source; else volumes that are shared both ways.
    """
    volumes = {item.target: item for item in container.mounts}
    binds = []
    if users is not None:
        binds.append(Bind(Path(configuration["root"]["path"]), "root"))
        configuration["root"]["path"] = str(place / "root")
    for number, mount in enumerate(configuration["mounts"]):
        volume = volumes.get(mount["destination"])
        shared = volume is not None and volume.propagation == "rshared"
        if mount["type"] != "bind" or not (users or shared):
            continue
        maps = users if volume is not None and volume.mapped else None
        binds.append(Bind(Path(mount["source"]), str(number), maps, shared))
        mount["source"] = str(place / str(number))
    return binds


def paths(asked: tuple[str, ...] | None, usual: tuple[str, ...], privileged: bool) -> list[str]:
    if asked is not None:
        return list(asked)
    return [] if privileged else list(usual)


def seccomp_profile(name: str, privileged: bool, granted: list[str]) -> dict[str, Any] | None:
    if privileged or name == "unconfined":
        return None
    if name.startswith("localhost/"):
        path = Path(name.removeprefix("localhost/"))
        try:
            loaded: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise CannotStart(f"seccomp profile {path}: {error}") from error
        return loaded
    return seccomp.profile(granted)


def mounts(sandbox: SandboxSpec, container: ContainerSpec, place: Place) -> list[dict[str, Any]]:
    privileged = container.security.privileged
    listed: list[dict[str, Any]] = [
        special("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        special("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        special(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
        ),
        special("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    ]  # fmt: skip
    mode = "rw" if privileged else "ro"
    if place.sys:
        listed.append(
            special("/sys", "bind", place.sys, "rbind", "nosuid", "noexec", "nodev", "ro")
        )
    elif place.network is None:
        # The host's network is not this mount's to show afresh: the host's own /sys is bound, and nothing mounted in it
        # (cgroups, debugfs), which a read-only bind would leave writable. A user namespace may only bind all of it.
        depth = ("rbind", "rro") if place.user else ("bind", mode)
        listed.append(special("/sys", "bind", "/sys", *depth, "nosuid", "noexec", "nodev"))
    else:
        listed.append(special("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", mode))
    if place.cgroup:
        listed.append(
            special(
                "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", mode
            )
        )
    elif place.cgroup_mounts:
        # A directory with a mount point for each hierarchy: a tmpfs would have to be writable to make them in.
        skeleton = place.cgroup_skeleton
        listed.append(
            special("/sys/fs/cgroup", "bind", skeleton, "bind", "nosuid", "noexec", "nodev", "ro")
        )
        for source, target in place.cgroup_mounts:
            listed.append(
                special(target, "bind", source, "rbind", "nosuid", "noexec", "nodev", mode)
            )
    own = {os.path.normpath(mount.target) for mount in container.mounts}
    for target in POD_FILES:
        if target in own:
            continue
        if target == "/dev/shm":
            listed.append(special(target, "bind", place.shm, "rbind", "rw"))
        elif file := place.files.get(target):
            listed.append(
                special(
                    target,
                    "bind",
                    str(file),
                    "rbind",
                    "ro" if container.security.readonly_root else "rw",
                )
            )
    # A mount below another one comes after it, whatever the order of asking.
    by_depth = sorted(container.mounts, key=lambda item: os.path.normpath(item.target).count("/"))
    listed.extend(volume(mount) for mount in by_depth)
    return listed


def special(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def volume(mount: Mount) -> dict[str, Any]:
    return special(
        mount.target,
        "bind",
        str(mount.source),
        "rbind",
        f"r{mount.propagation.removeprefix('r')}",
        "rro" if mount.recursive_readonly else "ro" if mount.readonly else "rw",
    )


def all_devices(container: ContainerSpec) -> list[Device]:
    if not container.security.privileged:
        return list(container.devices)
    found = {device.target: device for device in container.devices}
    for root, directories, files in os.walk("/dev"):
        directories[:] = [
            name for name in directories if name not in ("pts", "shm", "mqueue", "fd")
        ]
        for name in files:
            path = os.path.join(root, name)
            if not os.path.islink(path) and (os.lstat(path).st_mode & 0o170000) in (
                0o020000,
                0o060000,
            ):
                if path not in ("/dev/console", "/dev/ptmx"):
                    found.setdefault(path, Device(path, path))
    return list(found.values())


def device(item: Device) -> dict[str, Any]:
    """Raises CannotStart when it is not a device."""
    try:
        status = os.stat(item.source)
    except OSError as error:
        raise CannotStart(f"device {item.source}: {error.strerror}") from error
    kind = {0o020000: "c", 0o060000: "b"}.get(status.st_mode & 0o170000)
    if kind is None:
        raise CannotStart(f"{item.source} is not a device")
    return {
        "path": item.target,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": status.st_mode & 0o7777,
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


@cache
def open_files() -> int:
    """As many as a container may have open: CRI does not say. No more than this process may itself, without a privilege."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)


def resources(limits: Resources, container: ContainerSpec, privileged: bool) -> dict[str, Any]:
    """`linux.resources`, for an engine that makes the cgroup itself."""
    cpu = {
        "shares": limits.cpu_shares,
        "quota": limits.cpu_quota,
        "period": limits.cpu_period,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    result: dict[str, Any] = {"cpu": {name: value for name, value in cpu.items() if value}}
    if limits.memory:
        result["memory"] = {"limit": limits.memory}
        if limits.memory_swap:
            result["memory"]["swap"] = limits.memory_swap
    if limits.pids:
        result["pids"] = {"limit": limits.pids}
    if limits.unified:
        result["unified"] = dict(limits.unified)
    if limits.hugepages and cgroups.layout().governs("hugetlb"):
        result["hugepageLimits"] = [
            {"pageSize": size, "limit": limit} for size, limit in limits.hugepages.items()
        ]
    elif any(limits.hugepages.values()):
        raise NotSupported(
            "this host does not count huge pages: it has no cgroup controller hugetlb"
        )
    if privileged:
        result["devices"] = [{"allow": True, "access": "rwm"}]
    else:
        result["devices"] = [{"allow": False, "access": "rwm"}]
        for item in container.devices:
            node = device(item)
            result["devices"].append(
                {
                    "allow": True,
                    "type": node["type"],
                    "major": node["major"],
                    "minor": node["minor"],
                    "access": item.permissions or "rwm",
                }
            )
    return result
