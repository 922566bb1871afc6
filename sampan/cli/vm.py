"""`sampan vm …`: virtual machines with Docker's habits, as `VirtualMachine` objects of the cluster.

Everything goes through the API: these commands write objects and wait for what the controller and the node make of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.cli.table import print_table
from sampan.cli.vmapi import VMError, find, gone, published, say, step, until, with_api
from sampan.cli.vmoptions import invent, kernel_of, machine, own_keys, require_sshd
from sampan.cli.vmstreams import attach
from sampan.client.client import Client
from sampan.client.resources import VIRTUALMACHINES
from sampan.kube.objects import parse_time

Object = dict[str, Any]


def run(config: Config, image: str, *, ssh: bool, kernel: str, wait: bool, **options: Any) -> int:
    try:
        if kernel:
            kernel = kernel_of(config, kernel)
        if ssh:
            require_sshd(config, image)
        made = machine(image, keys=own_keys() if ssh else (), kernel=kernel, **options)
    except VMError as error:
        say(str(error))
        return 2

    done = create(config, made, wait=wait)
    if done == 0 and options["interactive"]:
        return attach(config, made["metadata"]["name"], made["metadata"]["namespace"])
    return done


def run_stored(config: Config, spec: Object, name: str, namespace: str) -> int:
    """A machine of a given spec: what a snapshot kept."""
    metadata = {"name": name or invent(spec["image"]), "namespace": namespace}
    kind = {"apiVersion": VIRTUALMACHINES.api_version, "kind": "VirtualMachine"}
    return create(config, {**kind, "metadata": metadata, "spec": spec}, wait=True)


def create(config: Config, made: Object, *, wait: bool) -> int:
    name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]

    async def work(client: Client) -> int:
        stored = await client.create(VIRTUALMACHINES, made)
        spec = stored["spec"]
        step(f"created {name}  {spec['cpus']} CPU, {spec['memory']}, {spec['image']}")
        address = ""
        if wait:
            found = await until(client, name, namespace, ("Running", "Stopped", "Failed"))
            address = (found.get("status") or {}).get("ip", "")
        for line in await published(client, stored, address):
            step(line)
        typer.echo(name)
        return 0

    return with_api(config, work)


# the others


def show(config: Config, namespace: str, everywhere: bool, quiet: bool) -> int:
    async def work(client: Client) -> int:
        found = (await client.list(VIRTUALMACHINES, "" if everywhere else namespace)).items
        if quiet:
            for each in found:
                typer.echo(each["metadata"]["name"])
            return 0
        header = ("NAME", "IMAGE", "CPUS", "MEMORY", "PHASE", "IP", "AGE")
        rows = [row(each) for each in found]
        if everywhere:
            header = ("NAMESPACE", *header)  # type: ignore[assignment]
            rows = [
                (each["metadata"]["namespace"], *r) for each, r in zip(found, rows, strict=True)
            ]
        print_table(header, rows)
        return 0

    return with_api(config, work)


def row(found: Object) -> tuple[str, ...]:
    spec, status = found["spec"], found.get("status") or {}
    return (
        found["metadata"]["name"], spec["image"], str(spec["cpus"]), spec["memory"],
        status.get("phase", "Pending"), status.get("ip", ""), age(found),
    )  # fmt: skip


def age(found: Object) -> str:
    import time

    seconds = max(
        0, int(time.time() - parse_time(found["metadata"]["creationTimestamp"]).timestamp())
    )
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def stop(config: Config, names: Sequence[str], namespace: str) -> int:
    async def work(client: Client) -> int:
        for name in names:
            await find(client, name, namespace)
            await client.patch(VIRTUALMACHINES, name, {"spec": {"running": False}}, namespace)
        for name in names:
            await until(client, name, namespace, ("Stopped",))
            typer.echo(name)
        return 0

    return with_api(config, work)


def start(config: Config, names: Sequence[str], namespace: str) -> int:
    from sampan.client.resources import PODS

    async def work(client: Client) -> int:
        for name in names:
            found = await find(client, name, namespace)
            ended = (found.get("status") or {}).get("phase") in ("Stopped", "Failed")
            if found["spec"]["running"] and ended:  # its program came to its end: once more
                await client.delete(PODS, name, namespace)
            await client.patch(VIRTUALMACHINES, name, {"spec": {"running": True}}, namespace)
        for name in names:
            await until(client, name, namespace, ("Running",))
            typer.echo(name)
        return 0

    return with_api(config, work)


def remove(config: Config, names: Sequence[str], namespace: str, force: bool) -> int:
    async def work(client: Client) -> int:
        for name in names:
            found = await find(client, name, namespace)
            phase = (found.get("status") or {}).get("phase")
            if phase == "Running" and not force:
                raise VMError(
                    f"{name} is running; stop it first (sampan vm stop {name}), or use --force"
                )
            await client.delete(VIRTUALMACHINES, name, namespace, propagation="Foreground")
        for name in names:
            await gone(client, name, namespace)
            typer.echo(name)
        return 0

    return with_api(config, work)


def inspect(config: Config, names: Sequence[str], namespace: str) -> int:
    import json

    async def work(client: Client) -> int:
        found = [await find(client, name, namespace) for name in names]
        for each in found:
            each["metadata"].pop("managedFields", None)
        typer.echo(json.dumps(found, indent=4))
        return 0

    return with_api(config, work)
