"""How a worker locks itself in before the first guest instruction.

The guest is already confined by WebAssembly; this is the second wall, for the day when the first one has a hole. In
order: pod's cgroups and network namespace, an own mount namespace whose root holds only the image's files and the pod's
volumes, an unprivileged uid that no other pod has, no capabilities, no new privileges, Landlock, seccomp. Without root
the first steps fall away and Landlock limits the file system instead.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

from sampan.runtime.wasm import linux

# include/uapi/linux/landlock.h
_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1, 2, 4, 8
_FS_READ = _FS_READ_FILE | _FS_READ_DIR
_FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by ABI
_NET_BIND_CONNECT = 0b11
_SCOPE_SOCKETS_AND_SIGNALS = 0b11
_RULE_PATH_BENEATH = 1
SCRATCH_SIZE = "128m"


def join_cgroups(directories: list[str]) -> None:
    for directory in directories:
        fd = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def limit() -> None:
    """Limits that a guest can meet only through a bug. The address space is free: wasm reserves 4 GiB a memory."""
    for what, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 4096)):
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(what, (value, value))


def enter_root(
    base: str, layers: list[str], mounts: list[tuple[str, str, bool]], owner: int, scratch: bool
) -> None:
    """Make the pod's file tree the root of a new mount namespace; the host's is gone on return.

    With `scratch` the working directory is then a small tmpfs of `owner`, outside of that tree: no path leads to it.

    The image's layers are an overlay below a tmpfs that holds nothing but mount points; the root is read-only, volumes
    are mounted where the pod wants them. Targets are resolved after the pivot, so that a symbolic link in the image
    cannot lead a mount point out to the host.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    safe = linux.MS_NOSUID | linux.MS_NODEV
    place = _scratch(base, owner) if scratch else -1
    linux.mount("tmpfs", base, "tmpfs", safe | linux.MS_NOEXEC, "size=1m,mode=0755")
    root = f"{base}/root"
    for name in ("upper", "work", "root"):
        os.mkdir(f"{base}/{name}", 0o755)
    if layers:
        lower = ":".join(_overlay_path(layer) for layer in reversed(layers))
        options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work"
        linux.mount("overlay", root, "overlay", safe, options)
    else:
        linux.mount(root, root, "", linux.MS_BIND)
    host = f".{os.urandom(12).hex()}"  # a name that no image can hold a link to
    os.mkdir(f"{root}/{host}", 0o700)
    linux.pivot_root(root, f"{root}/{host}")
    os.chdir("/")
    for source, target, readonly in sorted(mounts, key=lambda item: item[1]):
        _mount_volume(f"/{host}{source}", target, readonly)
    linux.detach(f"/{host}")
    os.rmdir(f"/{host}")
    linux.mount("", "/", "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | safe)
    if place >= 0:
        os.fchdir(place)
        os.close(place)


def _scratch(base: str, owner: int) -> int:
    """A tmpfs that is mounted nowhere, held by the descriptor alone."""
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount(
        "tmpfs", base, "tmpfs", flags, f"size={SCRATCH_SIZE},mode=0700,uid={owner},gid={owner}"
    )
    try:
        return os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        linux.detach(base)


def _overlay_path(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount_volume(source: str, target: str, readonly: bool) -> None:
    target = os.path.realpath(
        "/" + target
    )  # a link may dangle; its target is then made, in this tree
    if os.path.isdir(source):
        os.makedirs(target, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o644))
    linux.mount(source, target, "", linux.MS_BIND | linux.MS_REC)
    if readonly:
        flags = (
            linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
        )
        linux.mount("", target, "", flags)


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Give up root for good. A `uid` of 0 stays who it is, and only gives up what capabilities it has."""
    if uid:
        linux.drop_bounding_set()
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    linux.clear_capabilities()


def no_new_privileges() -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


def landlock(paths: list[tuple[str, bool]], *, network: bool) -> bool:
    """Leave only the trees `(path, readonly)`; without `network`, no TCP bind or connect either. False: no Landlock."""
    try:
        abi = linux.syscall("landlock", linux.LANDLOCK_CREATE, 0, 0, 1)
    except OSError:
        return False
    handled = _FS_ALL[max(known for known in _FS_ALL if known <= abi)]
    attribute = struct.pack("=Q", handled)
    if abi >= 4:
        attribute += struct.pack("=Q", 0 if network else _NET_BIND_CONNECT)
    if abi >= 6:
        attribute += struct.pack("=Q", _SCOPE_SOCKETS_AND_SIGNALS)
    buffer = ctypes.create_string_buffer(attribute, len(attribute))
    ruleset = linux.syscall(
        "landlock", linux.LANDLOCK_CREATE, ctypes.byref(buffer), len(attribute), 0
    )
    try:
        for path, readonly in paths:
            _allow(ruleset, path, _FS_READ if readonly else handled & ~_FS_EXECUTE)
        linux.syscall("landlock", linux.LANDLOCK_RESTRICT, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: str, access: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, fd), 12)
        linux.syscall(
            "landlock", linux.LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0
        )
    finally:
        os.close(fd)
