"""`sampan down`: ask the supervisor to stop, and wait until it has; without one, stop the pods that were left.

Where the node has a time for its graceful shutdown, the supervisor first lets it end the pods, as long as that takes."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import typer

from sampan.cli.config import VOLATILE, Config
from sampan.cli.control import ask

LONGEST = 120.0  # seconds
LAST = 10.0  # seconds from the supervisor's answer to its end


def stop(config: Config, *, pods: bool) -> int:
    grace = 0.0
    try:
        running = ask(config, "status")
        if running is None:
            return clear(config) if pods and left(config) else nothing(config)
        grace = graceful(running) if pods else 0.0
    except TimeoutError:
        pass  # it is busy stopping
    typer.echo("stopping" + (" the cluster and its pods" if pods else "; pods go on"))
    if grace:
        typer.echo(f"pods have up to {grace:g} s to end; Ctrl-C ends them now")
    try:
        with gone_after(config):
            answer = stopped(config, pods, LONGEST + grace)
    except TimeoutError:
        typer.echo(f"sampan: it did not stop within {LONGEST:.0f} s; see {config.logs}", err=True)
        return 1
    if answer is not None and answer.get("failed"):
        return failed(config)
    typer.echo("stopped")
    return 0


def graceful(status: dict[str, Any]) -> float:
    """Seconds that pods are given when the node shuts down (--kubelet-arg=shutdown-grace-period)."""
    return float(status["parts"]["node"]["reports"].get("graceful", 0))


@contextlib.contextmanager
def gone_after(config: Config) -> Iterator[None]:
    """The supervisor answers before it ends: whoever looks after `sampan down` shall find no process of ours."""
    try:
        process = os.pidfd_open(int((config.run_dir / "supervisor.pid").read_text()))
    except (OSError, ValueError):  # it has gone already
        yield
        return
    try:
        yield
        select.select([process], [], [], LAST)
    finally:
        os.close(process)


def stopped(config: Config, pods: bool, patience: float) -> dict[str, Any] | None:
    """The answer when all has stopped. Raises TimeoutError. Asking again, as by Ctrl-C, hurries pods that are given time."""
    try:
        return ask(config, "stop", timeout=patience, pods=pods)
    except KeyboardInterrupt:
        typer.echo("not waiting for pods any longer")
        return ask(config, "stop", timeout=LONGEST, pods=pods)


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
