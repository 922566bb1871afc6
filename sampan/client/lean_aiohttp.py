"""Importing this imports aiohttp, without the system's certificate authorities.

aiohttp makes a TLS context when it is imported, and reads every authority of the system into it: 45 of the 140 ms that the
import takes, and 1 MB. Parts of a cluster speak to each other under the cluster's own authority, so nobody here uses that
context: whoever speaks to strangers gives one of their own (`image.transport`, `apiserver.webhook_client`, `client.tls`). One
that forgets it trusts nobody.
"""

from __future__ import annotations

import os

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # where OpenSSL is told to look, if it is told

_told = {name: os.environ.get(name) for name in _PLACES}
os.environ |= dict.fromkeys(_PLACES, os.devnull)
try:
    import aiohttp.web_server
finally:
    for _name, _value in _told.items():
        if _value is None:
            del os.environ[_name]
        else:
            os.environ[_name] = _value

__all__ = ["aiohttp"]
