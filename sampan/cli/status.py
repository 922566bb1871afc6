"""`sampan status`: what runs, and what it costs. Figures come from the kernel (PSS: shared pages are counted once)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.cli.control import ask
from sampan.cli.table import print_table

Object = dict[str, Any]


def pss(pid: int) -> float:
    """Proportional set size in MiB; 0 when the process is gone or another user's."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except (OSError, ValueError):
        pass
    return 0.0


def zygotes(config: Config) -> list[int]:
    """Processes that fork the wasm pods of this cluster; they outlive the runtime, so they are found by their log."""
    log = str(config.data_dir / "runtime" / "wasm" / "zygote.log")
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if os.readlink(entry / "fd" / "2") == log:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                found[int(entry.name)] = int(parent)
        except (OSError, ValueError):
            continue
    return sorted(pid for pid, parent in found.items() if parent not in found)


def show(config: Config) -> int:
    answer = ask(config, "status")
    if answer is None:
        typer.echo(
            f"nothing runs in {config.data_dir}; start it: sampan up --data-dir {config.data_dir}"
        )
        return 1
    rows = [("supervisor", str(answer["pid"]), "", "", f"{pss(answer['pid']):.1f} MiB")]
    for name, part in answer["parts"].items():
        state = f"up {part['up']:.0f} s" if part["pid"] else f"down ({part['lastExit']})"
        rows.append(
            (name, str(part["pid"]), state, str(part["restarts"]), f"{pss(part['pid']):.1f} MiB")
        )
    rows += [("wasm zygote", str(pid), "", "", f"{pss(pid):.1f} MiB") for pid in zygotes(config)]
    print_table(("PART", "PID", "STATE", "RESTARTS", "MEMORY"), rows)
    typer.echo(f"all together {sum(pss(int(row[1])) for row in rows):.1f} MiB\n")
    try:
        asyncio.run(show_objects(config))
    except Exception as error:
        typer.echo(f"sampan: the API server does not answer: {error}", err=True)
        return 1
    return 0


async def show_objects(config: Config) -> None:
    from sampan.client.client import Client
    from sampan.client.http import HTTPTransport
    from sampan.client.kubeconfig import load
    from sampan.client.resources import NODES, PODS, SERVICES
    from sampan.kube.objects import condition_true, pod_ready

    client = Client(HTTPTransport(load(config.kubeconfig)))
    try:
        nodes = (await client.list(NODES)).items
        pods = (await client.list(PODS)).items
        services = (await client.list(SERVICES)).items
    finally:
        await client.close()
    for node in nodes:
        state = "Ready" if condition_true(node, "Ready") else "NotReady"
        typer.echo(f"node {node['metadata']['name']}  {state}")
    ready = sum(pod_ready(pod) for pod in pods)
    typer.echo(f"pods {ready} ready of {len(pods)} · services {len(services)}")
