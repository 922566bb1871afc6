"""Image references, parsed and completed as Docker does: `busybox` is `docker.io/library/busybox:latest`.

Grammar: github.com/distribution/reference. The first component is a registry when it holds a dot, a colon or an
upper-case letter, or is `localhost`; anything else belongs to docker.io, and a single word there to `library/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sampan.image.errors import BadReference

DEFAULT_REGISTRY = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
NAME_LIMIT = 255


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    return len(text) <= NAME_LIMIT and _PATH.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Reference:
    """`tag` is empty when only a digest was given; a digest, when there, decides what is meant."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag

    @property
    def key(self) -> str:
        """The name under which a store keeps it: with a digest the tag is of no account."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"

    def __str__(self) -> str:
        text = self.name
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text


def parse(text: str) -> Reference:
    """Raises BadReference."""
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise BadReference(text, "invalid digest")
    first, slash, remainder = rest.partition("/")
    registry = DEFAULT_REGISTRY
    if slash and (re.search(r"[.:A-Z]", first) or first == "localhost"):
        registry, rest = first, remainder
        if _DOMAIN.fullmatch(registry) is None:
            raise BadReference(text)
        if registry == "index.docker.io":
            registry = DEFAULT_REGISTRY
    repository, colon, tag = rest.partition(":")
    if colon and _TAG.fullmatch(tag) is None:
        raise BadReference(text)
    if _PATH.fullmatch(repository) is None:
        if _PATH.fullmatch(repository.lower()) is not None:
            raise BadReference(text, "repository name must be lowercase")
        raise BadReference(text)
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        if re.fullmatch(r"[0-9a-f]{64}", repository) and not colon:
            raise BadReference(text, "a 64-byte hexadecimal string is an image id, not a name")
        repository = f"library/{repository}"
    if len(repository) > NAME_LIMIT:
        raise BadReference(text, f"repository name must not be more than {NAME_LIMIT} characters")
    return Reference(registry, repository, tag or ("" if digest else "latest"), digest)
