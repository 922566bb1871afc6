"""`sampan vm …`: virtual machines with Docker's habits, as `VirtualMachine` objects of the cluster.

Everything goes through the API: these commands write objects and wait for what the controller and the node make of them.
Streams (logs, exec, attach) are the pod's own subresources, by the user's kubectl.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import typer

from sampan.cli.config import Config
from sampan.cli.images import print_table
from sampan.client.client import Client
from sampan.client.errors import ClientConnectionError, ConfigError
from sampan.controllers.virtualmachine import VIRTUALMACHINES
from sampan.kube.errors import ApiError
from sampan.kube.objects import condition, parse_time

Object = dict[str, Any]
PATIENCE = 120.0  # seconds for a machine to run or to stop; the first of a size boots its template
HOPELESS = (
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CannotStart",
)  # without the user's help
NODE_PORTS = (30000, 32767)
SSH_KEYS = ("id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub")


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


# run


def machine(
    image: str,
    *,
    name: str,
    namespace: str,
    arguments: Sequence[str],
    cpus: int,
    memory: str,
    size: str,
    environment: Sequence[str],
    publish: Sequence[str],
    volumes: Sequence[str],
    keys: Sequence[str],
    restart: str,
    interactive: bool,
    terminal: bool,
    kernel: str = "",
) -> Object:
    """The VirtualMachine that the options describe. Raises VMError naming the option."""
    spec: Object = {"image": image, "cpus": cpus, "memory": amount("--memory", memory)}
    if size:
        spec["size"] = amount("--size", size)
    if kernel:
        spec["kernel"] = kernel
    if arguments:
        spec["args"] = list(arguments)
    spec["restartPolicy"] = restart
    if interactive:
        spec["stdin"] = True
    if terminal:
        spec["tty"] = True
    if environment:
        spec["env"] = [variable(each) for each in environment]
    ports = [port(each) for each in publish]
    if keys:
        spec["ssh"] = {"authorizedKeys": list(keys)}
    if ports:
        spec["ports"] = ports
    if volumes:
        spec["volumes"] = [volume(number, each) for number, each in enumerate(volumes)]
    return {
        "apiVersion": VIRTUALMACHINES.api_version,
        "kind": "VirtualMachine",
        "metadata": {"name": name or invent(image), "namespace": namespace},
        "spec": spec,
    }


def amount(option: str, text: str) -> str:
    """Docker's 512m and 2g, Kubernetes' 512Mi and 2Gi."""
    found = re.fullmatch(r"([1-9]\d*)\s*(m|mi|mib|mb|g|gi|gib|gb)", text.strip().lower())
    if found is None:
        raise VMError(f"{option} {text}: expected a number of MiB or GiB, as in 512m or 2g")
    return f"{found[1]}{'Mi' if found[2].startswith('m') else 'Gi'}"


def variable(text: str) -> Object:
    name, equals, value = text.partition("=")
    if not name:
        raise VMError(f"--env {text}: expected NAME=VALUE, or NAME to take it from here")
    return {"name": name, "value": value if equals else os.environ.get(name, "")}


def port(text: str) -> Object:
    """[NODEPORT:]PORT[/udp]."""
    found = re.fullmatch(r"(?:(\d+):)?(\d+)(?:/(tcp|udp))?", text.lower())
    if found is None or not 0 < int(found[2]) < 65536:
        raise VMError(f"--publish {text}: expected [NODEPORT:]PORT[/udp], as in 30080:80")
    outer = int(found[1] or 0)
    if outer and not NODE_PORTS[0] <= outer <= NODE_PORTS[1]:
        raise VMError(
            f"--publish {text}: ports of the node are {NODE_PORTS[0]}-{NODE_PORTS[1]}; take one of those, or reach the "
            f"machine on a port of your own with: sampan kubectl port-forward pod/NAME {outer}:{found[2]}"
        )
    return {"port": int(found[2]), "nodePort": outer, "protocol": (found[3] or "tcp").upper()}


def volume(number: int, text: str) -> Object:
    """/HOST/PATH:/PATH[:ro] | claim:NAME:/PATH[:ro] | configmap:NAME:/PATH | secret:NAME:/PATH | tmp:/PATH."""
    kind, _, rest = text.partition(":")
    name = f"v{number}"
    if kind == "tmp" and rest.startswith("/"):
        return {"name": name, "mountPath": rest, "emptyDir": {}}
    if kind in ("configmap", "secret", "claim"):
        source, _, path = rest.partition(":")
        path, _, mode = path.partition(":")
        if source and path.startswith("/") and mode in ("", "ro"):
            key = {
                "configmap": {"configMap": {"name": source}},
                "secret": {"secret": {"secretName": source}},
                "claim": {"persistentVolumeClaim": {"claimName": source}},
            }[kind]
            return {
                "name": name,
                "mountPath": path,
                "readOnly": bool(mode) or kind != "claim",
                **key,
            }
    elif kind.startswith(("/", ".")):
        path, _, mode = rest.partition(":")
        if path.startswith("/") and mode in ("", "ro"):
            source = str(Path(kind).absolute())
            return {
                "name": name,
                "mountPath": path,
                "readOnly": mode == "ro",
                "hostPath": {"path": source},
            }
    raise VMError(
        f"--volume {text}: expected /HOST/PATH:/PATH[:ro], tmp:/PATH, configmap:NAME:/PATH, secret:NAME:/PATH or claim:NAME:/PATH[:ro]"
    )


def invent(image: str) -> str:
    """A name nobody has: what the image is called, and four letters."""
    last = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    stem = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")
    if not stem or not stem[0].isalpha():
        stem = f"vm-{stem}".rstrip("-")
    return f"{stem[:50].rstrip('-')}-{secrets.token_hex(2)}"


def own_keys() -> list[str]:
    """The user's public keys. Raises VMError when there is none."""
    found = [Path("~/.ssh").expanduser() / name for name in SSH_KEYS]
    keys = [path.read_text().strip() for path in found if path.is_file()]
    if not keys:
        raise VMError("--ssh: you have no key in ~/.ssh; make one with: ssh-keygen -t ed25519")
    return keys


def require_sshd(config: Config, image: str) -> None:
    """Raises VMError unless the image, when this node has it, brings an SSH server."""
    from sampan.cli.images import open_store
    from sampan.image.errors import ImageError
    from sampan.image.lookup import find as find_file

    store = open_store(config.data_dir)
    try:
        try:
            store.inspect(image)
        except ImageError:
            asyncio.run(store.pull(image))
        layers = asyncio.run(store.unpack(image)).layers
    except ImageError as error:
        raise VMError(f"--ssh: {error}") from None
    wanted = ("/usr/sbin/sshd", "/bin/sh")
    if missing := [path for path in wanted if find_file(layers, path) is None]:
        raise VMError(
            f"--ssh: {image} has no {' and no '.join(missing)}; add openssh-server to the image, "
            "or leave --ssh away and use: sampan vm exec NAME -- COMMAND"
        )


def require_kernel(config: Config, wanted: str) -> None:
    """Raises VMError unless `wanted` is a kernel of this node."""
    from sampan.cli.vmkernels import installed

    if wanted not in installed(config):
        raise VMError(
            f"--kernel {wanted}: this node has no such kernel; those that it has: sampan vm kernels. "
            "Debian's newest is brought by: sampan vm kernels fetch"
        )


def run(config: Config, image: str, *, ssh: bool, kernel: str, wait: bool, **options: Any) -> int:
    try:
        if kernel:
            require_kernel(config, kernel)
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
        if wait:
            await until(client, name, namespace, ("Running", "Stopped", "Failed"))
        for line in await published(client, stored):
            step(line)
        typer.echo(name)
        return 0

    return with_api(config, work)


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


def inspect(config: Config, names: Sequence[str], namespace: str) -> int:
    import json

    async def work(client: Client) -> int:
        found = [await find(client, name, namespace) for name in names]
        for each in found:
            each["metadata"].pop("managedFields", None)
        typer.echo(json.dumps(found, indent=4))
        return 0

    return with_api(config, work)


def stream(config: Config, verb: str, namespace: str, name: str, rest: Sequence[str] = ()) -> int:
    """Become kubectl on the machine's pod."""
    from sampan.cli.kubectl import execute

    async def work(client: Client) -> int:
        found = await find(client, name, namespace)
        status = found.get("status") or {}
        if not status.get("podName"):
            raise VMError(
                f"{name} is {status.get('phase', 'Pending')}; start it: sampan vm start {name}"
            )
        return 0

    failed = with_api(config, work)
    options, _, command = _split(rest)
    return failed or execute(
        config, ["-n", namespace, verb, *options, f"pod/{name}", "-c", "vm", *command]
    )


def attach(config: Config, name: str, namespace: str) -> int:
    """Become kubectl attached to the machine's program, with a terminal if it has one."""
    spec: Object = {}

    async def work(client: Client) -> int:
        spec.update((await find(client, name, namespace))["spec"])
        return 0

    failed = with_api(config, work)
    options = [*(["-i"] if spec.get("stdin") else []), *(["-t"] if spec.get("tty") else [])]
    return failed or stream(config, "attach", namespace, name, options)


def _split(rest: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Options before `--`, and `--` with what follows."""
    items = list(rest)
    if "--" not in items:
        return items, "", []
    at = items.index("--")
    return items[:at], "--", items[at:]


def execute_in(
    config: Config, name: str, namespace: str, command: Sequence[str], *, stdin: bool, tty: bool
) -> int:
    if not command:
        say(f"exec: no command; for a shell: sampan vm exec -it {name} -- sh")
        return 2
    tty = tty and sys.stdin.isatty()
    options = [*(["-i"] if stdin else []), *(["-t"] if tty else [])]
    return stream(config, "exec", namespace, name, [*options, "--", *command])


def ssh(config: Config, name: str, namespace: str, arguments: Sequence[str]) -> int:
    """Become ssh to the machine's address."""
    program = shutil.which("ssh")
    address = ""

    async def work(client: Client) -> int:
        nonlocal address
        found = await find(client, name, namespace)
        if not found["spec"].get("ssh"):
            raise VMError(
                f"{name} was not run with --ssh, so nothing listens there; use: sampan vm exec -it {name} -- sh"
            )
        address = (found.get("status") or {}).get("ip", "")
        if not address:
            raise VMError(f"{name} has no address yet; start it: sampan vm start {name}")
        if program is None:
            raise VMError(
                "there is no ssh on the PATH; get it with: apt-get install openssh-client"
            )
        return 0

    failed = with_api(config, work)
    if failed or program is None:
        return failed
    # A machine has new host keys at each start, and an address that another had before.
    known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]  # fmt: skip
    return subprocess.run([program, *known, f"root@{address}", *arguments], check=False).returncode
