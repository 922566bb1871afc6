"""Linux calls that Python 3.11 has no name for, through libc. Each raises OSError as Python's own would."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 32, 4096, 16384, 1 << 18, 1 << 19
MNT_DETACH = 2
PR_SET_NAME, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 15, 24, 38, 4
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = (
    444,
    445,
    446,
)  # the same on every architecture
# The mount calls by descriptor, Linux 5.2, the same on every architecture.
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 428, 429, 430, 431, 432
OPEN_TREE_CLONE, AT_RECURSIVE, AT_FDCWD, MOVE_MOUNT_F_EMPTY_PATH = 1, 0x8000, -100, 4
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE, CLOEXEC = 1, 6, 1
CLONE3, CLONE_INTO_CGROUP = 435, 1 << 33
CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID, PR_GET_TID_ADDRESS = 0x01000000, 0x00200000, 40
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
SECCOMP = {"x86_64": 317, "aarch64": 277}
CAPSET = {"x86_64": 126, "aarch64": 91}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_locked = ctypes.PyDLL(None, use_errno=True)
_locked.syscall.restype = ctypes.c_long
_machine = os.uname().machine


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(what: str, number: int, *arguments: object) -> int:
    padded = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *padded), what)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def setns(namespace: str | int, flags: int) -> None:
    """Join a namespace, given by path or by descriptor."""
    fd = namespace
    if isinstance(namespace, str):
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(fd, flags), f"join {namespace}")
    finally:
        if isinstance(namespace, str):
            os.close(int(fd))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        flags,
        os.fsencode(data) or None,
    )
    _checked(result, f"mount {source} on {target}")


def detached(kind: str, flags: int, **options: str) -> int:
    """A new file system that is mounted nowhere, as a descriptor of its root. `flags`: MS_RDONLY to MS_NOEXEC."""
    context = syscall("fsopen", FSOPEN, kind.encode(), CLOEXEC)
    try:
        for name, value in options.items():
            setting = (FSCONFIG_SET_STRING, name.encode(), value.encode(), 0)
            syscall(f"{kind} {name}={value}", FSCONFIG, context, *setting)
        syscall(f"make a {kind}", FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        # MOUNT_ATTR_RDONLY, NOSUID, NODEV and NOEXEC are the same bits as MS_ of that name.
        return syscall("fsmount", FSMOUNT, context, CLOEXEC, flags)
    finally:
        os.close(context)


def open_tree(path: str) -> int:
    """A detached copy of the mounts at `path` and below."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC
    return syscall(f"clone {path}", OPEN_TREE, AT_FDCWD, os.fsencode(path), flags)


def move_mount(fd: int, target: str) -> None:
    """Mount what `detached` or `open_tree` made."""
    arguments = (fd, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH)
    syscall(f"mount on {target}", MOVE_MOUNT, *arguments)


def detach(target: str) -> None:
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    syscall("pivot_root", PIVOT_ROOT[_machine], os.fsencode(new), os.fsencode(old))


def prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(option, *padded), f"prctl {option}")


def fork_into(cgroup: int) -> int:
    """os.fork, with the child in a v2 cgroup from the start. Raises OSError where the kernel or a sandbox has no clone3.

    A process that moves itself waits 10 ms, for an RCU grace period. What os.fork and libc's fork do around the call is
    done here: the interpreter's hooks, and the thread id that libc keeps, whose address the kernel knows.
    """
    address = ctypes.c_uint64()
    prctl(PR_GET_TID_ADDRESS, ctypes.addressof(address))
    flags = CLONE_INTO_CGROUP | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID
    # struct clone_args; the zeros are parent_tid before, and stack, stack_size, tls, set_tid, set_tid_size after.
    fields = (flags, 0, address.value, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup)
    arguments = struct.pack("=11Q", *fields)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    call = (ctypes.c_long(CLONE3), ctypes.byref(buffer), ctypes.c_size_t(len(arguments)))
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _locked.syscall(*call)  # keeps the interpreter's lock, as os.fork does
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _checked(pid, "clone3")


def drop_bounding_set() -> None:
    """No capability can come back, whatever is executed. Needs CAP_SETPCAP; without it there is no way to them anyway."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            return  # past the last capability, or not allowed


def clear_capabilities() -> None:
    """Empty the effective, permitted, inheritable and ambient sets of this thread."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    syscall("capset", CAPSET[_machine], header, (ctypes.c_uint32 * 6)())
