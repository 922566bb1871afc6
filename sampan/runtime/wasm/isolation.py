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
import stat
import struct
from functools import cache

from sampan.runtime.wasm import linux

# include/uapi/linux/landlock.h
_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1, 2, 4, 8
_FS_READ = _FS_READ_FILE | _FS_READ_DIR
_FS_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by ABI
_NET_BIND_CONNECT = 0b11
_SCOPE_SOCKETS_AND_SIGNALS = 0b11
_RULE_PATH_BENEATH = 1
SCRATCH_SIZE = "128m"
_SAFE = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def join_cgroups(directories: list[str]) -> None:
    """In v1 through `tasks`: one thread moving itself takes no lock that waits for an RCU grace period (5-10 ms)."""
    for directory in directories:
        try:
            fd = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # v2
            fd = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def limit() -> None:
    """Limits that a guest can meet only through a bug; the zygote sets them, and every worker has them from it.

    The address space is free: wasm reserves 4 GiB a memory. Nothing here executes, so no capability need ever come back.
    """
    for what, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 4096)):
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(what, (value, value))
    if os.geteuid() == 0:
        linux.drop_bounding_set()


def make_vault() -> int:
    """A mount namespace that holds one empty read-only directory, as a descriptor.

    Workers whose pod has no files are all in it, and the others start from it: to join it costs one call, where a copy
    of the host's namespace costs as much as the host has mounts. It is made by a child, as the zygote stays outside.
    """
    made, tell = os.pipe2(os.O_CLOEXEC)
    wait, leave = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(leave)
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
            _pivot(linux.detached("tmpfs", _SAFE | linux.MS_RDONLY, size="4k", mode="0755"))
            os.write(tell, b"\0")
            os.read(wait, 1)
        finally:
            os._exit(0)
    try:
        os.close(tell)
        if not os.read(made, 1):
            raise OSError("no mount namespace can be made")
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (made, wait, leave):
            os.close(fd)
        os.waitpid(pid, 0)


def _pivot(root: int) -> None:
    """Make a detached file system the only one of this namespace, pivot_root(2) "." on "."."""
    linux.move_mount(root, "/")
    os.fchdir(root)
    linux.pivot_root(".", ".")
    linux.detach(".")
    os.chdir("/")


def enter_vault(vault: int, mounts: list[tuple[str, str, bool]]) -> None:
    """Leave the host's file tree for an empty one, with the pod's volumes where the pod wants them."""
    trees = [(linux.open_tree(source), target, readonly) for source, target, readonly in mounts]
    linux.setns(vault, linux.CLONE_NEWNS)
    if not trees:
        return
    linux.unshare(linux.CLONE_NEWNS)
    root = linux.detached("tmpfs", _SAFE, size="1m", mode="0755")
    linux.move_mount(root, "/")
    os.fchdir(root)
    os.chroot(".")  # what is below is the empty vault
    for tree, target, readonly in sorted(trees, key=lambda item: item[1]):
        place = _mount_point(target, stat.S_ISDIR(os.fstat(tree).st_mode))
        linux.move_mount(tree, place)
        linux.mount("", place, "", linux.MS_REC | linux.MS_PRIVATE)
        if readonly:
            _make_readonly(place)
        os.close(tree)
    linux.mount("", "/", "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | _SAFE)
    os.close(root)


def enter_root(base: str, layers: list[str], mounts: list[tuple[str, str, bool]]) -> None:
    """Make an image's file tree the root of a new mount namespace; the host's is gone on return.

    The image's layers are an overlay below a tmpfs that holds nothing but mount points; the root is read-only, volumes
    are mounted where the pod wants them. Targets are resolved after the pivot, so that a symbolic link in the image
    cannot lead a mount point out to the host.
    """
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    safe = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", base, "tmpfs", _SAFE, "size=1m,mode=0755")
    root = f"{base}/root"
    for name in ("upper", "work", "root"):
        os.mkdir(f"{base}/{name}", 0o755)
    lower = ":".join(_overlay_path(layer) for layer in reversed(layers))
    options = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work"
    linux.mount("overlay", root, "overlay", safe, options)
    host = f".{os.urandom(12).hex()}"  # a name that no image can hold a link to
    os.mkdir(f"{root}/{host}", 0o700)
    linux.pivot_root(root, f"{root}/{host}")
    os.chdir("/")
    for source, target, readonly in sorted(mounts, key=lambda item: item[1]):
        place = _mount_point(target, os.path.isdir(f"/{host}{source}"))
        linux.mount(f"/{host}{source}", place, "", linux.MS_BIND | linux.MS_REC)
        if readonly:
            _make_readonly(place)
    linux.detach(f"/{host}")
    os.rmdir(f"/{host}")
    linux.mount("", "/", "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | safe)


def enter_scratch(owner: int) -> None:
    """Work in a small tmpfs of `owner` that is mounted nowhere: no path leads to it."""
    place = linux.detached(
        "tmpfs", _SAFE, size=SCRATCH_SIZE, mode="0700", uid=str(owner), gid=str(owner)
    )
    os.fchdir(place)  # it stays open: to close it would wait for an RCU grace period


def _overlay_path(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount_point(target: str, directory: bool) -> str:
    """Make `target` if it is not there. A link may dangle; its target is then made, in this tree."""
    place = os.path.realpath("/" + target)
    if directory:
        os.makedirs(place, 0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), 0o755, exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o644))
    return place


def _make_readonly(place: str) -> None:
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("", place, "", flags)


def become(uid: int, gid: int, groups: list[int]) -> None:
    """Give up root for good. A `uid` of 0 stays who it is, and only gives up what capabilities it has."""
    if uid:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    linux.clear_capabilities()


def no_new_privileges() -> None:
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)


@cache
def landlock_version() -> int:
    """The kernel's Landlock ABI, 0 without it."""
    try:
        return linux.syscall("landlock", linux.LANDLOCK_CREATE, 0, 0, 1)
    except OSError:
        return 0


def landlock(paths: list[tuple[str, bool]], *, network: bool) -> bool:
    """Leave only the trees `(path, readonly)`; without `network`, no TCP bind or connect either. False: no Landlock."""
    abi = landlock_version()
    if not abi:
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
