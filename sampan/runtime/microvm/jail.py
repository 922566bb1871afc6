"""Starting a VMM where it can do nothing but run its guest: an own user, an empty network, a tree of programs only.

As root, in a thread made for it, which takes on what its child shall have and then ends; the kernel keeps namespaces,
root directory and user per thread (credentials(7)), so the runtime itself never changes and nothing is forked twice.

    namespaces   mount, network (empty), IPC, UTS, PID
    root         a tmpfs with /usr and its libraries, read-only, three devices, and nothing of the host's own
    user         one of this machine's alone, no groups but /dev/kvm's, no capability
    seccomp      QEMU's own filter (`-sandbox on`), which forbids spawning and new privileges

Without root only the last remains, and the VMM is the user's own process. The file server of shared directories is started
here too, in a root that holds nothing at all; it gives up what it does not need by itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sampan.linux import mounts
from sampan.runtime import kernel
from sampan.runtime.processes import ended, spawn

CLONE_NEWPID = 0x20000000
FIRST_UID = (
    1_000_000_000  # VMMs' users are this and the next 2²⁸; no account and no other kind has them
)
PROGRAMS = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
FILES = ("/etc/ld.so.cache", "/dev/null", "/dev/urandom")
KVM = "/dev/kvm"
LOCKED = mounts.MS_BIND | mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NOSUID
# setgroups, setresgid, setresuid: the C library's own would change every thread of the process.
CALLS = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
NO_ENVIRONMENT: Mapping[str, str] = {}

_libc = ctypes.CDLL(None, use_errno=True)


def uid_of(name: str) -> int:
    """The VMM's user: made from the machine's random name, so no two share one."""
    return FIRST_UID + int(name[:7], 16)


async def start(
    argv: Sequence[str],
    descriptors: Sequence[int],
    log: int,
    place: Path,
    uid: int,
    inside: Callable[[], None] | None = None,
    *,
    bare: bool = False,
    environment: Mapping[str, str] = NO_ENVIRONMENT,
    copied: bool = False,
    enter: Callable[[], None] | None = None,
    cwd: str = "/",
    stdin: int = -1,
) -> subprocess.Popen[bytes]:
    """Run the VMM as user `uid` in a jail (0: without one). `inside` is called in its network namespace first.

    `place`: an empty directory; its content is only ever seen by the VMM. `bare`: a program that is named by a descriptor
    gets a root without any other, and becomes the user itself; so does one that is `copied`, in no PID namespace of its own:
    with that its copies would end. `enter`: goes into another root than the one of programs, and becomes the user if the
    program does not.
    """

    drops = bool(uid) and not bare and not copied

    def launch() -> subprocess.Popen[bytes]:
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if uid:
            namespaces = (
                kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
            )
            kernel.unshare(namespaces | (0 if copied else CLONE_NEWPID))
            if inside is not None:
                inside()
            if enter is not None:
                enter()
            else:
                if bare:
                    build_bare_root(place)
                else:
                    build_root(place, uid)
                os.chroot(place)
                os.chdir("/")
                if drops:
                    drop_to(uid)
        try:
            return spawn(
                argv,
                env={"PATH": "/usr/bin:/bin", **environment},
                pass_fds=tuple(descriptors),
                stdin=stdin if stdin >= 0 else nothing,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=cwd,
            )
        finally:
            os.close(nothing)
            if drops or enter is not None:
                _libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)

    launching = asyncio.ensure_future(kernel.in_thread(launch))
    try:
        return await asyncio.shield(launching)
    except asyncio.CancelledError:
        # The thread uses the caller's descriptors until it is through, and what it has started is nobody's.
        with suppress(OSError):
            child = await launching
            child.kill()
            await ended(child, spare=True)
        raise


def build_root(place: Path, uid: int, furnish: Callable[[], None] | None = None) -> None:
    """In a mount namespace of the calling thread's own. `furnish` adds to it before it can only be read."""
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("jail", str(place), "tmpfs", mounts.MS_NOSUID, "mode=755,size=64k")
    for name in PROGRAMS:
        source, target = Path(name), Path(f"{place}{name}")
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            target.mkdir()
            mounts.mount(name, str(target), flags=mounts.MS_BIND)
            mounts.mount("", str(target), flags=LOCKED)
    for name in FILES:
        if os.path.exists(name):
            target = Path(f"{place}{name}")
            target.parent.mkdir(exist_ok=True)
            target.touch()
            mounts.mount(name, str(target), flags=mounts.MS_BIND)
            if name.startswith("/etc/"):
                mounts.mount("", str(target), flags=LOCKED)
    give_kvm(place, uid)
    if furnish is not None:
        furnish()
    close_root(place)


def build_bare_root(place: Path) -> None:
    mounts.mount("", "/", flags=mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.mount("jail", str(place), "tmpfs", mounts.MS_NOSUID, "mode=755,size=64k")
    close_root(place)


def close_root(place: Path) -> None:
    """Then nothing can be written."""
    give_proc(place)
    mounts.mount("", str(place), flags=mounts.MS_REMOUNT | mounts.MS_RDONLY | mounts.MS_NOSUID)


def give_proc(place: Path) -> None:
    """/proc for /proc/self/fd, where nothing but the jail's own processes is shown."""
    (place / "proc").mkdir()
    mounts.mount("proc", str(place / "proc"), "proc", 14 | mounts.MS_RDONLY, "hidepid=invisible")


def give_kvm(place: Path, uid: int) -> None:
    """The device as a node of the VMM's own, whomever it belongs to outside; where nodes cannot be made, as it is."""
    if not os.path.exists(KVM):
        return
    target = Path(f"{place}{KVM}")
    try:
        os.mknod(target, stat.S_IFCHR | 0o600, os.stat(KVM).st_rdev)
        os.chown(target, uid, uid)
    except OSError:
        target.touch()
        mounts.mount(KVM, str(target), flags=mounts.MS_BIND)


def drop_to(uid: int) -> None:
    setgroups, setresgid, setresuid = CALLS[platform.machine()]
    groups = [os.stat(KVM).st_gid] if os.path.exists(KVM) else []
    table = (ctypes.c_uint32 * len(groups))(*groups)
    for arguments in (
        (setgroups, len(groups), table),
        (setresgid, uid, uid, uid),
        (setresuid, uid, uid, uid),
    ):
        if _libc.syscall(*arguments):
            number = ctypes.get_errno()
            raise OSError(number, f"leave root: {os.strerror(number)}")


def gain_nothing() -> None:
    """No program that the calling thread becomes has more than it (no_new_privs)."""
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "gain no new privileges")
