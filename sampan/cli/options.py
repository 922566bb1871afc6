"""Options that several groups of commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SAMPAN_DATA_DIR",
        help="Where the cluster keeps everything. [default: /var/lib/sampan, or ~/.local/share/sampan without root]",
        show_default=False,
    ),
]
