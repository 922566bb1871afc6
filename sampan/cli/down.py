"""`sampan down`: ask the supervisor to stop, and wait until it has."""

from __future__ import annotations

import typer

from sampan.cli.config import Config
from sampan.cli.control import ask

LONGEST = 120.0  # seconds; pods may use their termination grace


def stop(config: Config, *, pods: bool) -> int:
    typer.echo("stopping" + (" the cluster and its pods" if pods else "; pods go on"))
    try:
        answer = ask(config, "stop", timeout=LONGEST, pods=pods)
    except TimeoutError:
        typer.echo(f"sampan: it did not stop within {LONGEST:.0f} s; see {config.logs}", err=True)
        return 1
    if answer is None:
        typer.echo(f"nothing runs in {config.data_dir}")
    else:
        typer.echo("stopped")
    return 0
