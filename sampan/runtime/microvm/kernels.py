"""Guest kernels: where one is found, how Debian's is brought here, and how it is checked before it is used.

Debian's `linux-image-cloud-amd64` is downloaded and unpacked, never installed. A kernel is a directory:

    <kernels>/<release>/{vmlinux, modules/<name>.ko, kernel.json}

`kernel.json` is written last and holds the digests: a directory without it is a download that was interrupted, and one
whose files do not match it is refused. Kernels are shared by all data directories of a user. One of the user's own
(`ownkernels.py`) is booted by who names it; it is everybody's only where there is no other.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sampan.linux import trees
from sampan.runtime.microvm import modules, vmlinux
from sampan.runtime.microvm.errors import BadArtifact, MissingPiece
from sampan.runtime.microvm.presence import FETCH, default_place, records
from sampan.runtime.microvm.presence import KERNEL_RECORD as RECORD

META_PACKAGE = "linux-image-cloud-amd64"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kernel:
    directory: Path
    release: str
    digest: str  # of everything in it
    modules: tuple[str, ...]  # file names, in the order of loading
    built_in: tuple[str, ...] = ()  # of the drivers that a guest may do without, those in `image`

    @property
    def image(self) -> Path:
        return self.directory / "vmlinux"

    @property
    def shares_files(self) -> bool:
        """Whether its guests can have directories of the host."""
        return "fuse" in (*self.modules, *self.built_in)

    def module_files(self, bus: str = "") -> list[bytes]:
        """Of all modules; or of those for a guest on that bus (`modules.BUSES`)."""
        names = modules.for_bus(self.modules, bus) if bus else self.modules
        return [(self.directory / "modules" / f"{name}.ko").read_bytes() for name in names]


def find(own: Path, *, check: bool = True) -> Kernel:
    """The newest whole kernel. Raises MissingPiece when there is none, BadArtifact when the only ones are damaged."""
    damaged: BadArtifact | None = None
    for record in records(own):
        try:
            return load(record.parent, check=check)
        except BadArtifact as error:
            damaged = error
    if damaged is not None:
        raise damaged
    raise MissingPiece("no guest kernel has been downloaded", FETCH)


def named(own: Path, release: str) -> Kernel:
    """A kernel that is here, by its release. Raises MissingPiece, BadArtifact."""
    known = {record.parent.name: record.parent for record in reversed(records(own))}
    if release not in known:
        here = ", ".join(sorted(known)) or "none"
        raise MissingPiece(
            f"there is no guest kernel {release} on this node; it has: {here}", FETCH
        )
    return load(known[release], check=False)


def load(directory: Path, *, check: bool = True) -> Kernel:
    """Raises BadArtifact unless every file is what was recorded when it was unpacked. `check` False: by the record alone."""
    try:
        record = json.loads((directory / RECORD).read_bytes())
        kernel = Kernel(
            directory, record["release"], record["digest"], tuple(record["modules"]),
            tuple(record.get("built_in", ())),
        )  # fmt: skip
        found = digest_of(directory, kernel.modules) if check else kernel.digest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(
            directory, f"not a guest kernel: {error}; to have it anew: {FETCH}"
        ) from error
    if found != kernel.digest:
        raise BadArtifact(directory, f"the kernel has changed on disk; to have it anew: {FETCH}")
    return kernel


def digest_of(directory: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in (directory / "vmlinux", *(directory / "modules" / f"{name}.ko" for name in names)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def store(
    place: Path, release: str, image: bytes, found: dict[str, bytes], *, own: bool = False
) -> Kernel:
    """Write a kernel below `place`, in the place of one of the same release. `own`: for who names it."""
    order = modules.in_order(found, (*modules.WANTED, *modules.VSOCK, "virtio_pci"))
    place.mkdir(parents=True, exist_ok=True, mode=0o755)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place) as scratch:
        fresh = Path(scratch, "kernel")
        (fresh / "modules").mkdir(parents=True)
        fresh.chmod(0o755)
        (fresh / "vmlinux").write_bytes(image)
        for name in order:
            (fresh / "modules" / f"{name}.ko").write_bytes(modules.without_signature(found[name]))
        digest, built_in = digest_of(fresh, tuple(order)), modules.built_in(image)
        record = {
            "release": release,
            "digest": digest,
            "modules": order,
            "built_in": built_in,
            "own": own,
        }
        (fresh / RECORD).write_text(json.dumps(record))
        target = place / release
        trees.remove_quietly(target)
        fresh.rename(target)
    return Kernel(target, release, digest, tuple(order), built_in)


def unpack(package: Path, place: Path, say: Say = lambda _: None) -> Kernel:
    """A kernel out of a Debian package. Raises BadArtifact."""
    image, release, found = b"", "", dict[str, bytes]()
    say(f"unpacking {package.name}")
    try:
        with tarfile.open(fileobj=data_archive(package), mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                inside = name.partition("/kernel/")[2]
                if name.startswith("boot/vmlinuz-"):
                    release = name.removeprefix("boot/vmlinuz-")
                    image = contents(archive, member)
                elif modules.is_module(name) and inside.startswith(modules.PLACES):
                    packed = contents(archive, member)
                    found[modules.name_of(name)] = modules.opened(name, packed)
    except (OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError) as error:
        raise BadArtifact(package, f"not a Debian kernel package: {error}") from error
    if not image:
        raise BadArtifact(package, "there is no kernel in this package")
    with tempfile.NamedTemporaryFile() as boot:
        boot.write(image)
        boot.flush()
        say("uncompressing the kernel")
        return store(place, release, vmlinux.extract(Path(boot.name)), found)


def contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""


def data_archive(package: Path) -> io.BufferedIOBase:
    """`data.tar.xz` of a .deb, which is an ar archive (deb(5))."""
    file = package.open("rb")
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is no ar archive")
    while header := file.read(60):
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            if name.endswith(".xz"):
                return lzma.LZMAFile(file)
            raise ValueError(f"{name} is compressed in a way that is not known here")
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it has no data archive")


def fetch(place: Path | None = None, say: Say = print) -> Kernel:
    """Download Debian's cloud kernel with apt, which checks its signature. Raises MissingPiece, BadArtifact."""
    apt = shutil.which("apt-get")
    if apt is None:
        raise MissingPiece(
            "apt-get is not here to download Debian's kernel: name a package or a vmlinux of your own"
        )
    name = depends_of(META_PACKAGE)
    with tempfile.TemporaryDirectory(prefix="sampan-kernel-") as scratch:
        say(f"downloading {name} (about 30 MB)")
        done = subprocess.run(
            [apt, "download", "-qq", name], cwd=scratch, capture_output=True, text=True, check=False
        )  # fmt: skip
        packages = list(Path(scratch).glob("*.deb"))
        if done.returncode or not packages:
            raise MissingPiece(
                f"apt-get could not download {name}: {done.stderr.strip()}", "apt-get update"
            )
        return unpack(packages[0], place or default_place(), say)


def depends_of(package: str) -> str:
    """The package with the files: the one asked for only names the newest."""
    done = subprocess.run(
        ["apt-cache", "depends", "--no-recommends", package], capture_output=True, text=True, check=False
    )  # fmt: skip
    for line in done.stdout.splitlines():
        kind, _, name = line.strip().partition("Depends: ")
        if name and not kind:
            return name
    raise MissingPiece(f"apt knows no package {package}", "apt-get update")


def main() -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m sampan.runtime.microvm.kernels", description="Guest kernels for microVMs."
    )
    parser.add_argument("action", choices=("fetch", "unpack", "show"))
    parser.add_argument(
        "package", type=Path, nargs="?", help="a Debian kernel package, for `unpack`"
    )
    arguments = parser.parse_args()
    try:
        if arguments.action == "fetch":
            kernel = fetch()
        elif arguments.action == "unpack" and arguments.package:
            kernel = unpack(arguments.package, default_place(), print)
        else:
            kernel = find(default_place())
    except (MissingPiece, BadArtifact) as error:
        print(error)
        return 1
    print(f"{kernel.release} in {kernel.directory}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
