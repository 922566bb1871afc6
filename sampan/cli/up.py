"""`sampan up`: start the supervisor in the background, show each step with its time, return when the node is Ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.cli.control import ask

# What to show of the steps that parts report: (part, step) -> words.
WORDS = {
    ("server", "api"): "API server ready",
    ("server", "controllers"): "controllers and scheduler running",
    ("runtime", "cri"): "runtime ready",
    ("node", "registered"): "node registered",
    ("server", "not-ready"): "node not Ready (sampan doctor says more):",
    ("server", "ready"): "node Ready",
}
LAST = ("server", "ready")


def start(config: Config, *, foreground: bool, merge: bool) -> int:
    """Exit status: 0 when the cluster is up (already, or now)."""
    born = time.time()
    if ask(config, "status") is not None:
        typer.echo(f"sampan already runs in {config.data_dir}; see: sampan status")
        return 0
    config.prepare()
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "sampan.cli.supervisor", "--data-dir", str(config.data_dir)]
    command += ["--events-fd", str(writer), "--born", f"{born:.6f}"]
    log = config.logs / "supervisor.log"
    with open(log, "ab", opener=private) as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            start_new_session=not foreground,
            env=os.environ | {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"},
        )
    os.close(writer)
    ready = show_steps(read_events(reader))
    if not ready:
        process.wait()
        typer.echo(f"sampan: the cluster did not start; the end of {log}:", err=True)
        typer.echo(tail(log), err=True)
        return 1
    if merge:
        from sampan.cli.kubectl import merge_kubeconfig

        typer.echo(f"merged into {merge_kubeconfig(config)} as context sampan")
    option = "" if config.data_dir_is_default else f" --data-dir {config.data_dir}"
    typer.echo(f"\nThe cluster runs. Its kubeconfig: {config.kubeconfig}")
    typer.echo(f"Use it:   sampan kubectl{option} get nodes\nStop it:  sampan down{option}")
    if foreground:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait()  # the terminal told the supervisor too
    return 0


def read_events(fd: int) -> Iterator[dict[str, Any]]:
    with os.fdopen(fd, "rb", buffering=0) as stream:
        buffer = b""
        while data := stream.read(4096):
            *lines, buffer = (buffer + data).split(b"\n")
            yield from (json.loads(line) for line in lines)


def show_steps(events: Iterator[dict[str, Any]]) -> bool:
    """Print what is reached; True at the last step, False when the supervisor ended before."""
    for event in events:
        step = (event["part"], event["step"])
        if step in WORDS:
            detail = f"  {event['detail']}" if event["detail"] else ""
            typer.echo(f"  {event['after']:6.2f} s  {WORDS[step]}{detail}")
        elif event["step"] == "ended":
            typer.echo(
                f"  {event['after']:6.2f} s  {event['part']} ended: {event['detail']}; starting it again",
                err=True,
            )
        if step == LAST:
            return True
    return False


def private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def tail(path: os.PathLike[str], lines: int = 12) -> str:
    with open(path, errors="replace") as file:
        return "".join(file.readlines()[-lines:])
