"""`sampan vm kernels`: the guest kernels of this machine, and which of them machines are booted with."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from sampan.cli.config import Config
from sampan.cli.images import print_table, size


def kind_directory(config: Config) -> Path:
    return config.data_dir / "runtime" / "microvm"


def installed(config: Config) -> dict[str, Path]:
    """Release → directory, the newest last."""
    from sampan.runtime.microvm.presence import KERNEL_RECORD, places

    found = [
        record
        for place in places(kind_directory(config) / "kernels")
        for record in place.glob(f"*/{KERNEL_RECORD}")
    ]
    return {
        path.parent.name: path.parent for path in sorted(found, key=lambda p: p.stat().st_mtime)
    }


def used(config: Config) -> str:
    """The release that machines are booted with, "" when there is none."""
    from sampan.runtime.microvm.presence import named_kernel

    named = named_kernel(kind_directory(config))
    return Path(named).name if named else next(reversed(installed(config)), "")


def show(config: Config) -> int:
    from sampan.runtime.microvm.presence import FETCH

    found = installed(config)
    if not found:
        typer.echo(f"sampan: no guest kernel is here; bring Debian's with: {FETCH}", err=True)
        return 1
    chosen = used(config)
    rows = [
        (
            release,
            "yes" if release == chosen else "",
            size((path / "vmlinux").stat().st_size),
            str(path),
        )
        for release, path in found.items()
    ]
    print_table(("KERNEL", "USED", "SIZE", "DIRECTORY"), rows)
    return 0


def fetch() -> int:
    from sampan.runtime.microvm import kernels
    from sampan.runtime.microvm.errors import BadArtifact, MissingPiece

    try:
        kernel = kernels.fetch(say=lambda text: typer.echo(text, err=True))
    except (BadArtifact, MissingPiece) as error:
        typer.echo(f"sampan: {error}", err=True)
        return 1
    typer.echo(kernel.release)
    return 0


def use(config: Config, release: str) -> int:
    """Name the kernel in the kind's settings; the runtime reads them when it starts."""
    from sampan.runtime.microvm import kernels
    from sampan.runtime.microvm.errors import BadArtifact
    from sampan.runtime.microvm.settings import NAME, Settings

    found = installed(config)
    directory = found.get(release) or Path(release).absolute()
    settings = kind_directory(config) / NAME
    try:
        kernels.load(directory)
        Settings.load(settings.parent)
    except BadArtifact as error:
        known = ", ".join(found) or "none"
        typer.echo(f"sampan: {error}\nkernels that are here: {known}", err=True)
        return 1
    document = json.loads(settings.read_bytes()) if settings.exists() else {}
    settings.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = settings.with_name(f".{NAME}.part")
    beside.write_text(json.dumps({**document, "kernel": str(directory)}, indent=2) + "\n")
    beside.rename(settings)
    typer.echo(
        f"machines are booted with {directory.name} from the next start on: "
        "sampan down --keep-pods && sampan up"
    )
    return 0
