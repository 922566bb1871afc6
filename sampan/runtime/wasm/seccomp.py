"""The worker's system call filter: a list of what wasmtime, CPython's loop and tokio need; the rest fails with EPERM.

What has no place in a worker even by accident (exec, ptrace, mount, namespaces, modules, keys) kills the process, so
that an attempt is seen. Threads may be made, processes not; memory may not become executable: compiled modules are
mapped before the filter is on. Classic BPF over struct seccomp_data, see seccomp(2) and Documentation/userspace-api.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from sampan.runtime.wasm import linux

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _JUMP, _EQUAL, _GREATER_EQUAL, _MASK_SET, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
Code = list[tuple[int, int, int, int]]  # struct sock_filter: code, jt, jf, k
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
_SET_MODE_FILTER, _TSYNC = 1, 1
CLONE_THREAD = 0x00010000
PROT_EXEC = 4
AF_INET, AF_INET6 = 2, 10

# name: (x86_64, aarch64); -1 where the architecture has no such call.
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "preadv": (295, 69), "pwritev": (296, 70), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233), "sched_yield": (24, 124), "dup": (32, 23),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "getpid": (39, 172), "gettid": (186, 178),
    "exit": (60, 93), "exit_group": (231, 94), "futex": (202, 98), "set_robust_list": (273, 99),
    "rseq": (334, 293), "sigaltstack": (131, 132), "getrandom": (318, 278), "restart_syscall": (219, 128),
    "epoll_wait": (232, -1), "epoll_pwait": (281, 22), "epoll_ctl": (233, 21), "epoll_create1": (291, 20),
    "eventfd2": (290, 19), "poll": (7, -1), "ppoll": (271, 73), "fcntl": (72, 25), "ioctl": (16, 29),
    "ftruncate": (77, 46), "pipe2": (293, 59), "sched_getaffinity": (204, 123), "tgkill": (234, 131),
    "accept4": (288, 242), "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211),
    "recvmsg": (47, 212), "shutdown": (48, 210), "getsockopt": (55, 209), "setsockopt": (54, 208),
    "getpeername": (52, 205), "getsockname": (51, 204), "sysinfo": (99, 179), "uname": (63, 160),
    "set_tid_address": (218, 96), "dup3": (292, 24), "dup2": (33, -1), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "prlimit64": (302, 261),
    "membarrier": (324, 283), "sched_setaffinity": (203, 122), "get_robust_list": (274, 100),
}  # fmt: skip
_FILES = {
    "open": (2, -1), "openat": (257, 56), "openat2": (437, 437), "newfstatat": (262, 79), "statx": (332, 291),
    "getdents64": (217, 61), "readlinkat": (267, 78), "readlink": (89, -1), "faccessat": (269, 48),
    "faccessat2": (439, 439), "mkdirat": (258, 34), "unlinkat": (263, 35), "renameat": (264, 38),
    "renameat2": (316, 276), "linkat": (265, 37), "symlinkat": (266, 36), "utimensat": (280, 88),
    "fsync": (74, 82), "fdatasync": (75, 83), "fallocate": (285, 47), "fadvise64": (221, 223),
    "sync_file_range": (277, 84), "fchmod": (91, 52), "stat": (4, -1), "lstat": (6, -1), "statfs": (137, 43),
    "fstatfs": (138, 44), "copy_file_range": (326, 285), "lseek": (8, 62), "truncate": (76, 45),
}  # fmt: skip
_NETWORK = {"bind": (49, 200), "connect": (42, 203), "listen": (50, 201), "accept": (43, 202)}
_DEADLY = {
    "execve": (59, 221), "execveat": (322, 281), "ptrace": (101, 117), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "setns": (308, 268), "unshare": (272, 97), "bpf": (321, 280),
    "init_module": (175, 105), "finit_module": (313, 273), "kexec_load": (246, 104), "keyctl": (250, 219),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "setuid": (105, 146), "setresuid": (117, 147),
    "fork": (57, -1), "vfork": (58, -1), "reboot": (169, 142), "open_by_handle_at": (304, 265),
}  # fmt: skip
_MMAP, _MPROTECT, _CLONE = (9, 222), (10, 226), (56, 220)
_CLONE3, _SOCKET, _SOCKETPAIR = (435, 435), (41, 198), (53, 199)


class Filter:
    """A program in the form that the kernel takes, struct sock_fprog."""

    def __init__(self, program: bytes) -> None:
        self._code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(self._code))
        self.header = ctypes.create_string_buffer(header, len(header))


def filters() -> dict[tuple[bool, bool], Filter]:
    """This machine's filters by (files, network), made once, before workers are forked."""
    machine = os.uname().machine
    return {
        (files, network): Filter(build(machine, files=files, network=network))
        for files in (False, True)
        for network in (False, True)
    }


def build(machine: str, *, files: bool, network: bool) -> bytes:
    """The filter as an array of struct sock_filter. `files`: paths may be opened; `network`: internet sockets."""
    column = list(_AUDIT_ARCH).index(machine)

    def numbers(calls: dict[str, tuple[int, int]]) -> list[int]:
        return [pair[column] for pair in calls.values() if pair[column] >= 0]

    allowed = dict(_CALLS)
    if files:
        allowed |= _FILES
    if network:
        allowed |= _NETWORK
    verdicts: dict[int, Code] = {number: [_ret(_ALLOW)] for number in numbers(allowed)}
    verdicts |= {number: [_ret(_KILL)] for number in numbers(_DEADLY)}
    verdicts[_MMAP[column]] = verdicts[_MPROTECT[column]] = _unless_set(2, PROT_EXEC)
    verdicts[_CLONE[column]] = _if_set(0, CLONE_THREAD)
    verdicts[_CLONE3[column]] = [_ret(_ERRNO | errno.ENOSYS)]  # libc then calls clone
    if network:
        verdicts[_SOCKET[column]] = _if_one_of(0, (AF_INET, AF_INET6))
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        _ret(_KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_search(_ranges(verdicts)),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _ranges(verdicts: dict[int, Code]) -> list[tuple[int, Code]]:
    """(first number, what to do from there on), in order; what is not named fails with EPERM."""
    found: list[tuple[int, Code]] = []
    for number in range(max(verdicts) + 2):
        code = verdicts.get(number, [_ret(_ERRNO | errno.EPERM)])
        if not found or found[-1][1] != code:
            found.append((number, code))
    return [*found, (_X32_BIT, [_ret(_KILL)])]


def _search(ranges: list[tuple[int, Code]]) -> Code:
    """A binary search: the kernel runs the filter for every call there is when it is installed."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    lower, upper = _search(ranges[:middle]), _search(ranges[middle:])
    return [(_GREATER_EQUAL, 0, 1, ranges[middle][0]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


def _ret(verdict: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, verdict


def _argument(index: int) -> int:
    return 16 + 8 * index  # low half of args[index]; both architectures are little-endian


def _if_set(argument: int, bit: int) -> Code:
    refuse, allow = _ret(_ERRNO | errno.EPERM), _ret(_ALLOW)
    return [(_LOAD, 0, 0, _argument(argument)), (_MASK_SET, 0, 1, bit), allow, refuse]


def _unless_set(argument: int, bit: int) -> Code:
    refuse, allow = _ret(_ERRNO | errno.EPERM), _ret(_ALLOW)
    return [(_LOAD, 0, 0, _argument(argument)), (_MASK_SET, 0, 1, bit), refuse, allow]


def _if_one_of(argument: int, values: tuple[int, ...]) -> Code:
    code: Code = [(_LOAD, 0, 0, _argument(argument))]
    for value in values:
        code += [(_EQUAL, 0, 1, value), _ret(_ALLOW)]
    return [*code, _ret(_ERRNO | errno.EPERM)]


def install(what: Filter) -> None:
    """Put the filter on every thread of the process. Needs no_new_privs."""
    number = linux.SECCOMP[os.uname().machine]
    linux.syscall("seccomp", number, _SET_MODE_FILTER, _TSYNC, ctypes.byref(what.header))
