"""Host-local addresses: which pod holds which address, kept so that a crash at any moment loses or doubles none.

One file for each address, named by it and created exclusively, holding the sandbox id: the file system is the lock, also
between processes. An address that was given back is used again last, so that late packets and cached answers find no one.
"""

from __future__ import annotations

import ipaddress
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from sampan.network.errors import AddressesExhausted

_LAST = "last"
LATELY = 1024  # addresses that are not given out again while there are others


class AddressPool:
    """Addresses of `cidr` without the network's own, its broadcast, and `reserved`."""

    def __init__(self, directory: Path, cidr: str, reserved: Iterable[str] = ()) -> None:
        self.directory = directory
        self.move(cidr, reserved)
        self._released: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._held: dict[str, str] | None = None  # sandbox id → address
        self._last = 0  # given out last; 0: not read yet

    def move(self, cidr: str, reserved: Iterable[str] = ()) -> None:
        """Give out addresses of `cidr` from now on; those that are held stay so."""
        self.network = ipaddress.IPv4Network(cidr)
        self._reserved = {int(ipaddress.IPv4Address(address)) for address in reserved}
        self._first = int(self.network.network_address) + 1
        self._count = max(self.network.num_addresses - 2, 0)

    def _owners(self) -> dict[str, str]:
        if self._held is None:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held = {}
            for path in self.directory.iterdir():
                if path.name == _LAST or path.name.startswith("."):
                    continue
                owner = path.read_text().strip()
                if owner:
                    self._held[owner] = path.name
                else:
                    path.unlink(missing_ok=True)  # a crash between creation and writing
        return self._held

    def read_again(self) -> None:
        """Believe the disk, not what is remembered of it."""
        self._held = None

    def owners(self) -> dict[str, str]:
        """Address by sandbox id."""
        return dict(self._owners())

    def take(self, sandbox_id: str) -> str:
        """The pod's address; the same one when it has one. On disk on return. Raises AddressesExhausted."""
        owners = self._owners()
        if sandbox_id in owners:
            return owners[sandbox_id]
        for number in self._candidates():
            address = str(ipaddress.IPv4Address(number))
            if self._claim(address, sandbox_id):
                owners[sandbox_id] = address
                self._released.pop(number, None)
                self._remember(number)
                return address
        raise AddressesExhausted(
            f"no free address in {self.network}: {len(owners)} pods have one each"
        )

    def _candidates(self) -> Iterable[int]:
        """From behind the last one given out, once around; those given back lately come at the very end."""
        if not self._last:
            try:
                self._last = int(
                    ipaddress.IPv4Address((self.directory / _LAST).read_text().strip())
                )
            except (FileNotFoundError, ValueError):
                self._last = self._first - 1
        if not self._first <= self._last < self._first + self._count:
            self._last = self._first - 1  # given out in another network, before a `move`
        start = self._last + 1 - self._first
        held = set(self._owners().values())
        for step in range(self._count):
            number = self._first + (start + step) % self._count
            if number in self._reserved or number in self._released:
                continue
            if str(ipaddress.IPv4Address(number)) not in held:
                yield number
        yield from [n for n in self._released if ipaddress.IPv4Address(n) in self.network]

    def _claim(self, address: str, sandbox_id: str) -> bool:
        beside = self._beside(sandbox_id)
        _put(beside, sandbox_id)
        try:
            os.link(beside, self.directory / address)  # exclusive, and never seen half-written
        except FileExistsError:
            return False
        finally:
            beside.unlink()
        return True

    def _remember(self, number: int) -> None:
        """A hint for the next start: one write of a fixed size in place is whole, or is not read as an address."""
        self._last = number
        path = self.directory / _LAST
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, f"{ipaddress.IPv4Address(number)!s:<16}".encode(), 0)
        finally:
            os.close(descriptor)

    def hand_over(self, owner: str, sandbox_id: str) -> str:
        """What `owner` has is the pod's from now on; the address. On disk on return, as the one's or the other's:
        both have names of one length, and such a write is whole. While another thread takes addresses, this may be called."""
        address = self._owners()[owner]
        assert len(sandbox_id) == len(owner), "names of one length"
        descriptor = os.open(self.directory / address, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, sandbox_id.encode(), 0)
        finally:
            os.close(descriptor)
        del self._owners()[owner]
        self._owners()[sandbox_id] = address
        return address

    def _beside(self, sandbox_id: str) -> Path:
        return self.directory / f".{sandbox_id[:32]}.{os.getpid()}"

    def release(self, sandbox_id: str) -> str | None:
        """The address that was given back, None when the pod had none. Idempotent."""
        address = self._owners().pop(sandbox_id, None)
        if address is None:
            return None
        path = self.directory / address
        try:
            if path.read_text().strip() == sandbox_id:
                path.unlink()
        except FileNotFoundError:
            pass
        self._released[int(ipaddress.IPv4Address(address))] = None
        if len(self._released) > LATELY:
            self._released.pop(next(iter(self._released)))
        return address


def _put(path: Path, text: str) -> None:
    """By three system calls: it is on the way of every pod's start."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
