"""Seccomp profiles compiled for a guest, run by an interpreter of their own."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.runtime.container.seccomp import profile
from sampan.runtime.microvm import live, seccomp, vmmfilter
from sampan.runtime.microvm.syscalls import numbers
from sampan.runtime.sandbox import CannotStart


def run_filter(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """The kernel's interpreter of classic BPF, for what seccomp uses of it."""
    data = struct.pack("<iIQ6Q", number, seccomp.AUDIT[machine], 0, *(arguments + (0,) * 6)[:6])
    code = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    at = accumulator = 0
    for _ in range(len(code) + 1):
        kind, yes, no, value = code[at]
        at += 1
        if kind == seccomp.LOAD:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif kind == seccomp.AND:
            accumulator &= value
        elif kind == seccomp.JUMP:
            at += value
        elif kind == seccomp.RETURN:
            return value
        else:
            true = {
                seccomp.EQUAL: accumulator == value, seccomp.GREATER: accumulator > value,
                seccomp.GREATER_EQUAL: accumulator >= value,
            }[kind]  # fmt: skip
            at += yes if true else no
    raise AssertionError("the program does not end")


ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_default_profile_compiled(machine: str) -> None:
    calls = numbers(machine)
    program = seccomp.compile(profile(()), machine)
    for name in ("read", "openat", "execve", "mmap", "socketpair"):
        assert run_filter(program, machine, calls[name]) == ALLOW, name
    for name in ("mount", "reboot", "init_module", "bpf", "ptrace", "setns", "keyctl"):
        wanted = ALLOW if name == "ptrace" else REFUSE
        assert run_filter(program, machine, calls[name]) == wanted, name
    assert run_filter(program, machine, calls["socket"], 2) == ALLOW
    assert run_filter(program, machine, calls["socket"], 40) == REFUSE, "AF_VSOCK"
    assert run_filter(program, machine, calls["clone"], 0x11) == ALLOW
    assert run_filter(program, machine, calls["clone"], 0x10000000) == REFUSE, "a user namespace"
    assert run_filter(program, machine, calls["clone3"]) == 0x00050000 | errno.ENOSYS
    assert run_filter(program, machine, calls["personality"], 0x20008) == ALLOW
    assert run_filter(program, machine, calls["personality"], 0x123) == REFUSE
    assert run_filter(program, machine, 5000) == REFUSE
    other = "aarch64" if machine == "x86_64" else "x86_64"
    assert run_filter(program, other, calls["read"]) == 0x80000000


COMPARE = {
    "SCMP_CMP_EQ": lambda a, b, _: a == b, "SCMP_CMP_NE": lambda a, b, _: a != b,
    "SCMP_CMP_LT": lambda a, b, _: a < b, "SCMP_CMP_LE": lambda a, b, _: a <= b,
    "SCMP_CMP_GT": lambda a, b, _: a > b, "SCMP_CMP_GE": lambda a, b, _: a >= b,
    "SCMP_CMP_MASKED_EQ": lambda a, b, c: a & b == c,
}  # fmt: skip
words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
    st.sampled_from([2**32 - 1, 2**32, 2**32 + 1, 2**63]),
)


@given(st.sampled_from(sorted(COMPARE)), words, words, words)
def test_conditions_on_64_bits(operator: str, argument: int, value: int, second: int) -> None:
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 2, "value": value, "valueTwo": second, "op": operator}]}  # fmt: skip
    program = seccomp.compile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, "x86_64")
    wanted = ALLOW if COMPARE[operator](argument, value, second) else REFUSE
    assert run_filter(program, "x86_64", 0, 7, 7, argument) == wanted


def test_a_profile_with_an_unknown_word_is_refused() -> None:
    with pytest.raises(CannotStart, match="SCMP_ACT_PRAY"):
        seccomp.compile({"defaultAction": "SCMP_ACT_PRAY"}, "x86_64")


def test_what_a_copied_emulator_may_not_call() -> None:
    machine = "x86_64"
    calls, program = numbers(machine), vmmfilter.compiled(machine)
    listed = " ".join(vmmfilter.KILLED.values()).split()
    assert not [name for name in listed if name not in calls], (
        "a name that is no call denies nothing"
    )
    killed = seccomp.ACTIONS["SCMP_ACT_KILL_PROCESS"]
    assert all(run_filter(program, machine, calls[name]) == killed for name in listed)
    for name in ("futex", "ppoll", "recvmsg", "mmap", "madvise", "rt_sigreturn", "getrandom"):
        assert run_filter(program, machine, calls[name]) == ALLOW, name
    threads, process = 0x3D0F00, 0x01200011  # pthread_create's flags, fork's
    assert run_filter(program, machine, calls["clone"], threads) == ALLOW
    assert run_filter(program, machine, calls["clone"], process) == killed
    assert run_filter(program, machine, calls["clone3"]) == 0x00050000 | errno.ENOSYS
    assert len(program) // 8 <= live.INSTRUCTIONS
