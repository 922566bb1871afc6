"""`sampan down`: ask the supervisor to stop, and wait until it has; without one, stop the pods that were left."""

from __future__ import annotations

import subprocess
import sys

import typer

from sampan.cli.config import VOLATILE, Config
from sampan.cli.control import ask

LONGEST = 120.0  # seconds


def stop(config: Config, *, pods: bool) -> int:
    try:
        running = ask(config, "status") is not None
    except TimeoutError:
        running = True  # it is busy stopping
    if not running:
        return clear(config) if pods and left(config) else nothing(config)
    typer.echo("stopping" + (" the cluster and its pods" if pods else "; pods go on"))
    try:
        answer = ask(config, "stop", timeout=LONGEST, pods=pods)
    except TimeoutError:
        typer.echo(f"sampan: it did not stop within {LONGEST:.0f} s; see {config.logs}", err=True)
        return 1
    if answer is not None and answer.get("failed"):
        return failed(config)
    typer.echo("stopped")
    return 0


def nothing(config: Config) -> int:
    typer.echo(f"nothing runs in {config.data_dir}")
    return 0


def failed(config: Config) -> int:
    typer.echo(f"sampan: not all pods could be stopped; see {config.logs}/supervisor.log", err=True)
    return 1


def left(config: Config) -> bool:
    """Whether there is something to stop though nobody supervises: it was killed, told to keep pods, or never there."""
    return config.has_pods or any((config.run_dir / name).exists() for name in VOLATILE)


def clear(config: Config) -> int:
    typer.echo("stopping what goes on without the cluster")
    config.prepare()
    with open(config.logs / "supervisor.log", "ab") as log:
        command = [
            sys.executable,
            "-m",
            "sampan.cli.supervisor",
            "--data-dir",
            str(config.data_dir),
        ]
        done = subprocess.run(
            [*command, "--clear"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    if done.returncode:
        return failed(config)
    typer.echo("stopped")
    return 0
