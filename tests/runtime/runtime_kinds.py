"""The kinds that run any program of an OCI image: a test marked `either` is run with each of them.

Machines take a second each where processes are emulated, and most of what these tests ask has a test of its own in
tests/microvm, so microVMs take their turn only with SAMPAN_SOAK.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

KINDS = ("container", "microvm") if "SAMPAN_SOAK" in os.environ else ("container",)
either = pytest.mark.parametrize("runtime", KINDS, indirect=True)


def missing_for_microvms() -> str:
    """What keeps microVMs from working here, "" when nothing does."""
    from sampan.runtime.microvm.kind import MicroVMKind

    support = asyncio.run(MicroVMKind(Path("/nonexistent"), Path("/nonexistent"), "none").glance())
    return "" if support.usable else f"{support.why}; to have it: {support.install}"
