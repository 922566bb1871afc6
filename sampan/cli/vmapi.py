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
from sampan.client.resources import VIRTUALMACHINES
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
UNREACHED = (
    "without root, ports are reached that --publish names, and no others; "
    "one by one, later: sampan kubectl port-forward"
)


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


async def published(client: Client, stored: Object, address: str) -> list[str]:
    """Where the machine's ports are, and which are nowhere: without root the address is one of the host's own."""
    from sampan.client.resources import SERVICES

    if not stored["spec"].get("ports"):
        return [UNREACHED] if address.startswith("127.") else []
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
    """Tell each step of the machine, and what its pod meets, until its phase is one of these. Raises VMError with what
    keeps it from there."""
    from sampan.cli.vmevents import tell

    waiting = Waiting(client, name, namespace, phases)
    failure: Exception
    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            telling = group.create_task(tell(client, name, namespace, starts="Running" in phases))
            try:
                return await waiting.reach()
            finally:
                telling.cancel()
    except* TimeoutError:
        why = f": {waiting.trouble}" if waiting.trouble else ""
        failure = VMError(
            f"{name} is not {phases[0]} after {PATIENCE:.0f} s{why}; "
            f"see: sampan vm inspect {name}, sampan kubectl describe pod {name}"
        )
    except* (VMError, ApiError, ClientConnectionError) as group_of_one:
        failure = group_of_one.exceptions[0]
    raise failure from None


class Waiting:
    """For a machine to be in one of some phases; `trouble` is what it says of itself meanwhile."""

    def __init__(self, client: Client, name: str, namespace: str, phases: tuple[str, ...]) -> None:
        self.client, self.name, self.namespace, self.phases = client, name, namespace, phases
        self.trouble = ""
        self._told = set[str]()

    async def reach(self) -> Object:
        while True:
            watch = self.client.watch(
                VIRTUALMACHINES, self.namespace, field_selector=f"metadata.name={self.name}"
            )
            async with aclosing(watch) as events:  # type: ignore[type-var]
                async for event in events:
                    if event.type == "DELETED":
                        raise VMError(f"{self.name} was deleted")
                    if event.type != "BOOKMARK" and self.has_reached(event.object):
                        return event.object

    def has_reached(self, found: Object) -> bool:
        """Raises VMError when it will not, without the user's help."""
        status = found.get("status") or {}
        phase = status.get("phase", "Pending")
        ready = condition(found, "Ready") or {}
        self.trouble = ready.get("message", "")
        line = f"{phase}  {status.get('ip', '')}  {self.trouble}".rstrip()
        if line not in self._told:
            self._told.add(line)
            step(line)
        if (
            status.get("observedGeneration") == found["metadata"]["generation"]
            and phase in self.phases
        ):
            return True
        if ready.get("reason") in HOPELESS and "Running" in self.phases:
            raise VMError(
                f"{self.name} does not start: {self.trouble}. It is tried again all the while; "
                f"to give it up: sampan vm rm {self.name}"
            )
        return False


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
