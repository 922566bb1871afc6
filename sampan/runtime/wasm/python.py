"""The command line of a small Python process of ours: no site, no user's settings, only this package in reach."""

from __future__ import annotations

import sys
from pathlib import Path

import sampan

ROOT = Path(sampan.__file__).resolve().parent.parent


def python(code: str) -> list[str]:
    """argv that runs `code` with `sys` imported and the package importable; append its arguments."""
    return [
        sys.executable,
        "-S",
        "-E",
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}",
    ]
