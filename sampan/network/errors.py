"""Errors of the network room.

NetworkError
├── NetlinkError      the kernel refused a link, address or route; carries `errno`
├── AddressesExhausted  no free address is left in the pod range
├── NamespaceError    a network namespace could not be made or entered
├── NftError          nft refused the table; quotes its stderr
└── CNIError          a CNI configuration that cannot be used, or a plugin that refused; with its own words
"""

from __future__ import annotations

import os


class NetworkError(Exception):
    """Root of this room's errors."""


class NetlinkError(NetworkError):
    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.errno = number


class AddressesExhausted(NetworkError):
    pass


class NamespaceError(NetworkError):
    pass


class NftError(NetworkError):
    pass


class CNIError(NetworkError):
    pass
