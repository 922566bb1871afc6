from __future__ import annotations

import importlib.util
from pathlib import Path

# The cluster that controllers are tested with: the API server in process, and a test that plays the node.
_path = Path(__file__).parents[1] / "controllers" / "conftest.py"
_spec = importlib.util.spec_from_file_location("controllers_world", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

server = _module.server
world = _module.world
