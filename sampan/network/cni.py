"""CNI pod network: the plugins that the user has configured attach the pods (CNI specification 1.1).

The first configuration by name in the directory counts, as with containerd and CRI-O: a list (`*.conflist`) or one plugin
(`*.conf`, `*.json`). Podman's own is passed over: installing podman must not move a cluster's pods. A pod gets a namespace; `lo` comes up in it; then each plugin of the list is run with ADD, given what
the one before answered. The result is kept on disk, because DEL and CHECK need it, and because a restarted runtime must
find the pod's address without asking anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sampan.network import netns
from sampan.network.errors import CNIError
from sampan.network.pods import Attachment, PodRef
from sampan.network.rtnetlink import Netlink

CONFIGURATION = Path("/etc/cni/net.d")
PLUGINS = (Path("/opt/cni/bin"), Path("/usr/lib/cni"), Path("/usr/libexec/cni"))
INTERFACE = "eth0"
VERSION = "1.0.0"  # of a configuration that names none
FOREIGN = frozenset({"podman"})  # networks that another engine's package brings for itself
PATIENCE = 60.0  # seconds that one plugin gets
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """A network configuration: the plugins in the order in which they add."""

    name: str
    version: str
    plugins: tuple[Object, ...]
    path: Path


def find_configuration(directory: Path) -> Plan | None:
    """The first usable file by name; None when there is none. CNIError for a first file that cannot be read."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return None
    for name in names:
        if name.endswith((".conflist", ".conf", ".json")) and not name.startswith("."):
            plan = read(directory / name)
            if plan.name not in FOREIGN:
                return plan
    return None


def read(path: Path) -> Plan:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CNIError(f"CNI configuration {path}: {error}") from None
    if not isinstance(found, dict):
        found = {}
    plugins: Any = found.get("plugins")
    if plugins is None and found.get("type"):
        plugins = [found]
    good = isinstance(plugins, list) and plugins and all(
        isinstance(each, dict) and isinstance(each.get("type"), str) and "/" not in each["type"]
        for each in plugins
    )  # fmt: skip
    if not good or not isinstance(found.get("name"), str) or not found["name"]:
        raise CNIError(f"CNI configuration {path}: it needs a name, and plugins with a type each")
    return Plan(found["name"], found.get("cniVersion") or VERSION, tuple(plugins), path)


class CNINetwork:
    name = "cni"

    def __init__(
        self,
        directory: Path,
        instance: str,
        *,
        configuration: Path = CONFIGURATION,
        plugins: Sequence[Path] = PLUGINS,
    ) -> None:
        self.instance = instance
        self.configuration = configuration
        self.plugin_path = [str(each) for each in plugins]
        self.directory = Path(directory) / "cni"
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    # PodNetwork

    async def attach(self, pod: PodRef) -> Attachment:
        known = self._stored(pod.sandbox_id)
        path = netns.DIRECTORY / self._namespace(pod.sandbox_id)
        if known is not None and known.get("result") and netns.is_namespace(path):
            return self._attachment(pod.sandbox_id, known["result"])
        if known is not None:
            await self.detach(pod)  # half-made, or from before a reboot
        plan = find_configuration(self.configuration)
        if plan is None:
            raise CNIError(f"no CNI configuration in {self.configuration}")
        for plugin in plan.plugins:
            self._program(plan, plugin)  # before anything is begun that would have to be undone
        owner = [pod.sandbox_id, pod.namespace, pod.name, pod.uid]
        record: Object = {"pod": owner, "plan": self._written(plan)}
        self._store(pod.sandbox_id, record)
        try:
            await asyncio.to_thread(netns.create, self._namespace(pod.sandbox_id), _raise_loopback)
            result: Object | None = None
            for plugin in plan.plugins:
                result = await self._call("ADD", plan, plugin, pod, result)
            if not result or not addresses_of(result):
                raise CNIError(f"CNI network {plan.name}: the plugins gave the pod no address")
        except BaseException:
            with contextlib.suppress(CNIError):
                await self.detach(pod)
            raise
        record["result"] = result
        self._store(pod.sandbox_id, record)
        return self._attachment(pod.sandbox_id, result)

    async def detach(self, pod: PodRef) -> None:
        """Each plugin in reverse is asked to undo what it did. When one fails all are asked again the next time."""
        known = self._stored(pod.sandbox_id)
        if known is not None:
            plan = plan_of(known["plan"])
            ref = PodRef(*known["pod"])
            failed: CNIError | None = None
            for plugin in reversed(plan.plugins):
                try:
                    await self._call("DEL", plan, plugin, ref, known.get("result"))
                except CNIError as error:
                    failed = failed or error
            if failed is not None:
                raise failed
        await asyncio.to_thread(netns.delete, self._namespace(pod.sandbox_id))
        self._record(pod.sandbox_id).unlink(missing_ok=True)

    async def existing(self) -> dict[str, Attachment]:
        found = {}
        for sandbox_id in await self.owners():
            known = self._stored(sandbox_id)
            path = netns.DIRECTORY / self._namespace(sandbox_id)
            if known and known.get("result") and netns.is_namespace(path):
                found[sandbox_id] = self._attachment(sandbox_id, known["result"])
        return found

    async def owners(self) -> list[str]:
        return sorted(path.stem for path in self.directory.glob("*.json"))

    async def check(self, pod: PodRef) -> None:
        """Ask the plugins whether all is as they left it. Raises CNIError."""
        known = self._stored(pod.sandbox_id)
        if known is None or not known.get("result"):
            raise CNIError(f"pod {pod.name} is not attached")
        plan = plan_of(known["plan"])
        for plugin in plan.plugins:
            await self._call("CHECK", plan, plugin, pod, known["result"])

    async def serve_address(self, address: str) -> None:
        """Put an address of the node's own (the cluster DNS) on the host, where pods' routes lead. Idempotent."""

        def add() -> None:
            with Netlink() as netlink:
                netlink.add_address(1, address, 32)

        await asyncio.to_thread(add)

    async def close(self) -> None:
        """Nothing is held open."""

    async def remove(self) -> None:
        """Detach every pod of this instance. Idempotent."""
        for sandbox_id in await self.owners():
            known = self._stored(sandbox_id)
            if known is not None:
                await self.detach(PodRef(*known["pod"]))

    # Plugins

    async def _call(
        self, verb: str, plan: Plan, plugin: Object, pod: PodRef, previous: Object | None
    ) -> Object | None:
        """Run one plugin; its result. CNIError with what it said."""
        program = self._program(plan, plugin)
        given = {**plugin, "name": plan.name, "cniVersion": plan.version}
        if previous is not None:
            given["prevResult"] = {**previous, "cniVersion": plan.version}
        path = netns.DIRECTORY / self._namespace(pod.sandbox_id)
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": pod.namespace,
            "K8S_POD_NAME": pod.name,
            "K8S_POD_INFRA_CONTAINER_ID": pod.sandbox_id,
            "K8S_POD_UID": pod.uid,
        }
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.sandbox_id,
            "CNI_NETNS": str(path) if verb != "DEL" or netns.is_namespace(path) else "",
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
            "CNI_PATH": os.pathsep.join(self.plugin_path),
        }
        process = await asyncio.create_subprocess_exec(
            program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                output, errors = await process.communicate(orjson.dumps(given))
        except BaseException as error:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if isinstance(error, TimeoutError):
                text = f"CNI plugin {plugin['type']} {verb}: no answer within {PATIENCE:.0f} s"
                raise CNIError(text) from None
            raise
        if process.returncode:
            told = refusal(output) or errors.decode(errors="replace").strip()
            raise CNIError(f"CNI plugin {plugin['type']} {verb}: {told or 'failed'}")
        if verb != "ADD":
            return previous
        try:
            return orjson.loads(output) if output.strip() else previous
        except orjson.JSONDecodeError as error:
            raise CNIError(f"CNI plugin {plugin['type']} answered no JSON: {error}") from None

    def _program(self, plan: Plan, plugin: Object) -> str:
        program = shutil.which(plugin["type"], path=os.pathsep.join(self.plugin_path))
        if program is None:
            where = ", ".join(self.plugin_path)
            raise CNIError(f"CNI plugin {plugin['type']} of {plan.name} is not in {where}")
        return program

    # Names and records

    def _namespace(self, sandbox_id: str) -> str:
        return f"{self.instance}-{sandbox_id[:12]}"

    def _record(self, sandbox_id: str) -> Path:
        return self.directory / f"{sandbox_id}.json"

    def _stored(self, sandbox_id: str) -> Object | None:
        try:
            found = orjson.loads(self._record(sandbox_id).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        return found if isinstance(found, dict) and "plan" in found else None

    def _store(self, sandbox_id: str, record: Object) -> None:
        path = self._record(sandbox_id)
        beside = path.with_suffix(".new")
        with open(beside, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(orjson.dumps(record))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)

    def _written(self, plan: Plan) -> Object:
        """The configuration as it was when the pod was attached: it is what has to be undone."""
        return {
            "name": plan.name,
            "version": plan.version,
            "plugins": list(plan.plugins),
            "path": str(plan.path),
        }

    def _attachment(self, sandbox_id: str, result: Object) -> Attachment:
        path = netns.DIRECTORY / self._namespace(sandbox_id)
        return Attachment(str(path), addresses_of(result), INTERFACE)


def plan_of(written: Object) -> Plan:
    return Plan(
        written["name"], written["version"], tuple(written["plugins"]), Path(written["path"])
    )


def addresses_of(result: Object) -> tuple[str, ...]:
    """The pod's addresses, IPv4 first. Results before 0.3.0 name them otherwise."""
    found = [each.get("address", "") for each in result.get("ips") or ()]
    found += [result[old].get("ip", "") for old in ("ip4", "ip6") if result.get(old)]
    plain = [address.partition("/")[0] for address in found if address]
    return tuple(sorted(plain, key=lambda address: ":" in address))


def refusal(output: bytes) -> str:
    """A plugin's error object in words; empty when it is none."""
    try:
        found = orjson.loads(output)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(found, dict) or "msg" not in found:
        return ""
    details = found.get("details")
    return f"{found['msg']}: {details}" if details else str(found["msg"])


def _raise_loopback() -> None:
    with Netlink() as inside:
        inside.set_up(1)  # lo is always the first link
