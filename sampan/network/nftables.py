"""One nftables table as data, and the transaction that turns one state of it into another.

`transition(old, new)` is pure: it names only what differs, in the order that the kernel wants (what is referred to is made
first and deleted last), so a change of one endpoint is a few lines however many services there are, and dynamic sets keep
their elements. `nft -f` applies it whole or not at all.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from sampan.network.errors import NftError

NFT = "nft"
TIMEOUT = 20.0  # seconds


@dataclass(slots=True)
class Map:
    """A named map or set. `elements` None: filled by rules at run time, never touched."""

    kind: str  # "map" or "set"
    spec: str  # `type …; flags …;`
    elements: dict[str, str] | None = None  # key → value, "" in a set


@dataclass(slots=True)
class Chain:
    rules: tuple[str, ...]
    hook: str = ""  # `type nat hook …;` of a base chain


@dataclass(slots=True)
class Table:
    name: str  # with family: "inet sampan"
    maps: dict[str, Map] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)


def _elements(elements: Mapping[str, str], *, values: bool = True) -> str:
    return ", ".join(
        f"{key} : {value}" if value and values else key for key, value in elements.items()
    )


def transition(old: Table | None, new: Table) -> str:
    """The script for `nft -f`; empty when nothing differs. `old` None: whatever is there is replaced."""
    table = new.name
    lines: list[str] = []
    if old is None:
        lines += [f"add table {table}", f"delete table {table}", f"add table {table}"]
        old = Table(table)
    changed_spec = {
        name
        for name, entry in new.maps.items()
        if name in old.maps
        and (old.maps[name].spec, old.maps[name].kind) != (entry.spec, entry.kind)
    }
    if changed_spec:  # the kernel cannot change a set's type in place
        return transition(None, new)
    lines += [
        f"add {entry.kind} {table} {name} {{ {entry.spec} }}"
        for name, entry in new.maps.items()
        if name not in old.maps
    ]
    for name, chain in new.chains.items():
        if name not in old.chains:
            hook = f" {{ {chain.hook} }}" if chain.hook else ""
            lines.append(f"add chain {table} {name}{hook}")
    for name, entry in old.maps.items():
        now = new.maps[name].elements or {} if name in new.maps else {}
        gone = {
            key: value for key, value in (entry.elements or {}).items() if now.get(key) != value
        }
        if gone:
            lines.append(f"delete element {table} {name} {{ {_elements(gone, values=False)} }}")
    for name, chain in new.chains.items():
        before = old.chains.get(name)
        if before is not None and before.rules == chain.rules:
            continue
        if before is not None:
            lines.append(f"flush chain {table} {name}")
        lines += [f"add rule {table} {name} {rule}" for rule in chain.rules]
    for name, entry in new.maps.items():
        before_map = old.maps.get(name)
        had = (before_map.elements or {}) if before_map is not None else {}
        added = {
            key: value for key, value in (entry.elements or {}).items() if had.get(key) != value
        }
        if added:
            lines.append(f"add element {table} {name} {{ {_elements(added)} }}")
    gone_chains = [name for name in old.chains if name not in new.chains]
    lines += [f"flush chain {table} {name}" for name in gone_chains]
    lines += [f"delete chain {table} {name}" for name in gone_chains]
    lines += [
        f"delete {entry.kind} {table} {name}"
        for name, entry in old.maps.items()
        if name not in new.maps
    ]
    return "\n".join(lines) + "\n" if lines else ""


def run(script: str) -> None:
    """Apply a script as one transaction; blocks for some milliseconds. Raises NftError with what nft said."""
    try:
        done = subprocess.run(
            [NFT, "-f", "-"],
            input=script.encode(),
            capture_output=True,
            timeout=TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        raise NftError("nft is not installed (apt-get install nftables)") from None
    except subprocess.TimeoutExpired:
        raise NftError(f"nft did not answer within {TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise NftError(f"nft: {done.stderr.decode(errors='replace').strip()}")
