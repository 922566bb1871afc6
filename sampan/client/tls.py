"""TLS contexts out of PEM bytes, without writing a private key to disk."""

from __future__ import annotations

import os
import ssl
import tempfile

from sampan.client.errors import ConfigError


def client_context(
    ca: bytes, certificate: bytes, key: bytes, *, insecure: bool = False
) -> ssl.SSLContext:
    """Trusts `ca` (empty: the system's), shows `certificate` when there is one. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cadata=ca.decode() if ca else None)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the certificate authority is not PEM: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate:
        try:
            _load_chain(context, certificate, key)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"the client certificate cannot be used: {error}") from error
    return context


def _load_chain(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # OpenSSL wants a path: a file that exists only in memory has one, under /proc.
    pem = certificate.rstrip() + b"\n" + key
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("client-key", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:  # 0600
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
