"""Streams of a machine: its pod's own subresources, by the user's kubectl; and the user's ssh."""

from __future__ import annotations

import ipaddress
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sampan.cli.config import Config
from sampan.cli.vmapi import VMError, find, say, with_api
from sampan.cli.vmoptions import identities
from sampan.client.client import Client

Object = dict[str, Any]


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
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]  # fmt: skip
    # Named, since ssh looks for them in the home of the user database, where $HOME may be another.
    options += itertools.chain.from_iterable(("-i", str(path)) for path in identities())
    try:
        with door(config, name, namespace, address) as (host, port):
            command = [program, *options, "-p", str(port), f"root@{host}", *arguments]
            return subprocess.run(command, check=False).returncode
    except VMError as error:
        say(str(error))
        return 1


@contextmanager
def door(config: Config, name: str, namespace: str, address: str) -> Iterator[tuple[str, int]]:
    """Where the machine's sshd is reached: at its address, or (a machine without root, whose address has its declared
    ports alone, and no port 22 that a user might open) behind the API's port-forward. Raises VMError."""
    if not ipaddress.ip_address(address).is_loopback:
        yield address, 22
        return
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise VMError(
            "without root a machine is reached through kubectl port-forward, and kubectl is not on the PATH"
        )
    command = [kubectl, "--kubeconfig", str(config.kubeconfig), "-n", namespace, "port-forward"]
    with subprocess.Popen(
        [*command, f"pod/{name}", ":22"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as forwarding:
        assert forwarding.stdout is not None and forwarding.stderr is not None
        try:
            found = re.search(r"127\.0\.0\.1:(\d+)", forwarding.stdout.readline())
            if found is None:
                raise VMError(f"kubectl port-forward: {forwarding.stderr.read().strip()}")
            yield "127.0.0.1", int(found[1])
        finally:
            forwarding.terminate()
