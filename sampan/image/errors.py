"""Errors of the image room. The texts end up in `kubectl describe pod`, so they are worded as kubelet users know them.

ImageError
├── BadReference     the text is not an image reference
├── ImageNotFound    neither the store nor the registry has it
├── BadImage         bytes that do not match their digest, hostile or malformed archives, unknown media types
├── RegistryError    the registry answered something else, or not at all; `status` is the HTTP status or 0
│   └── Unauthorized it wants other credentials
└── BuildError       a Dockerfile that cannot be built; names the file and the line
"""

from __future__ import annotations


class ImageError(Exception):
    """Root of this room's errors."""


class BadReference(ImageError):
    def __init__(self, text: str, why: str = "invalid reference format") -> None:
        super().__init__(f'couldn\'t parse image name "{text}": {why}')
        self.text = text


class ImageNotFound(ImageError):
    pass


class BadImage(ImageError):
    pass


class RegistryError(ImageError):
    def __init__(self, message: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after  # seconds that the registry asks for


class Unauthorized(RegistryError):
    pass


class BuildError(ImageError):
    def __init__(self, message: str, file: str = "Dockerfile", line: int = 0) -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}")
        self.line = line
