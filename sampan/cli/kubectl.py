"""`sampan kubectl`: the user's own kubectl, pointed at this cluster; and merging our kubeconfig into theirs when asked."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import typer

from sampan.cli.config import Config, ConfigError


def execute(config: Config, arguments: list[str]) -> int:
    """Become kubectl. Returns only when there is none."""
    program = shutil.which("kubectl")
    if program is None:
        typer.echo(
            "sampan: kubectl is not on the PATH; install Kubernetes' own (https://kubernetes.io/docs/tasks/tools/),\n"
            f"or use any other client with: export KUBECONFIG={config.kubeconfig}",
            err=True,
        )
        return 127
    sys.stdout.flush()
    environment = os.environ | {"KUBECONFIG": str(config.kubeconfig)}
    os.execve(program, [program, *arguments], environment)


def merge_kubeconfig(config: Config) -> Path:
    """Put cluster, user and context `sampan` into the user's kubeconfig; everything else in it stays."""
    import yaml

    target = Path(os.environ.get("KUBECONFIG", "").split(":")[0] or "~/.kube/config").expanduser()
    ours = yaml.safe_load(config.kubeconfig.read_text())
    theirs: dict[str, Any] = {"apiVersion": "v1", "kind": "Config"}
    if target.exists():
        try:
            theirs |= yaml.safe_load(target.read_text()) or {}
        except (yaml.YAMLError, TypeError, ValueError):
            raise ConfigError(f"{target} is no kubeconfig; it was left as it is") from None
    target = target.resolve()  # one that is a link stays a link
    for section, singular in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
        entry = {"name": "sampan", singular: ours[section][0][singular]}
        if section == "contexts":
            entry["context"] = {"cluster": "sampan", "user": "sampan"}
        kept = [item for item in theirs.get(section) or [] if item["name"] != "sampan"]
        theirs[section] = [*kept, entry]
    theirs.setdefault("current-context", "sampan")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = target.with_name(f".{target.name}.part")
    with open(scratch, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        yaml.safe_dump(theirs, file, sort_keys=False)
    scratch.rename(target)
    return target
