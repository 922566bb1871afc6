"""What the commands of `sampan vm` have in common: the API, what is said, and waiting for what a machine becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.client.client import Client
from sampan.client.errors import ClientConnectionError, ConfigError
from sampan.controllers.virtualmachine import VIRTUALMACHINES
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition

Object = dict[str, Any]
PATIENCE = 120.0  # seconds for a machine to run or to stop; the first of a size boots its template
HOPELESS = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CannotStart",
)  # without the user's help


class VMError(Exception):
    """What the user can do something about; the sentence says what."""


def with_api(config: Config, work: Callable[[Client], Awaitable[int]]) -> int:
    """Do the work with a client whose cluster knows VirtualMachines; what goes wrong is one line."""
    from sampan.cli.vmdefinition import install
    from sampan.client.http import HTTPTransport
    from sampan.client.kubeconfig import load

    async def run() -> int:
        client = Client(HTTPTransport(load(config.kubeconfig)), user_agent="vm")
        try:
            await install(client)
            return await work(client)
        finally:
            await client.close()

    try:
        return asyncio.run(run())
    except (ClientConnectionError, ConfigError) as error:
        say(f"{error}; start the cluster: sampan up --data-dir {config.data_dir}")
    except ApiError as error:
        say(error.message)
    except VMError as error:
        say(str(error))
    except KeyboardInterrupt:
        return 130
    return 1


def say(text: str) -> None:
    typer.echo(f"sampan: {text}", err=True)


def step(text: str) -> None:
    typer.echo(text, err=True)


async def find(client: Client, name: str, namespace: str) -> Object:
    try:
        return await client.get(VIRTUALMACHINES, name, namespace)
    except ApiError as error:
        if error.code != 404:
            raise
        raise VMError(
            f"there is no virtual machine {name} in {namespace}; see: sampan vm ps"
        ) from None


async def published(client: Client, stored: Object) -> list[str]:
    """Where the machine's ports are."""
    from sampan.client.resources import SERVICES

    if not stored["spec"].get("ports"):
        return []
    metadata = stored["metadata"]
    service = await appeared(client, SERVICES, metadata["namespace"], metadata["name"])
    return [
        f"port {each['port']}  at {service['spec']['clusterIP']}:{each['port']}"
        + (f" and port {each['nodePort']} of this node" if each.get("nodePort") else "")
        for each in service["spec"]["ports"]
    ]


async def appeared(client: Client, gvr: Any, namespace: str, name: str) -> Object:
    async with asyncio.timeout(PATIENCE):
        watch = client.watch(gvr, namespace, field_selector=f"metadata.name={name}")
        async with aclosing(watch) as events:  # type: ignore[type-var]
            async for event in events:
                if event.type != "DELETED":
                    return event.object
    raise VMError(f"the watch on {name} ended; try again")


async def until(client: Client, name: str, namespace: str, phases: tuple[str, ...]) -> Object:
    """Tell each step of the machine until its phase is one of these. Raises VMError with what keeps it."""
    told, trouble = set[str](), ""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                watch = client.watch(
                    VIRTUALMACHINES, namespace, field_selector=f"metadata.name={name}"
                )
                async with aclosing(watch) as events:  # type: ignore[type-var]
                    async for event in events:
                        if event.type == "DELETED":
                            raise VMError(f"{name} was deleted")
                        if event.type == "BOOKMARK":
                            continue
                        found = event.object
                        status = found.get("status") or {}
                        phase = status.get("phase", "Pending")
                        current = (
                            status.get("observedGeneration") == found["metadata"]["generation"]
                        )
                        ready = condition(found, "Ready") or {}
                        trouble = ready.get("message", "")
                        line = f"{phase}  {status.get('ip', '')}  {trouble}".rstrip()
                        if line not in told:
                            told.add(line)
                            step(line)
                        if current and phase in phases:
                            return found
                        if ready.get("reason") in HOPELESS and "Running" in phases:
                            raise VMError(
                                f"{name} does not start: {trouble}. It is tried again all the while; "
                                f"to give it up: sampan vm rm {name}"
                            )
    except TimeoutError:
        raise VMError(
            f"{name} is not {phases[0]} after {PATIENCE:.0f} s{': ' + trouble if trouble else ''}; "
            f"see: sampan vm inspect {name}, sampan kubectl describe pod {name}"
        ) from None


async def gone(client: Client, name: str, namespace: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            page = await client.list(
                VIRTUALMACHINES, namespace, field_selector=f"metadata.name={name}"
            )
            if not page.items:
                return
            watch = client.watch(
                VIRTUALMACHINES, namespace, resource_version=page.resource_version,
                field_selector=f"metadata.name={name}",
            )  # fmt: skip
            async with aclosing(watch) as events:  # type: ignore[type-var]
                async for event in events:
                    if event.type == "DELETED":
                        return
    except TimeoutError:
        raise VMError(
            f"{name} is still there after {PATIENCE:.0f} s; see: sampan vm inspect {name}"
        ) from None
