"""Compile hello.c twice, as a WebAssembly module and as a static Linux program, into `build/`.

Needs the Python package `ziglang` (a C compiler with both targets) and, for the container, a static busybox. What is newer
than its source is left alone. With `--wasm` only the module is made.

    python examples/hello/build.py [--wasm]
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (HERE / "hello.c", HERE / "sys.h")
BUILD = HERE / "build"
COMPILE = [
    "-nostdlib",
    "-ffreestanding",
    "-fno-sanitize=undefined",
    "-fno-stack-protector",
    "-Os",
    "-s",
]
WASM = ["-target", "wasm32-freestanding", "-Wl,--no-entry"]
LINUX = {"x86_64": "x86_64-linux", "aarch64": "aarch64-linux"}


def compile_for(options: list[str], output: Path) -> None:
    newest = max(path.stat().st_mtime for path in SOURCES)
    if output.exists() and output.stat().st_mtime > newest:
        return
    beside = output.with_name(f"{output.name}.{os.getpid()}")
    command = [sys.executable, "-m", "ziglang", "cc", *options, *COMPILE, str(SOURCES[0])]
    subprocess.run([*command, "-o", str(beside)], check=True)
    beside.chmod(0o755)
    beside.rename(output)


def find_busybox() -> Path:
    """A static busybox: Debian's package busybox-static has one."""
    for name in ("/bin/busybox", "/usr/bin/busybox", shutil.which("busybox") or ""):
        path = Path(name)
        if name and path.is_file() and b"/lib" not in path.read_bytes()[:4096]:  # names no loader
            return path
    sys.exit("no static busybox found; on Debian: apt-get install busybox-static")


def main() -> None:
    BUILD.mkdir(exist_ok=True)
    compile_for(WASM, BUILD / "hello.wasm")
    if "--wasm" not in sys.argv[1:]:
        compile_for(["-target", LINUX[platform.machine()], "-static"], BUILD / "hello")
        shutil.copy(find_busybox(), BUILD / "busybox")
    print(f"built {', '.join(sorted(path.name for path in BUILD.iterdir()))} in {BUILD}")


if __name__ == "__main__":
    main()
