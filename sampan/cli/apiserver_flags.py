"""kube-apiserver's flags about identity, audit and encryption, as options of `sampan up` and `sampan server`.

The table is the API server's (`apiserver/security.py`); `with_flags` makes an option of each row, so that a command is told
what was given as one dictionary, `flags`. Paths are made absolute: the parts run elsewhere. An empty value takes back what an
earlier `sampan up` was given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sampan.apiserver.security import FLAGS, BadFlag, Flag, SecurityConfig, check_files
from sampan.cli.config import Config, ConfigError

WRITTEN = ("audit-log-path",)  # files that need not be there yet


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command with one option per flag; its own parameter `flags` gets those that were given, by name."""

    @functools.wraps(command)
    def wrapper(**given: Any) -> None:
        found = {flag.name: absolute(flag, given.pop(flag.field)) for flag in FLAGS}
        command(flags={name: value for name, value in found.items() if value is not None}, **given)

    signature = inspect.signature(command, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "flags"]
    options = [
        inspect.Parameter(
            flag.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option(flag)
        )
        for flag in FLAGS
    ]
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    annotations = {name: each for name, each in command.__annotations__.items() if name != "flags"}
    wrapper.__signature__ = signature.replace(parameters=[*keywords, *options])  # type: ignore[attr-defined]
    wrapper.__annotations__ = annotations | {flag.field: option(flag) for flag in FLAGS}
    return wrapper


def check(config: Config) -> None:
    """Raises ConfigError for a flag that cannot work, or a file that cannot be used: the server would only die of it."""
    if config.apiserver_flags:
        try:
            check_files(SecurityConfig.of(config.apiserver_flags))
        except BadFlag as error:
            raise ConfigError(str(error)) from None


def option(flag: Flag) -> Any:
    kind = list[str] | None if flag.kind == "list" else str | None
    metavar = {"path": "FILE", "bool": "true|false", "int": "NUMBER"}.get(flag.kind, "TEXT")
    stated = typer.Option(f"--{flag.name}", help=flag.help, metavar=metavar, show_default=False)
    return Annotated[kind, stated]


def absolute(flag: Flag, value: Any) -> Any:
    if value and value != "-" and (flag.kind == "path" or flag.name in WRITTEN):
        return str(Path(value).absolute())
    return value if value != [] else None
