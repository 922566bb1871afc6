"""A node's own certificates, renewed by itself through the API before they expire: one to be a client, one to serve.

When seven tenths of a certificate's life are over (kubelet: 70 to 90 percent) a CertificateSigningRequest with the same key is made,
the cluster approves it since it names nobody but this node, and the certificate takes the old one's place in one rename. A
request that is not granted in time is given up and tried again later; until then the old certificate serves. What somebody
else has put there meanwhile is taken into use as well.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from sampan.client.client import Client
from sampan.client.resources import CERTIFICATESIGNINGREQUESTS, NODES
from sampan.kube.der import Certificate, read_certificate
from sampan.kube.errors import ApiError
from sampan.kube.signing_requests import (
    CLIENT_AUTH,
    KUBELET_CLIENT,
    KUBELET_SERVING,
    NODE_PREFIX,
    SERVER_AUTH,
    SIGNATURE,
)
from sampan.kube.signing_requests import (
    NODES as NODES_GROUP,
)

log = logging.getLogger(__name__)

SHARE = 0.7  # of its life after which a certificate is renewed
NAP = 24 * 3600.0  # seconds: clocks are set, machines are suspended
PATIENCE = 15 * 60.0  # for a request to be granted
PAUSE = 15 * 60.0  # after one that was not
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Own:
    """One certificate of the node's, and what to do when it was replaced."""

    crt: Path
    key: Path
    serving: bool
    renewed: Callable[[], None]

    @property
    def signer(self) -> str:
        return KUBELET_SERVING if self.serving else KUBELET_CLIENT

    @property
    def usages(self) -> list[str]:
        return [SIGNATURE, SERVER_AUTH if self.serving else CLIENT_AUTH]

    def read(self) -> Certificate:
        """Raises OSError or ValueError."""
        return read_certificate(self.crt.read_bytes())


def due(certificate: Certificate) -> float:
    """When it is to be renewed, in seconds since the epoch."""
    begin, end = certificate.not_before.timestamp(), certificate.not_after.timestamp()
    return begin + SHARE * (end - begin)


class Rotation:
    """`clock` gives seconds since the epoch."""

    def __init__(
        self,
        client: Client,
        node: str,
        certificates: Sequence[Own],
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.client = client
        self.node = node
        self.certificates = certificates
        self.clock = clock
        self.sleep = sleep

    async def run(self) -> None:
        """Until cancelled. One task of the node."""
        async with asyncio.TaskGroup() as group:
            for own in self.certificates:
                group.create_task(self._keep(own), name=f"rotation of {own.crt.name}")

    async def _keep(self, own: Own) -> None:
        used: Certificate | None = None
        while True:
            try:
                present = own.read()
                if used is not None and present != used:
                    own.renewed()
                used = present
                left = due(present) - self.clock()
                if left > 0:
                    await self.sleep(min(left, NAP))
                    continue
                async with asyncio.timeout(PATIENCE):
                    replace(own.crt, await self.request(own))
                log.info("%s was renewed", own.crt.name)
            except (ApiError, OSError, TimeoutError, ValueError) as error:
                log.warning("%s cannot be renewed yet: %s", own.crt.name, error or "not granted")
                await self.sleep(PAUSE)

    async def request(self, own: Own) -> bytes:
        """A new certificate for the same key, PEM. Raises ApiError, ValueError."""
        names = await self.names() if own.serving else ()
        encoded = await asyncio.to_thread(request_for, self.node, own.key, names)
        made = await self.client.create(
            CERTIFICATESIGNINGREQUESTS,
            {
                "apiVersion": "certificates.k8s.io/v1",
                "kind": "CertificateSigningRequest",
                "metadata": {"generateName": "csr-"},
                "spec": {"request": encoded, "signerName": own.signer, "usages": own.usages},
            },
        )
        name = made["metadata"]["name"]
        while True:
            watch: Any = self.client.watch(
                CERTIFICATESIGNINGREQUESTS, field_selector=f"metadata.name={name}"
            )
            async with aclosing(watch) as events:
                async for event in events:
                    if event.type == "DELETED":
                        raise ValueError(f"the request {name} was deleted")
                    found = granted(event.object)
                    if found:
                        return found

    async def names(self) -> tuple[str, ...]:
        """What the node is reached by, as it says itself."""
        node = await self.client.get(NODES, self.node)
        addresses = (node.get("status") or {}).get("addresses") or ()
        known = (self.node, *LOOPBACK, *(each.get("address") or "" for each in addresses))
        return tuple(dict.fromkeys(filter(None, known)))


def granted(request: dict[str, Any]) -> bytes:
    """The certificate, b"" while there is none. Raises ValueError when there will be none."""
    status = request.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("type") in ("Denied", "Failed"):
            name = request["metadata"]["name"]
            raise ValueError(f"the request {name} was refused: {condition.get('message', '')}")
    return base64.b64decode(status.get("certificate") or "")


def request_for(node: str, key: Path, names: Sequence[str]) -> str:
    """`spec.request` for the key on disk."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, NODES_GROUP),
            x509.NameAttribute(NameOID.COMMON_NAME, NODE_PREFIX + node),
        ]
    )
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    if names:
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    pem = builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return base64.b64encode(pem).decode()


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def replace(path: Path, pem: bytes) -> None:
    """Put a certificate in the place of another, in one step and durably. Raises ValueError for what is none."""
    read_certificate(pem)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with beside.open("wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
