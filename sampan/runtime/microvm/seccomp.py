"""A seccomp profile (`linux.seccomp` of the OCI runtime spec) as the program that the kernel takes: classic BPF.

The guest has no libseccomp: the filter is compiled here and installed by the agent as it is. Calls are found by a
binary search, for the kernel tries every call once when a filter is installed, and emulated guests are slow.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from sampan.runtime.microvm.syscalls import numbers
from sampan.runtime.sandbox import CannotStart

Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k
LOAD, JUMP, EQUAL, GREATER, GREATER_EQUAL, AND, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32 = 0x40000000
MISS = -1  # a jump to the next rule, resolved when its distance is known
ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000, "SCMP_ACT_KILL_THREAD": 0x00000000, "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000, "SCMP_ACT_ERRNO": 0x00050000, "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000,
}  # fmt: skip
MOST = 4096  # instructions, BPF_MAXINSNS


def compile(profile: dict[str, Any], machine: str) -> bytes:
    """An array of struct sock_filter. Raises CannotStart for what the profile says and seccomp does not know."""
    try:
        program = build(profile, machine)
    except (KeyError, TypeError, ValueError) as error:
        raise CannotStart(f"the seccomp profile cannot be used: {error}") from error
    if len(program) > MOST:
        raise CannotStart(
            f"the seccomp profile is too long: {len(program)} instructions, at most {MOST}"
        )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def build(profile: dict[str, Any], machine: str) -> list[Instruction]:
    known = numbers(machine)
    default = [verdict(profile["defaultAction"], profile.get("defaultErrnoRet"))]
    rules: dict[int, list[dict[str, Any]]] = {}
    for rule in profile.get("syscalls") or ():
        for name in rule["names"]:
            if name in known:
                rules.setdefault(known[name], []).append(rule)
    verdicts = {number: decide(listed, default) for number, listed in rules.items()}
    ranges: list[tuple[int, list[Instruction]]] = []
    for number in range(max(verdicts, default=0) + 2):
        code = verdicts.get(number, default)
        if not ranges or ranges[-1][1] != code:
            ranges.append((number, code))
    if machine == "x86_64":
        ranges.append((X32, [(RETURN, 0, 0, ACTIONS["SCMP_ACT_KILL_PROCESS"])]))
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, AUDIT[machine]),
        (RETURN, 0, 0, ACTIONS["SCMP_ACT_KILL_PROCESS"]),
        (LOAD, 0, 0, NUMBER),
        *search(ranges),
    ]


def verdict(action: str, error: int | None) -> Instruction:
    value = ACTIONS[action]
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        value |= (1 if error is None else int(error)) & 0xFFFF
    return RETURN, 0, 0, value


def decide(rules: list[dict[str, Any]], default: list[Instruction]) -> list[Instruction]:
    """One call: the first rule whose conditions all hold, else the default."""
    code: list[Instruction] = []
    for rule in rules:
        then = verdict(rule["action"], rule.get("errnoRet"))
        conditions = rule.get("args") or ()
        if not conditions:
            return [*code, then]
        block = [step for condition in conditions for step in check(condition)] + [then]
        code += [resolved(step, at, len(block)) for at, step in enumerate(block)]
    return code + default


def resolved(step: Instruction, at: int, end: int) -> Instruction:
    code, yes, no, value = step
    away = end - at - 1
    return code, away if yes == MISS else yes, away if no == MISS else no, value


def check(condition: dict[str, Any]) -> list[Instruction]:
    """Instructions that go on behind themselves when the condition holds, and to MISS when not."""
    low = ARGUMENTS + 8 * int(condition["index"])
    value, second, operator = (
        int(condition["value"]),
        int(condition.get("valueTwo") or 0),
        condition["op"],
    )
    high_value, low_value = value >> 32 & 0xFFFFFFFF, value & 0xFFFFFFFF
    high = low + 4
    if operator == "SCMP_CMP_MASKED_EQ":
        return [
            (LOAD, 0, 0, high), (AND, 0, 0, high_value), (EQUAL, 0, MISS, second >> 32 & 0xFFFFFFFF),
            (LOAD, 0, 0, low), (AND, 0, 0, low_value), (EQUAL, 0, MISS, second & 0xFFFFFFFF),
        ]  # fmt: skip
    if operator == "SCMP_CMP_EQ":
        return [
            (LOAD, 0, 0, high),
            (EQUAL, 0, MISS, high_value),
            (LOAD, 0, 0, low),
            (EQUAL, 0, MISS, low_value),
        ]
    if operator == "SCMP_CMP_NE":
        return [
            (LOAD, 0, 0, high),
            (EQUAL, 0, 2, high_value),
            (LOAD, 0, 0, low),
            (EQUAL, MISS, 0, low_value),
        ]
    if operator in ("SCMP_CMP_GT", "SCMP_CMP_GE"):
        last = GREATER if operator == "SCMP_CMP_GT" else GREATER_EQUAL
        return [
            (LOAD, 0, 0, high), (GREATER, 3, 0, high_value), (EQUAL, 0, MISS, high_value),
            (LOAD, 0, 0, low), (last, 0, MISS, low_value),
        ]  # fmt: skip
    if operator in ("SCMP_CMP_LT", "SCMP_CMP_LE"):
        last = GREATER_EQUAL if operator == "SCMP_CMP_LT" else GREATER
        return [
            (LOAD, 0, 0, high), (GREATER, MISS, 0, high_value), (EQUAL, 0, 2, high_value),
            (LOAD, 0, 0, low), (last, MISS, 0, low_value),
        ]  # fmt: skip
    raise ValueError(f"unknown comparison {operator}")


def search(ranges: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    lower, upper = search(ranges[:middle]), search(ranges[middle:])
    return [(GREATER_EQUAL, 0, 1, ranges[middle][0]), (JUMP, 0, 0, len(lower)), *lower, *upper]


@lru_cache(maxsize=16)
def default(capabilities: tuple[str, ...], machine: str) -> bytes:
    """The profile of containers, compiled."""
    from sampan.runtime.container.seccomp import profile

    return compile(profile(capabilities), machine)
