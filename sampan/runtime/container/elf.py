"""Two static programs of a few dozen bytes, assembled here: they need no file of the host's.

`leave(code)` exits at once: the probe's container. `pause()` sleeps for ever and lets the kernel reap orphans: process 1
of a pod that shares one PID namespace. Linux on x86-64 and aarch64.
"""

from __future__ import annotations

import platform
import struct

BASE = 0x400000
HEADERS = 64 + 56


def leave(code: int) -> bytes:
    if platform.machine() == "aarch64":
        return executable(
            183,
            struct.pack(
                "<3I",
                0xD2800000 | (code << 5),  # mov x0, #code
                0xD2800BA8,  # mov x8, #93 (exit)
                0xD4000001,  # svc #0
            ),
        )
    return executable(
        62,
        b"\xbf"
        + struct.pack("<I", code)  # mov edi, code
        + b"\xb8\x3c\x00\x00\x00"  # mov eax, 60 (exit)
        + b"\x0f\x05",  # syscall
    )


def pause() -> bytes:
    """rt_sigaction(SIGCHLD, {SIG_IGN}) so that no zombie stays, then wait for signals without end."""
    action = struct.pack("<4Q", 1, 0, 0, 0)
    if platform.machine() == "aarch64":
        code = struct.pack(
            "<12I",
            0xD2800220,  # mov x0, #17 (SIGCHLD)
            0x10000161,  # adr x1, action (44 bytes on)
            0xD2800002,  # mov x2, #0
            0xD2800103,  # mov x3, #8
            0xD28010C8,  # mov x8, #134 (rt_sigaction)
            0xD4000001,  # svc #0
            0xD2800000,  # loop: mov x0, #0
            0xD2800001,  # mov x1, #0
            0xD2800003,  # mov x3, #0
            0xD2800928,  # mov x8, #73 (ppoll of nothing, no time limit)
            0xD4000001,  # svc #0
            0x17FFFFFB,  # b loop
        )
        return executable(183, code + action)
    code = (
        b"\xbf\x11\x00\x00\x00"  # mov edi, 17 (SIGCHLD)
        b"\x48\x8d\x35\x18\x00\x00\x00"  # lea rsi, [rip+24] (action)
        b"\x31\xd2"  # xor edx, edx
        b"\x41\xba\x08\x00\x00\x00"  # mov r10d, 8
        b"\xb8\x0d\x00\x00\x00"  # mov eax, 13 (rt_sigaction)
        b"\x0f\x05"  # syscall
        b"\xb8\x22\x00\x00\x00"  # loop: mov eax, 34 (pause)
        b"\x0f\x05"  # syscall
        b"\xeb\xf7"  # jmp loop
    )
    return executable(62, code + action)


def executable(machine: int, code: bytes) -> bytes:
    """One loadable segment, readable and executable, that begins with the ELF header itself."""
    size = HEADERS + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        2,  # ET_EXEC
        machine,
        1,
        BASE + HEADERS,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 0x1000)
    return header + segment + code
