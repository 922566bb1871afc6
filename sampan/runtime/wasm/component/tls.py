"""TLS for a guest's calls out: spoken by the worker, with the certificate authorities that the image brings, else the host's.

A bundle is opened while its file is in reach and read when the first call needs it: to take in some hundred and fifty certificates
takes 10 ms and a megabyte.
"""

from __future__ import annotations

import os
import select
import socket
import ssl

from sampan.runtime.wasm.component.types import CodedError

# Where distributions keep the bundle: Debian and most others, Fedora, Alpine.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
VARIABLE = "SSL_CERT_FILE"  # names another, as for OpenSSL
LARGEST = 16 << 20  # bytes of a bundle


def open_first(paths: list[str]) -> int:
    """A descriptor of the first plain file that is there, -1 when none is."""
    for path in paths:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
    return -1


class Authorities:
    """Whom to believe. `bundle`: a descriptor of PEM certificates, -1: nobody."""

    def __init__(self, bundle: int) -> None:
        self._bundle = bundle
        self._context: ssl.SSLContext | None = None

    def wrap(self, connection: socket.socket, host: str) -> ssl.SSLSocket:
        """TLS over a connection that does not block, before its handshake. Raises CodedError."""
        try:
            if self._context is None:
                self._context = self._load()
            return self._context.wrap_socket(
                connection, server_hostname=host, do_handshake_on_connect=False
            )
        except (OSError, ValueError):
            pass  # what is kept of an error here would keep this frame
        raise CodedError("TLS-protocol-error")

    def _load(self) -> ssl.SSLContext:
        """Raises OSError or ValueError for what is no bundle."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if self._bundle >= 0:
            text = b""
            while piece := os.pread(self._bundle, LARGEST, len(text)):
                text += piece
                if len(text) > LARGEST:
                    raise ValueError("the bundle is too large")
            context.load_verify_locations(cadata=text.decode("ascii", "replace"))
        return context


def shake(connection: ssl.SSLSocket) -> int:
    """Go on with the handshake: what to wait for, 0 when it is done. Raises CodedError."""
    try:
        connection.do_handshake()
        return 0
    except ssl.SSLWantReadError:
        return select.POLLIN
    except ssl.SSLWantWriteError:
        return select.POLLOUT
    except ssl.SSLCertVerificationError:
        code = "TLS-certificate-error"
    except ssl.SSLError:
        code = "TLS-protocol-error"
    except OSError:
        code = "connection-terminated"
    raise CodedError(code)
