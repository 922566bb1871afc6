"""For all tests: hypothesis judges answers and not speed, since a machine that runs three files at a time may be slow at any moment."""

from __future__ import annotations

from pathlib import Path

import first_start
import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


@pytest.fixture(scope="session")
def started_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a server that has started and ended."""
    directory = tmp_path_factory.mktemp("first")
    first_start.make(directory)
    return directory
