"""Credentials that change while a client lives: token files and exec plug-ins.

A token file is read again when it has changed. A plug-in (client.authentication.k8s.io/v1, as in KEP-541) runs when its
credential is about to expire, or when the server refused it; callers that ask meanwhile wait for the one run.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from sampan.client.errors import ConfigError
from sampan.client.kubeconfig import ExecPlugin, Kubeconfig

EXPIRY_MARGIN = 60.0  # seconds
PLUGIN_TIMEOUT = 120.0


@dataclass(frozen=True, slots=True)
class Credential:
    """What to show the server. `certificate` and `key` are PEM."""

    authorization: str = field(default="", repr=False)
    certificate: bytes = field(default=b"", repr=False)
    key: bytes = field(default=b"", repr=False)


class Credentials:
    """The present credential of a kubeconfig. `clock` gives seconds since the epoch."""

    def __init__(self, config: Kubeconfig, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        self._lock = asyncio.Lock()
        self._expires = float("inf")
        self._file_stamp: tuple[int, int] | None = None
        self._current = Credential(_static(config), config.certificate, config.key)
        self._fetched = False

    @property
    def renewable(self) -> bool:
        """Whether asking again after a refusal can help."""
        return self._config.exec is not None or bool(self._config.token_file)

    async def get(self, *, refused: Credential | None = None) -> Credential:
        """The credential to use now; `refused` is the one that the server did not accept. Raises ConfigError."""
        if self._config.token_file:
            self._read_token_file(self._config.token_file)
        elif self._config.exec is not None:
            async with self._lock:
                stale = self._clock() > self._expires - EXPIRY_MARGIN
                if not self._fetched or stale or refused is self._current:
                    await self._run(self._config.exec)
        return self._current

    def renew(self, certificate: bytes, key: bytes) -> None:
        """Show this client certificate (PEM) from the next connection on."""
        self._current = Credential(self._current.authorization, certificate, key)

    def _read_token_file(self, path: str) -> None:
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._file_stamp:
                with open(path) as file:
                    token = file.read().strip()
                self._current = Credential(
                    f"Bearer {token}", self._config.certificate, self._config.key
                )
                self._file_stamp = stamp
        except OSError as error:
            if self._file_stamp is None:  # else go on with the token that was read last
                raise ConfigError(f"{path}: {error.strerror}") from error

    async def _run(self, plugin: ExecPlugin) -> None:
        name = os.path.basename(plugin.command)
        environment = {**os.environ, **dict(plugin.env)}
        environment["KUBERNETES_EXEC_INFO"] = orjson.dumps(self._info(plugin)).decode()
        try:
            process = await asyncio.create_subprocess_exec(
                plugin.command,
                *plugin.args,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            hint = f"\n{plugin.install_hint}" if plugin.install_hint else ""
            raise ConfigError(
                f"credential plug-in {plugin.command}: {error.strerror}{hint}"
            ) from error
        try:
            async with asyncio.timeout(PLUGIN_TIMEOUT):
                out, err = await process.communicate()
        except BaseException as error:
            process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise ConfigError(
                    f"credential plug-in {name}: no answer in {PLUGIN_TIMEOUT:.0f} s"
                ) from error
            raise
        if process.returncode != 0:
            said = err.decode("utf-8", "replace").strip()[-500:]
            raise ConfigError(f"credential plug-in {name} failed ({process.returncode}): {said}")
        self._take(name, out)

    def _take(self, name: str, out: bytes) -> None:
        try:
            document = orjson.loads(out)
            status = document["status"]
            if document["kind"] != "ExecCredential":
                raise ValueError(f"kind is {document['kind']}")
            token = status.get("token", "")
            certificate = status.get("clientCertificateData", "").encode()
            key = status.get("clientKeyData", "").encode()
            expires = status.get("expirationTimestamp")
            until = datetime.fromisoformat(expires).timestamp() if expires else float("inf")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"credential plug-in {name}: not an ExecCredential: {error}"
            ) from error
        self._expires = until
        self._fetched = True
        self._current = Credential(f"Bearer {token}" if token else "", certificate, key)

    def _info(self, plugin: ExecPlugin) -> dict[str, object]:
        spec: dict[str, object] = {"interactive": False}
        if plugin.provide_cluster_info:
            config = self._config
            cluster: dict[str, object] = {"server": config.server}
            if config.ca:
                cluster["certificate-authority-data"] = base64.b64encode(config.ca).decode()
            if config.tls_server_name:
                cluster["tls-server-name"] = config.tls_server_name
            if config.insecure:
                cluster["insecure-skip-tls-verify"] = True
            spec["cluster"] = cluster
        return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}


def _static(config: Kubeconfig) -> str:
    if config.token:
        return f"Bearer {config.token}"
    if config.username:
        pair = f"{config.username}:{config.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()
    return ""
