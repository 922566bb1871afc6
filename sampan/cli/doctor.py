"""`sampan doctor`: each capability is tried, not looked up, and what does not work comes with the command that mends it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import typer

from sampan import __version__
from sampan.cli.config import default_data_dir
from sampan.runtime.sandbox import Support


def examine(data_dir: Path | None) -> int:
    """Exit status 0 when at least one kind of sandbox works here."""
    typer.echo(f"sampan {__version__}, Python {sys.version.split()[0]}, "
               f"{'root' if os.geteuid() == 0 else 'not root: pods run as WebAssembly or as microVMs'}\n")  # fmt: skip
    kinds = asyncio.run(probe_kinds(data_dir or default_data_dir()))
    others = [*probe_network(), ("kubectl", probe_kubectl())]
    for name, support in [*kinds, *others]:
        mark = "works " if support.usable else "missing"
        typer.echo(f"  {name:20} {mark:8} {support.detail if support.usable else support.why}")
        if not support.usable and support.install:
            typer.echo(f"  {'':20} {'':8} to have it: {support.install}")
    return 0 if any(support.usable for _, support in kinds) else 1


async def probe_kinds(data_dir: Path) -> list[tuple[str, Support]]:
    from sampan.runtime.kinds import KINDS

    return [(name, await probe_kind(name, data_dir)) for name in KINDS]


async def probe_kind(name: str, data_dir: Path) -> Support:
    """By the settings of a cluster that is there, in a directory of its own: nothing of it is touched."""
    from sampan.runtime.kinds import load

    with tempfile.TemporaryDirectory(prefix="sampan-doctor-") as scratch:
        directory = Path(scratch)
        settings = data_dir / "runtime" / name / "settings.json"
        if settings.is_file():
            shutil.copy(settings, directory)
        kind = load(name, directory, directory, "spdoctor")
        try:
            return await kind.probe()
        finally:
            await kind.close()


def probe_network() -> list[tuple[str, Support]]:
    from sampan.network import probe

    return [
        (name, Support(answer.usable, answer.detail, answer.why, answer.install))
        for name, answer in probe.probe().items()
    ]


def probe_kubectl() -> Support:
    path = shutil.which("kubectl")
    if path is None:
        return Support(
            False, why="not on the PATH", install="see https://kubernetes.io/docs/tasks/tools/"
        )
    return Support(True, detail=path)
