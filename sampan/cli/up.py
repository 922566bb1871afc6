"""`sampan up`: start the supervisor in the background, show each step with its time, return when the node is Ready."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import typer

from sampan.cli.config import Config, ConfigError
from sampan.cli.control import BUSY, ask
from sampan.cli.launch import waiting

# What to show of the steps that parts report: (part, step) -> words.
WORDS = {
    ("server", "api"): "API server ready",
    ("server", "controllers"): "controllers and scheduler running",
    ("runtime", "cri"): "runtime ready",
    ("node", "registered"): "node registered",
    ("server", "ready"): "node Ready",
}
LAST = ("server", "ready")
PATIENCE = 120.0  # seconds without the node becoming Ready, after which `up` says so, and returns unless it is to stay
LISTENERS = (
    ("server", "port", "bind_address"),
    ("node", "node_port", "bind_address"),
    ("runtime", "registry_port", "registry_address"),
)


def start(config: Config, *, foreground: bool, merge: bool) -> int:
    """Exit status: 0 when the cluster is up (already, or now). Raises ConfigError."""
    born = time.time()
    while True:
        if former_is_ready(config):
            typer.echo(f"sampan already runs in {config.data_dir}; see: sampan status")
            return say_merged(config) if merge else 0
        check_ports(config)
        config.prepare()
        process, events = launch(config, foreground, born)
        try:
            ready, failed = show_steps(read_events(events, PATIENCE))
        except TimeoutError:
            typer.echo(
                f"sampan: the node is not Ready after {PATIENCE:.0f} s; it goes on; see: sampan status, {config.logs}",
                err=True,
            )
            # A service manager would take an end for a failure, and begin from the start for as long as it is slow.
            return stay(process) if foreground else 1
        if ready:
            break
        if process.wait() != BUSY:  # else another `sampan up` was quicker by a moment
            log = config.logs / f"{failed or 'supervisor'}.log"
            typer.echo(f"sampan: the cluster did not start; the end of {log}:", err=True)
            typer.echo(tail(log), err=True)
            return 1
    if merge:
        say_merged(config)
    option = "" if config.data_dir_is_default else f" --data-dir {config.data_dir}"
    typer.echo(f"\nThe cluster runs. Its kubeconfig: {config.kubeconfig}")
    typer.echo(f"Use it:   sampan kubectl{option} get nodes\nStop it:  sampan down{option}")
    return stay(process) if foreground else 0


def former_is_ready(config: Config) -> bool:
    """True when a cluster runs; False when none does. One that is starting or stopping is waited for."""
    deadline = time.monotonic() + PATIENCE
    while locked(config.run_dir / "lock"):
        try:
            answer = ask(config, "status", timeout=1.0)
        except TimeoutError:
            answer = None
        if answer is not None and answer["ready"]:
            return True
        if time.monotonic() > deadline:
            raise ConfigError(
                f"another sampan runs in {config.data_dir} and does not become ready; see {config.logs}"
            )
        time.sleep(0.02)
    return False


def locked(path: os.PathLike[str]) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def check_ports(config: Config) -> None:
    """Raise ConfigError when somebody else has a port that we need: the parts would only die of it, again and again."""
    for part, name, where in LISTENERS:
        if name == "registry_port" and not config.embedded_registry:
            continue
        address = getattr(config, where)
        if locked(config.run_dir / f"{part}.lock"):
            continue  # our own, of a killed supervisor, on its way out
        port = getattr(config, name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                option = name.replace("_", "-")
                raise ConfigError(
                    f"the {part} cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}; "
                    f"take another: sampan up --{option} PORT"
                ) from None


def launch(config: Config, foreground: bool, born: float) -> tuple[subprocess.Popen[bytes], int]:
    """The supervisor, and where it tells what happens."""
    begun = waiting(config.data_dir)
    log = config.logs / "supervisor.log"
    begun.command(config.data_dir, log, foreground=foreground, born=born)
    process = begun.process
    if foreground:  # a service manager tells us; what is told goes to who acts
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: process.send_signal(number))
    return process, begun.events


def stay(process: subprocess.Popen[bytes]) -> int:
    """Wait for the supervisor; as process 1 of a container also for orphans, which are ours there."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == process.pid:
            return os.waitstatus_to_exitcode(status)


def read_events(fd: int, patience: float) -> Iterator[dict[str, Any]]:
    """What the supervisor tells, until it ends. Raises TimeoutError after `patience` seconds."""
    deadline = time.monotonic() + patience
    with os.fdopen(fd, "rb", buffering=0) as stream:
        buffer = b""
        while True:
            if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            data = stream.read(4096)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            yield from (json.loads(line) for line in lines)


def show_steps(events: Iterator[dict[str, Any]]) -> tuple[bool, str]:
    """Print what is reached. (whether the last step was, the part that the supervisor gave up)"""
    for event in events:
        part, step, detail = event["part"], event["step"], event["detail"]
        if (part, step) in WORDS:
            say(event, WORDS[part, step] + (f"  {detail}" if detail else ""))
        elif step == "waiting":
            say(event, f"{part} waits {detail}", err=True)
        elif step == "ended":
            say(event, f"{part} ended: {detail}; starting it again", err=True)
        elif step == "failed":
            say(event, f"{part} ended: {detail}; giving up", err=True)
            return False, part
        if (part, step) == LAST:
            return True, ""
    return False, ""


def say(event: dict[str, Any], text: str, *, err: bool = False) -> None:
    typer.echo(f"  {event['after']:6.2f} s  {text}", err=err)


def say_merged(config: Config) -> int:
    from sampan.cli.kubectl import merge_kubeconfig

    typer.echo(f"merged into {merge_kubeconfig(config)} as context sampan")
    return 0


def tail(path: os.PathLike[str], lines: int = 24) -> str:
    try:
        with open(path, errors="replace") as file:
            return "".join(file.readlines()[-lines:])
    except OSError as error:
        return str(error)
