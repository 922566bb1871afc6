"""`sampan image build --microvm`: a Dockerfile becomes a machine by itself, root filesystem, kernel and all.

What comes out runs wholly from RAM, by QEMU alone: nothing of Sampan is needed where it runs. The image is in this node's
store as well, under its name, for `sampan vm run`.

    <output>/vmlinux initrd cmdline run    format initrd: kernel, root filesystem, how to boot them, and a script that does
    <output>/disk.raw | disk.qcow2 run     formats raw and qcow2: one disk that a PC boots
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import typer

from sampan.cli.images import guarded, open_store, short, size
from sampan.image import microvm
from sampan.image.errors import BadImage, BuildError, ImageError
from sampan.image.reference import parse
from sampan.image.store import ImageStore

FORMATS = ("initrd", "raw", "qcow2")
COMMAND_LINE = "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/.sampan/init"
KERNEL_ROOM = 96  # MiB that the kernel takes, and a little for the program
INSTALL_BUILDAH = "apt-get install --no-install-recommends buildah"


def build_machine(
    data_dir: Path | None,
    directory: Path,
    tag: str,
    file: Path | None,
    format_: str,
    output: Path | None,
    kernel: Path | None,
) -> int:
    def work() -> None:
        from sampan.runtime.microvm import kernels
        from sampan.runtime.microvm.errors import BadArtifact, MissingPiece

        if format_ not in FORMATS:
            raise ImageError(f"--format {format_}: expected one of {', '.join(FORMATS)}")
        store = open_store(data_dir)
        try:
            found = kernels.load(kernel) if kernel else kernels.find(store.directory / "kernels")
        except MissingPiece as error:
            raise ImageError(f"{error}; bring one with: {error.install}") from None
        except BadArtifact as error:
            raise ImageError(str(error)) from None
        image_id = build_image(store, directory, tag, file)
        typer.echo(f"built {tag}  {short(image_id)}", err=True)
        target = output or Path(f"{parse(tag).key.rpartition('/')[2].partition(':')[0]}.microvm")
        assemble(store, tag, target, found.image, found.module_files("mmio"), format_)
        typer.echo(str(target))

    return guarded(work)


def build_image(store: ImageStore, directory: Path, tag: str, file: Path | None) -> str:
    """By our own builder; by buildah when the Dockerfile has steps that run something. Raises BuildError."""
    from sampan.image.build import build
    from sampan.image.dockerfile import REFUSED
    from sampan.image.dockerfile import parse as read

    path = file or directory / "Dockerfile"
    try:
        read(path.read_text(), path.name)
    except FileNotFoundError:
        raise BuildError(f"no such file in {path.parent}", path.name) from None
    except BuildError as error:
        if not any(f"{name} " in str(error) for name in REFUSED):
            raise
        return buildah(store, directory, tag, path, error)
    return build(directory, tag, store, dockerfile=path, platform=f"linux/{oci_machine()}")


def oci_machine() -> str:
    from sampan.image.manifest import MACHINES

    return MACHINES.get(platform.machine(), platform.machine())


def buildah(store: ImageStore, directory: Path, tag: str, path: Path, why: BuildError) -> str:
    program = shutil.which("buildah")
    if program is None:
        raise BuildError(
            f"{why}. buildah runs such steps, and is not installed: {INSTALL_BUILDAH}", path.name
        )
    with tempfile.TemporaryDirectory(prefix="sampan-build-") as scratch:
        archive = Path(scratch) / "image.tar"
        storage = ["--root", f"{scratch}/root", "--runroot", f"{scratch}/run", "--storage-driver", "vfs"]  # fmt: skip
        for step in (
            ["build", "--isolation", "chroot", "--format", "oci", "-t", "image", "-f", str(path), str(directory)],
            ["push", "image", f"oci-archive:{archive}"],
        ):  # fmt: skip
            done = subprocess.run(
                [program, *storage, *step], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
            )  # fmt: skip
            if done.returncode:
                raise BuildError(f"buildah {step[0]}: {done.stderr.strip()[-2000:]}", path.name)
        store.load(archive, tag)
    return store.inspect(tag).id


def init_program() -> bytes:
    return program(f"init-{platform.machine()}.bin")


def program(name: str) -> bytes:
    """What native/build.py makes. Raises ImageError."""
    from sampan.runtime.microvm.presence import AGENTS, BUILD_AGENT

    try:
        return (AGENTS / name).read_bytes()
    except OSError as error:
        raise ImageError(f"{name} was not built ({error.strerror}): {BUILD_AGENT}") from None


def assemble(
    store: ImageStore, tag: str, target: Path, kernel: Path, modules: list[bytes], format_: str
) -> None:
    """Write the artifact, whole or not at all. Raises ImageError, OSError."""
    from sampan.runtime.microvm import erofs

    image = asyncio.run(store.unpack(tag))
    if image.os != "linux" or not image.layers:
        raise BadImage(f"{tag} is for {image.os}: a machine runs images for linux")
    root = erofs.merge(image.layers)
    host = target.name.partition(".")[0][:63] or "machine"
    start = microvm.start_file(image.config, root, host)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        fresh = Path(scratch) / "artifact"
        fresh.mkdir()
        with open(fresh / "initrd", "wb") as out:
            microvm.write(out, root, init_program(), start, modules, os.geteuid() == 0)
        memory = KERNEL_ROOM + 2 * (fresh.joinpath("initrd").stat().st_size >> 20)
        memory = max(128, -(-memory // 64) * 64)
        shutil.copyfile(kernel, fresh / "vmlinux")
        (fresh / "cmdline").write_text(COMMAND_LINE + "\n")
        files = ["vmlinux", "initrd", "cmdline"]
        if format_ != "initrd":
            files = [disk(fresh, format_)]
        script = fresh / "run"
        script.write_text(run_script(memory, format_))
        script.chmod(0o755)
        for path in fresh.iterdir():
            if path.name not in (*files, "run"):
                path.unlink()
        remove_former(target)
        fresh.rename(target)
    for name in files:
        typer.echo(f"{name}  {size((target / name).stat().st_size)}", err=True)


def disk(fresh: Path, format_: str) -> str:
    """Make one disk of the files in `fresh`; its name."""
    from sampan.image import bootdisk

    raw = fresh / "disk.raw"
    with raw.open("wb") as out:
        kernel = (fresh / "vmlinux").read_bytes()
        bootdisk.write(out, program("boot-pc.bin"), kernel, fresh / "initrd", COMMAND_LINE)
    if format_ == "qcow2":
        bootdisk.to_qcow2(raw, fresh / "disk.qcow2")
    return f"disk.{format_}"


def remove_former(target: Path) -> None:
    """An artifact of ours may be replaced; anything else is not touched."""
    if not target.exists():
        return
    if not (target / "run").exists():
        raise ImageError(f"{target} exists and is no machine of ours; give another --output")
    shutil.rmtree(target)


def run_script(memory: int, format_: str) -> str:
    """Everything that QEMU is told; more may be said behind it: ./run -m 1G."""
    head = (
        "#!/bin/sh\n# Boots this machine; ^A x ends it. Further options are QEMU's own. Where KVM is broken: ACCEL=tcg ./run\n"
        'cd "$(dirname "$0")" || exit 1\n'
        '[ -n "$ACCEL" ] || { [ -w /dev/kvm ] && ACCEL=kvm || ACCEL=tcg; }\n'
        f'exec qemu-system-x86_64 -M pc -accel "$ACCEL" -cpu max -m {memory} -nographic -no-reboot -nic none \\\n'
    )
    if format_ == "initrd":
        return head + '    -kernel vmlinux -initrd initrd -append "$(cat cmdline)" "$@"\n'
    return head + f'    -drive file=disk.{format_},format={format_},if=virtio,readonly=on "$@"\n'
