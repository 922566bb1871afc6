"""What a VMM may do, read from /proc and tried: whoever breaks out of a guest has this and no more."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

NAMESPACES = ("net", "mnt", "pid", "ipc", "uts")
ROOT = {"usr", "lib", "lib64", "bin", "sbin", "etc", "dev", "proc"}
NOTHING = "0" * 16
# Each is tried as the VMM's user, in its namespaces and its root, without its filter; the words begin what came of it.
ATTEMPTS = """
for f in / /usr /usr/lib /etc /dev /proc /dev/shm /tmp /run /var/tmp; do
  (: >$f/.left) 2>/dev/null && echo "wrote $f"
done
for f in /etc/shadow /etc/passwd /root/.ssh /var/lib/sampan /run/sampan {reach}; do
  test -e $f && echo "sees $f"
done
for d in /dev/*; do case $d in /dev/null|/dev/urandom|/dev/kvm) ;; *) echo "has $d" ;; esac; done
for p in /proc/[0-9]*; do
  test -d $p && ! test -O $p && echo "sees $p, which is another's"
done
for n in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do
  (echo x >$n) 2>/dev/null && echo "wrote $n"
done
mount -t tmpfs t /usr 2>/dev/null && echo "mounted"
unshare -U true 2>/dev/null && unshare -Um sh -c 'mount -o remount,rw,bind /usr' 2>/dev/null && echo "remounted"
kill -0 -1 2>/dev/null && echo "signals others"
echo tried
"""


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def check(pid: int, *, namespaces: tuple[str, ...] = NAMESPACES) -> int:
    """Its user, which is nobody else's; AssertionError for whatever it may do that a VMM need not."""
    process, status = Path(f"/proc/{pid}"), status_of(pid)
    (uid,) = {int(number) for number in status["Uid"].split() + status["Gid"].split()}
    assert uid >= 1_000_000_000
    kvm = {os.stat("/dev/kvm").st_gid} if os.path.exists("/dev/kvm") else set()
    assert {int(group) for group in status["Groups"].split()} <= {uid, *kvm}
    for name in ("CapEff", "CapPrm", "CapAmb", "CapInh"):
        assert status[name] == NOTHING, name
    assert status["NoNewPrivs"] == "1"
    for task in (process / "task").iterdir():
        assert "Seccomp:\t2" in (task / "status").read_text(), "a thread without the filter"
    assert set(os.listdir(process / "root")) <= ROOT
    assert set(os.listdir(process / "root" / "etc")) <= {"ld.so.cache"}
    for name in namespaces:
        assert os.readlink(process / "ns" / name) != os.readlink(f"/proc/self/ns/{name}"), name
    mounts = [line.split(" ") for line in (process / "mountinfo").read_text().splitlines()]
    writable = [row[4] for row in mounts if "rw" in row[5].split(",")]
    assert {place for place in writable if not place.startswith("/dev/")} == set()
    links = [line.split()[0] for line in (process / "net" / "dev").read_text().splitlines()[2:]]
    assert set(links) <= {"lo:", "tap0:"}, "its network has its tap and nothing else"
    return uid


def writable_files(pid: int) -> set[str]:
    """Names of regular files of the host that it has open for writing."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        flags = int(Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text().split("flags:")[1].split()[0], 8)  # fmt: skip
        link = os.readlink(entry)
        if flags & os.O_ACCMODE and link.startswith("/") and stat.S_ISREG(entry.stat().st_mode):
            found.add(link)
    return {link for link in found if not link.startswith("/memfd:")}


def escapes(pid: int, uid: int, reach: list[Path]) -> list[str]:
    """What came of trying. `reach`: further paths of the host that it must not see."""
    script = ATTEMPTS.replace("{reach}", " ".join(map(str, reach)))
    into = [f"--{name}" for name in ("mount", "net", "pid", "ipc", "uts", "root", "wd")]
    command = ["nsenter", f"--target={pid}", *into, f"--setuid={uid}", f"--setgid={uid}", "--"]
    done = subprocess.run(
        [*command, "/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=30
    )
    *found, last = done.stdout.splitlines() or [""]
    assert last == "tried", done.stderr
    return found
