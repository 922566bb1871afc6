"""For all tests: hypothesis judges answers and not speed, since a machine that runs three files at a time may be slow at any moment."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
