"""Credentials for registries, and where people keep them: docker's `config.json` and its credential helpers.

A helper is a program `docker-credential-<name>` that is given a registry on stdin and answers with JSON; its name comes from
`credHelpers` (for one registry) or `credsStore` (for all). Its words are never taken for a path: a name is letters, digits and dashes.
Format: github.com/docker/cli, cli/config/configfile, and github.com/docker/docker-credential-helpers.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.image.errors import ImageError
from sampan.image.reference import DEFAULT_REGISTRY

DOCKER_HUB = "https://index.docker.io/v1/"  # the key under which docker keeps the hub's login
HELPER_PATIENCE = 30.0  # seconds; some ask a cloud
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BY_TOKEN = "<token>"  # a helper's user name when its secret is an OAuth2 refresh token


@dataclass(frozen=True, slots=True)
class Auth:
    """Credentials, as CRI's AuthConfig carries them; empty fields are not set."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)  # OAuth2 refresh token
    registry_token: str = field(default="", repr=False)  # bearer token, sent as it is

    @classmethod
    def from_basic(cls, encoded: str) -> Auth:
        """From `auth` of a docker config: base64 of user:password. Raises ValueError."""
        user, _, password = (
            base64.b64decode(encoded, validate=True).decode().rstrip("\0").partition(":")
        )
        return cls(user, password)

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Auth | None:
        """One entry of `auths`, or of `configs.<host>.auth` of registries.yaml; None when it holds nothing. ValueError."""
        found = cls.from_basic(str(entry["auth"])) if entry.get("auth") else cls()
        token = entry.get("identitytoken") or entry.get("identity_token") or ""
        result = cls(
            str(entry.get("username") or found.username),
            str(entry.get("password") or found.password),
            str(token),
            str(entry.get("registrytoken") or entry.get("registry_token") or ""),
        )
        return result if result != cls() else None

    @property
    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


class DockerConfig:
    """`config.json` of docker, podman and skopeo."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.auths = {_bare(key): value for key, value in (document.get("auths") or {}).items()}
        self.helpers = {
            _bare(key): str(value) for key, value in (document.get("credHelpers") or {}).items()
        }
        self.store = str(document.get("credsStore") or "")

    @classmethod
    def load(cls, path: Path) -> DockerConfig:
        """What the file says; a file that is not there says nothing. Raises ImageError."""
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            document = {}
        except (OSError, ValueError) as error:
            raise ImageError(f"{path}: {error}") from None
        try:
            return cls(document)
        except AttributeError:
            raise ImageError(f"{path}: not a docker configuration") from None

    def lookup(self, registry: str) -> Auth | None:
        """Credentials for a registry, the helper's first, as docker does. May run a helper: call it in a thread."""
        helper = self.helpers.get(registry) or self.store
        key = DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
        if helper and (found := ask_helper(helper, key)) is not None:
            return found
        entry = self.auths.get(registry)
        if not isinstance(entry, dict):
            return None
        try:
            return Auth.read(entry)
        except ValueError:
            raise ImageError(
                f"docker config: auths[{registry!r}].auth is not base64 of user:password"
            ) from None


def docker_config_path() -> Path:
    """Where docker keeps it: $DOCKER_CONFIG, else ~/.docker."""
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return Path(directory) / "config.json"


def _bare(key: str) -> str:
    """`https://index.docker.io/v1/` and `https://host:port/v2` as the registry that they mean."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_REGISTRY if host in ("index.docker.io", "registry-1.docker.io") else host


def ask_helper(name: str, server: str) -> Auth | None:
    """What `docker-credential-<name> get` knows of a server; None when it knows nothing. Raises ImageError."""
    if _HELPER.fullmatch(name) is None:
        raise ImageError(f"invalid name of a credential helper: {name!r}")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{program}: {error}") from None
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        if "credentials not found" in said:
            return None
        raise ImageError(f"{program}: {said or done.stderr.decode(errors='replace').strip()}")
    try:
        answer = json.loads(said)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        raise ImageError(f"{program}: its answer is not a credential") from None
    return Auth(identity_token=secret) if user == _BY_TOKEN else Auth(user, secret)
