"""The seccomp filter of a copied VMM. QEMU installs its own (`-sandbox`) in the template; a copy, which the template's
helper makes outside of it, gets this one before any of QEMU's threads goes on in it.

As QEMU's it is a list of what is denied, since what an emulator calls depends on its build; it has QEMU's sets
(obsolete, elevateprivileges, spawn, resourcecontrol) and what a jailed emulator has no business with besides.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sampan.runtime.microvm import seccomp

CLONE_THREAD, ENOSYS, EPERM = 0x10000, 38, 1

KILLED = {
    "the machine and its kernel": "reboot swapon swapoff syslog acct kexec_load kexec_file_load init_module "
    "finit_module delete_module settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname iopl "
    "ioperm quotactl quotactl_fd bpf perf_event_open userfaultfd lookup_dcookie nfsservctl vhangup",
    "obsolete": "_sysctl create_module get_kernel_syms query_module sysfs uselib ustat afs_syscall getpmsg putpmsg "
    "security tuxcall vserver modify_ldt personality",
    "another user, another session": "setuid setgid setpgid setsid setreuid setregid setresuid setresgid setfsuid "
    "setfsgid setgroups capset",
    "programs and other processes": "fork vfork execve execveat ptrace process_vm_readv process_vm_writev "
    "process_madvise kcmp pidfd_getfd",
    "namespaces and mounts": "unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig "
    "fsmount fspick mount_setattr name_to_handle_at open_by_handle_at fanotify_init",
    "keys": "add_key request_key keyctl",
}  # fmt: skip
# Answered as by a kernel that has no such call: programs have another way.
MISSING = ["clone3", "io_uring_setup", "io_uring_enter", "io_uring_register"]
REFUSED = ["setpriority", "sched_setparam", "sched_setscheduler", "sched_setattr", "sched_setaffinity", "ioprio_set"]  # fmt: skip


def profile() -> dict[str, Any]:
    killed = " ".join(KILLED.values()).split()
    new_process = {"index": 0, "value": CLONE_THREAD, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": killed, "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["clone"], "action": "SCMP_ACT_KILL_PROCESS", "args": [new_process]},
            {"names": MISSING, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
            {"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
        ],
    }


@cache
def compiled(machine: str) -> bytes:
    return seccomp.compile(profile(), machine)
