"""Compile the guest agent: a static program of a few kilobytes, by the C compiler in the Python package `ziglang`.

    python native/build.py [--output DIRECTORY] [x86_64] [aarch64]

Without a C library there is nothing to build but the agent itself, which takes a second, on any host and for either
architecture. The kernel's own headers come with ziglang. What is newer than its sources is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import os
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


def build(architecture: str, output: Path) -> Path:
    target = output / f"agent-{architecture}.bin"
    newest = max(path.stat().st_mtime for path in HERE.iterdir() if path.suffix in (".c", ".h"))
    if target.exists() and target.stat().st_mtime >= newest:
        return target
    output.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        compile_program(architecture, sources(), beside)
        if (size := beside.stat().st_size) > LIMIT:
            raise SystemExit(f"the agent is {size} bytes large, more than {LIMIT}")
        beside.chmod(0o755)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def compile_program(architecture: str, files: list[Path], target: Path) -> None:
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-none", *FLAGS,
        f'-DAGENT_BUILD="{edition()}"', *headers(architecture), *map(str, files), "-o", str(target),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("architectures", nargs="*", default=[], choices=[[], *ARCHITECTURES])
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    for architecture in arguments.architectures or ARCHITECTURES:
        path = build(architecture, arguments.output)
        print(f"{path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
