"""Errors of this room. What a server answered is `kube.errors.ApiError`; these are for when there was no answer.

ConnectionError (built in)
└── ClientConnectionError   no answer from the server
    └── Unreachable         no connection could be made, or it broke before an answer; names the address and the cause
ValueError (built in)
└── ConfigError             a kubeconfig, or what it refers to, cannot be used; names the file and the field
"""

from __future__ import annotations


class ClientConnectionError(ConnectionError):
    """Root of what goes wrong between client and server."""


class Unreachable(ClientConnectionError):
    """`address` did not answer. The sentence is fit for a user."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"cannot reach the API server at {address}: {why}")
        self.address = address
        self.why = why


class ConfigError(ValueError):
    """A kubeconfig that cannot be used."""
