"""The VirtualMachine that the options of `sampan vm run` describe, and what is checked before it is made."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampan.cli.config import Config
from sampan.cli.vmapi import VMError
from sampan.client.resources import VIRTUALMACHINES

Object = dict[str, Any]
NODE_PORTS = (30000, 32767)
SSH_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


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


def identities() -> list[Path]:
    """The user's keys, by their private halves."""
    found = [Path("~/.ssh").expanduser() / name for name in SSH_KEYS]
    return [path for path in found if path.with_suffix(".pub").is_file()]


def own_keys() -> list[str]:
    """The user's public keys. Raises VMError when there is none."""
    keys = [path.with_suffix(".pub").read_text().strip() for path in identities()]
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


def kernel_of(config: Config, wanted: str) -> str:
    """The release of a kernel of this node; what names an image or a file is brought. Raises VMError."""
    from sampan.cli.vmkernels import bring, installed, is_source
    from sampan.runtime.microvm.errors import BadArtifact

    if is_source(wanted):
        try:
            return bring(config, wanted)
        except BadArtifact as error:
            raise VMError(f"--kernel {error}") from error
    if wanted not in installed(config):
        raise VMError(
            f"--kernel {wanted}: this node has no such kernel; those that it has: sampan vm kernels. "
            "Debian's newest is brought by: sampan vm kernels fetch"
        )
    return wanted
