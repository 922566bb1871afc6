"""Stands in for Firecracker's jailer, doing in its order what its documentation says (docs/jailer.md, "Jailer Operation").

    jailer DEFINITIONS --id ID --exec-file FILE --uid N --gid N [--chroot-base-dir DIR] [--netns FILE] -- …

Every step is the real one but the last: a chroot with a program and nothing else runs no Python, so this process goes on as
the stand-in of the VMM instead of becoming the copied file.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import resource
import shutil
import stat
import sys
from pathlib import Path

import stand_in_vmm

CLONE_NEWNS, MS_SLAVE, MS_REC, MS_BIND, MNT_DETACH = 0x20000, 1 << 19, 16384, 4096, 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
libc = ctypes.CDLL(None, use_errno=True)


def done(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def options(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="jailer", allow_abbrev=False)
    for name in ("--id", "--exec-file"):
        parser.add_argument(name, required=True)
    for name in ("--uid", "--gid"):
        parser.add_argument(name, required=True, type=int)
    parser.add_argument("--chroot-base-dir", default="/srv/jailer")
    parser.add_argument("--netns")
    parser.add_argument("--parent-cgroup")
    parser.add_argument("--cgroup-version", choices=("1", "2"), default="1")
    parser.add_argument("--cgroup", action="append")
    parser.add_argument("--resource-limit", action="append")
    parser.add_argument("--new-pid-ns", action="store_true")
    return parser.parse_args(argv)


def device(path: Path, number: int, wanted: argparse.Namespace) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR | 0o600, number)
    os.chown(path, wanted.uid, wanted.gid)


def main() -> None:
    definitions = Path(sys.argv[1]).read_bytes()
    at = sys.argv.index("--")
    wanted, further = options(sys.argv[2:at]), sys.argv[at + 1 :]
    program = Path(wanted.exec_file).resolve(strict=True)
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", wanted.id) or "firecracker" not in program.name:
        sys.exit("jailer: the id or the program's name")
    if further != ["--api-sock", "control"]:
        sys.exit(f"firecracker: {further}")
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2:
            try:
                os.close(descriptor)
            except OSError:
                continue
    os.environ.clear()
    root = Path(wanted.chroot_base_dir).resolve(strict=True) / program.name / wanted.id / "root"
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / program.name)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
    kvm = os.stat("/dev/kvm").st_rdev if os.path.exists("/dev/kvm") else os.makedev(10, 232)
    done(libc.unshare(CLONE_NEWNS))
    done(libc.mount(None, b"/", None, MS_SLAVE | MS_REC, None))
    done(libc.mount(bytes(root), bytes(root), None, MS_BIND | MS_REC, None))
    os.chdir(root)
    os.mkdir("old_root", 0o600)
    done(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"old_root"))
    os.chdir("/")
    done(libc.umount2(b"old_root", MNT_DETACH))
    os.rmdir("old_root")
    os.chroot(".")
    device(Path("/dev/net/tun"), os.makedev(10, 200), wanted)
    device(Path("/dev/kvm"), kvm, wanted)
    os.chown("/", wanted.uid, wanted.gid)
    os.setgroups([])
    os.setresgid(wanted.gid, wanted.gid, wanted.gid)
    os.setresuid(wanted.uid, wanted.uid, wanted.uid)
    stand_in_vmm.serve("firecracker", definitions)


if __name__ == "__main__":
    main()
