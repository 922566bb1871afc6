"""Compile the guest agent: a static program of a few kilobytes, by the C compiler in the Python package `ziglang`.

    python native/build.py [--output DIRECTORY] [x86_64] [aarch64]

Without a C library there is nothing to build but the agent itself, which takes a second, on any host and for either
architecture. The kernel's own headers come with ziglang. What is newer than its sources is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parent / "sampan" / "runtime" / "microvm" / "agent"
ARCHITECTURES = {"x86_64": "x86", "aarch64": "aarch64"}
LIMIT = 100 * 1024
FLAGS = (
    "-std=c17", "-Os", "-s", "-static", "-nostdlib", "-ffreestanding", "-fno-builtin",
    "-fno-stack-protector", "-fno-sanitize=all", "-fno-asynchronous-unwind-tables",
    "-fno-pic", "-fomit-frame-pointer", "-Wall", "-Wextra", "-Werror", "-Wl,--gc-sections",
    "-ffunction-sections", "-fdata-sections",
)  # fmt: skip


def sources() -> list[Path]:
    return sorted(HERE.glob("*.c"))


def edition() -> str:
    """Names the sources: a template that was made with another agent is not used."""
    digest = hashlib.sha256()
    for path in sorted([*HERE.glob("*.c"), *HERE.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def headers(architecture: str) -> list[str]:
    import ziglang

    include = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
    names = (f"{ARCHITECTURES[architecture]}-linux-any", "any-linux-any")
    return [option for name in names for option in ("-isystem", str(include / name))]


# Process 1 of images that are machines by themselves shares these with the agent.
INIT = (
    HERE / "init" / "init.c",
    HERE / "early.c",
    HERE / "network.c",
    HERE / "wire.c",
    HERE / "sys.c",
)
# The host's end of a machine's shared directories.
SHARE = (
    *(HERE / "share" / name for name in ("share.c", "operations.c", "nodes.c")),
    HERE / "sys.c",
)

# What is preloaded into a template's QEMU. A library among programs: nothing in it may be found by the names of the C library's.
FORK = (
    *(HERE / "fork" / name for name in ("fork.c", "freeze.c", "plan.c", "jail.c", "random.c")),
    HERE / "sys.c",
)
LIBRARY = {"-static": "-shared", "-fno-pic": "-fPIC"}
# QEMU's machine is for x86-64 hosts alone, and so is its copying.
NAMES = {
    "x86_64": ("agent", "init", "share", "rehearsal", "fork"),
    "aarch64": ("agent", "init", "share", "rehearsal"),
}

# The program of the container that is run before there is a pod.
REHEARSAL = (HERE / "rehearse" / "rehearse.c", HERE / "sys.c")


def build(architecture: str, output: Path, name: str = "agent") -> Path:
    """One of NAMES."""
    target = output / f"{name}-{architecture}.bin"
    parts = {"agent": sources(), "init": INIT, "share": SHARE, "rehearsal": REHEARSAL, "fork": FORK}
    files = list(parts[name])
    own = [*HERE.iterdir(), *files, *files[0].parent.glob("*.h")]
    newest = max(path.stat().st_mtime for path in own if path.suffix in (".c", ".h"))
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    output.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        compile_program(architecture, files, beside, shared=name == "fork")
        if (size := beside.stat().st_size) > LIMIT:
            raise SystemExit(f"{name} is {size} bytes large, more than {LIMIT}")
        beside.chmod(0o755)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def build_guard(architecture: str, output: Path) -> Path:
    """A library for the host's QEMU, whose C library it uses: any glibc of the last ten years."""
    source, target = HERE / "guard" / "guard.c", output / f"guard-{architecture}.bin"
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    output.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-gnu.2.17", "-shared",
        "-fPIC", "-std=c17", "-Os", "-s", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror", str(source),
    ]  # fmt: skip
    try:
        subprocess.run([*command, "-o", str(beside)], check=True)
        beside.chmod(0o755)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def build_boot_sectors(output: Path) -> Path:
    """What a PC's BIOS starts: the code of one assembly file, which needs no linking."""
    source, target = HERE / "boot" / "boot.S", output / "boot-pc.bin"
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    output.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        "-target",
        "x86-linux-none",
        "-c",
        str(source),
    ]
    try:
        subprocess.run([*command, "-o", str(beside)], check=True)
        code = section(beside.read_bytes(), b".text")
        beside.write_bytes(code)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def section(elf: bytes, name: bytes) -> bytes:
    """A section's content, of a 32-bit object file."""
    (table,) = struct.unpack_from("<I", elf, 32)
    size, count, names = struct.unpack_from("<HHH", elf, 46)
    headers = [struct.unpack_from("<6I", elf, table + size * number) for number in range(count)]
    for header in headers:
        start = headers[names][4] + header[0]
        if elf[start : elf.index(b"\0", start)] == name:
            return elf[header[4] : header[4] + header[5]]
    raise SystemExit(f"no section {name.decode()}")


def compile_program(
    architecture: str, files: list[Path], target: Path, *, shared: bool = False
) -> None:
    flags = (
        [*(LIBRARY.get(flag, flag) for flag in FLAGS), "-fvisibility=hidden"] if shared else FLAGS
    )
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-none", *flags,
        f'-DAGENT_BUILD="{edition()}"', *headers(architecture), *map(str, files), "-o", str(target),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("architectures", nargs="*", default=[], choices=[[], *ARCHITECTURES])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    for architecture in arguments.architectures or ARCHITECTURES:
        for name in NAMES[architecture]:
            path = build(architecture, arguments.output, name)
            print(f"{path} ({path.stat().st_size} bytes)")
        path = build_guard(architecture, arguments.output)
        print(f"{path} ({path.stat().st_size} bytes)")
    path = build_boot_sectors(arguments.output)
    print(f"{path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
