"""wasi:cli: environment, exit, standard streams. Input is empty, both outputs are the container's log, no terminal is there."""

from __future__ import annotations

from sampan.runtime.wasm.component.guest import Exited
from sampan.runtime.wasm.component.streams import Bytes, Descriptor, InputStream, OutputStream
from sampan.runtime.wasm.component.tls import Authorities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.wasm.component.guest import Guest
    from sampan.runtime.wasm.component.names import Names


class Setting:
    """What all instances of a service see of their container."""

    def __init__(
        self,
        arguments: list[str],
        environment: list[tuple[str, str]],
        preopens: list[tuple[int, str, bool]],
        stdout: int,
        stderr: int,
        names: Names | None = None,
        authorities: Authorities | None = None,
    ) -> None:
        """`preopens`: (descriptor of the directory, name in the guest, readonly); `stdout`, `stderr`: descriptors;
        `names`: the pod's DNS, None where it may not call out; `authorities`: whom it believes when it does."""
        self.arguments = [_text(argument) for argument in arguments]
        self.environment = [(_text(name), _text(value)) for name, value in environment]
        self.preopens = preopens
        self.stdout = stdout
        self.stderr = stderr
        self.names = names
        self.authorities = authorities or Authorities(-1)


def _text(value: str) -> str:
    """WASI knows text only: what is not UTF-8 is replaced."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def leave(guest: Guest, status: tuple[bool, Any]) -> None:
    raise Exited(0 if status[0] else 1)


def leave_with(guest: Guest, code: int) -> None:
    raise Exited(code)


INTERFACES: dict[str, dict[str, Callable[..., Any]]] = {
    "wasi:cli/environment": {
        "get-environment": lambda guest: guest.world.setting.environment,
        "get-arguments": lambda guest: guest.world.setting.arguments,
        "initial-cwd": lambda _: None,
    },
    "wasi:cli/exit": {"exit": leave, "exit-with-code": leave_with},
    "wasi:cli/stdin": {"get-stdin": lambda _: InputStream(Bytes())},
    "wasi:cli/stdout": {
        "get-stdout": lambda guest: OutputStream(Descriptor(guest.world.setting.stdout))
    },
    "wasi:cli/stderr": {
        "get-stderr": lambda guest: OutputStream(Descriptor(guest.world.setting.stderr))
    },
    "wasi:cli/terminal-input": {},
    "wasi:cli/terminal-output": {},
    "wasi:cli/terminal-stdin": {"get-terminal-stdin": lambda _: None},
    "wasi:cli/terminal-stdout": {"get-terminal-stdout": lambda _: None},
    "wasi:cli/terminal-stderr": {"get-terminal-stderr": lambda _: None},
}
