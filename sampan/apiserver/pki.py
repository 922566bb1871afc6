"""The cluster's own certificate authority and everything that it signs.

One rule makes a crash at any point harmless: a private key, once on disk, is never replaced; it is written before its
certificate; and a certificate is replaced in one rename. So a key always exists before anything names it, and a renewal
touches exactly one file. `ensure_pki` looks at every pair and issues only what is missing, soon to expire, signed by
another CA, or made for other names; when all is well it reads a few small files and imports nothing heavy.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.kube.der import Certificate, read_certificate

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=365)
RENEW_BEFORE = timedelta(days=90)
BACKDATE = timedelta(minutes=5)  # clients whose clock is a little behind

CA_NAME = "sampan-ca"
FRONT_PROXY_CA = "sampan-front-proxy-ca"
FRONT_PROXY_CLIENT = "front-proxy-client"
UNSPECIFIED = ("0.0.0.0", "::")  # one may listen there, nobody connects to it
SERVICE_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
)


class PKIError(Exception):
    """The directory holds something that cannot be used and must not be overwritten (a user's CA without its key)."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a certificate and its key are."""

    crt: Path
    key: Path


@dataclass(frozen=True, slots=True)
class PKIPaths:
    directory: Path
    ca: Pair
    apiserver: Pair  # serving certificate of the API server
    admin: Pair  # client: system:masters
    node: Pair  # client: system:node:NAME
    node_serving: Pair  # serving certificate of the node's HTTPS endpoint
    kubelet_client: Pair  # client: API server → node
    front_proxy_ca: Pair  # an authority of its own: whoever it signs may say who asks
    front_proxy_client: Pair  # client: API server → extension API servers
    service_account_key: Path  # signs service-account tokens (EC P-256, PKCS #8)
    service_account_public: Path

    @classmethod
    def under(cls, directory: Path) -> PKIPaths:
        def pair(name: str) -> Pair:
            return Pair(directory / f"{name}.crt", directory / f"{name}.key")

        return cls(
            directory=directory,
            ca=pair("ca"),
            apiserver=pair("apiserver"),
            admin=pair("admin"),
            node=pair("node"),
            node_serving=pair("node-serving"),
            kubelet_client=pair("kubelet-client"),
            front_proxy_ca=pair("front-proxy-ca"),
            front_proxy_client=pair("front-proxy-client"),
            service_account_key=directory / "service-account.key",
            service_account_public=directory / "service-account.pub",
        )


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a certificate must say."""

    pair: Pair
    common_name: str
    organizations: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()  # DNS names and addresses; none: a client certificate

    @property
    def serving(self) -> bool:
        return bool(self.names)


def ensure_pki(
    directory: Path,
    *,
    node_name: str = "",
    service_ip: str = "10.43.0.1",
    cluster_domain: str = "cluster.local",
    extra_names: Iterable[str] = (),
    node_names: Iterable[str] = (),
    now: datetime | None = None,
) -> PKIPaths:
    """Make `directory` hold a complete, valid set; idempotent. `extra_names` are further DNS names and addresses of the
    API server, `node_names` of the node; a node's name and names that are not given stay as they are. Raises PKIError when a CA certificate is there without its key."""
    now = now or datetime.now(UTC)
    paths = PKIPaths.under(directory)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.chmod(0o700)
    for left_over in directory.glob(".*.part"):  # of a run that was killed while it wrote
        left_over.unlink(missing_ok=True)
    host = socket.gethostname()
    local = ("localhost", "127.0.0.1", "::1", host)
    node_name = node_name or _present_node(paths.node) or host.lower()
    server_names = frozenset(
        canonical_name(name)
        for name in (
            *local,
            service_ip,
            *SERVICE_NAMES,
            f"kubernetes.default.svc.{cluster_domain}",
            *extra_names,
        )
        if name not in UNSPECIFIED
    )
    leaves = (
        Leaf(paths.apiserver, "kube-apiserver", names=server_names),
        Leaf(paths.admin, "kubernetes-admin", ("system:masters",)),
        Leaf(paths.node, f"system:node:{node_name}", ("system:nodes",)),
        Leaf(
            paths.node_serving,
            f"system:node:{node_name}",
            ("system:nodes",),
            frozenset(
                canonical_name(name)
                for name in (*local, node_name, *node_names)
                if name not in UNSPECIFIED
            )
            | (frozenset() if node_names else _present_names(paths.node_serving)),
        ),
        Leaf(paths.kubelet_client, "kube-apiserver-kubelet-client", ("system:masters",)),
    )
    authority = _ensure_ca(paths.ca, now)
    for leaf in leaves:
        if not is_current(leaf, authority, now):
            issue(leaf, paths.ca, now)
    front_proxy = _ensure_ca(paths.front_proxy_ca, now, FRONT_PROXY_CA)
    client = Leaf(paths.front_proxy_client, FRONT_PROXY_CLIENT)
    if not is_current(client, front_proxy, now):
        issue(client, paths.front_proxy_ca, now)
    _ensure_signing_key(paths)
    return paths


def _present_node(pair: Pair) -> str:
    """The node that the certificate on disk names: who does not say another one keeps it."""
    try:
        return read_certificate(pair.crt.read_bytes()).common_name.removeprefix("system:node:")
    except (OSError, ValueError):
        return ""


def _present_names(pair: Pair) -> frozenset[str]:
    try:
        return read_certificate(pair.crt.read_bytes()).names
    except (OSError, ValueError):
        return frozenset()


def canonical_name(name: str) -> str:
    """An address in its one canonical form, anything else in lower case, so that sets of names compare."""
    try:
        return str(ip_address(name.strip("[]")))
    except ValueError:
        return name.lower()


def is_current(leaf: Leaf, authority: Certificate, now: datetime) -> bool:
    """The pair on disk belongs together, says what `leaf` wants, is signed by `authority`, and stays valid a while."""
    try:
        certificate = read_certificate(leaf.pair.crt.read_bytes())
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(leaf.pair.crt, leaf.pair.key)
    except (OSError, ValueError):  # ssl.SSLError, a key of another certificate, is an OSError
        return False
    return (
        certificate.common_name == leaf.common_name
        and certificate.organizations == leaf.organizations
        and certificate.names == leaf.names
        and certificate.authority_key_id == authority.key_id
        and certificate.not_before <= now
        and now + RENEW_BEFORE < certificate.not_after
    )


def _ensure_ca(pair: Pair, now: datetime, common_name: str = CA_NAME) -> Certificate:
    if pair.crt.exists():
        if not pair.key.exists():
            raise PKIError(f"{pair.crt} has no key beside it: restore {pair.key} or remove both")
        _restrict(pair.key)
        try:
            return read_certificate(pair.crt.read_bytes())
        except ValueError as error:
            raise PKIError(f"{pair.crt}: {error}") from error
    from cryptography import x509

    key = _load_or_make_key(pair.key)
    name = _name(common_name, ())
    builder = _builder(name, name, key.public_key(), key.public_key(), now, CA_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    _write_certificate(pair.crt, builder, key)
    return read_certificate(pair.crt.read_bytes())


def issue(leaf: Leaf, ca: Pair, now: datetime) -> None:
    """Sign a certificate for `leaf` and put it in place; its key is kept when there is one."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    authority = x509.load_pem_x509_certificate(ca.crt.read_bytes())
    authority_key = _load_or_make_key(ca.key)
    key = _load_or_make_key(leaf.pair.key)
    builder = _builder(
        _name(leaf.common_name, leaf.organizations),
        authority.subject,
        key.public_key(),
        authority_key.public_key(),
        now,
        min(LEAF_LIFETIME, authority.not_valid_after_utc - now),
    )
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if leaf.serving else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    if leaf.names:
        names = x509.SubjectAlternativeName([_general_name(name) for name in sorted(leaf.names)])
        builder = builder.add_extension(names, critical=False)
    _write_certificate(leaf.pair.crt, builder, authority_key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    authority_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    from cryptography import x509

    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False
        )
    )


def _name(common_name: str, organizations: tuple[str, ...]) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, value) for value in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.exists():
        _restrict(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        return key  # type: ignore[return-value]  # a user's RSA CA signs as well as an EC one
    made = ec.generate_private_key(ec.SECP256R1())
    pem = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_file(path, pem, 0o600)
    return made


def _write_certificate(
    path: Path, builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey
) -> None:
    from cryptography.hazmat.primitives import hashes, serialization

    certificate = builder.sign(key, hashes.SHA256())
    write_file(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _ensure_signing_key(paths: PKIPaths) -> None:
    if paths.service_account_key.exists() and paths.service_account_public.exists():
        _restrict(paths.service_account_key)
        return
    from cryptography.hazmat.primitives import serialization

    public = _load_or_make_key(paths.service_account_key).public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_file(paths.service_account_public, pem, 0o644)


def _restrict(key: Path) -> None:
    if key.stat().st_mode & 0o077:
        key.chmod(0o600)


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Replace `path` in one step, durable on return: a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: {context}
clusters:
- name: {cluster}
  cluster:
    server: {server}
    certificate-authority-data: {authority}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {context}
  context:
    cluster: {cluster}
    user: {user}
preferences: {{}}
"""


def write_kubeconfig(
    path: Path, server: str, ca: Path, client: Pair, *, cluster: str = "sampan", user: str = "admin"
) -> bool:
    """Write a self-contained kubeconfig (0600); False when the file already says exactly this."""

    def encoded(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    text = KUBECONFIG.format(
        context=cluster,
        cluster=cluster,
        server=server,
        authority=encoded(ca),
        user=user,
        certificate=encoded(client.crt),
        key=encoded(client.key),
    ).encode()
    try:
        if path.read_bytes() == text:
            _restrict(path)
            return False
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file(path, text, 0o600)
    return True


def write_admin_kubeconfig(path: Path, server: str, paths: PKIPaths) -> bool:
    return write_kubeconfig(path, server, paths.ca.crt, paths.admin)


def write_node_kubeconfig(path: Path, server: str, paths: PKIPaths) -> bool:
    return write_kubeconfig(path, server, paths.ca.crt, paths.node, user="node")
