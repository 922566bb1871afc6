"""Quantities: exact numbers with Kubernetes' suffixes, as `resource.Quantity` has them.

A quantity remembers its format (decimal SI `500m`, binary SI `64Mi`, exponent `5e3`) because the canonical text keeps
it. Nothing finer than a nano survives: parsing rounds away from zero, never down, so that a request is never granted
less than was asked. Values are capped at ±(2^63 - 1). Source: apimachinery `api/resource/quantity.go`.
"""

from __future__ import annotations

import re
from functools import lru_cache, total_ordering
from typing import Final

NANO: Final = 10**9
MAXIMUM: Final = 2**63 - 1

DECIMAL_SI: Final = "DecimalSI"
BINARY_SI: Final = "BinarySI"
DECIMAL_EXPONENT: Final = "DecimalExponent"

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL_NAMES = {power: suffix for suffix, power in _DECIMAL.items()}
_BINARY_NAMES = ("", *_BINARY)

_SHAPE = re.compile(
    r"([+-]?)(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))"
    r"(?:([KMGTPE]i)|[eE]([+-]?[0-9]+)|([numkMGTPE]?))"
)
# Beyond these a number is zero or the cap anyway; bounding them keeps the integers small.
_MAX_EXPONENT = 1_000
_MAX_DIGITS = 1_000


class QuantityError(ValueError):
    """The text is no quantity."""


def _round_up(numerator: int, denominator: int) -> int:
    """Division rounded away from zero."""
    magnitude = -(-abs(numerator) // denominator)
    return magnitude if numerator >= 0 else -magnitude


@total_ordering
class Quantity:
    """An exact amount. Immutable, hashable by value; `1` equals `1000m`."""

    __slots__ = ("_nanos", "form")
    _nanos: int
    form: str

    def __init__(self, nanos: int = 0, form: str = DECIMAL_SI) -> None:
        cap = MAXIMUM * NANO
        object.__setattr__(self, "_nanos", max(-cap, min(cap, nanos)))
        object.__setattr__(self, "form", form)

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError("a Quantity does not change")

    @classmethod
    def of(cls, value: int, form: str = DECIMAL_SI) -> Quantity:
        """A whole number."""
        return cls(value * NANO, form)

    @classmethod
    def of_milli(cls, value: int, form: str = DECIMAL_SI) -> Quantity:
        """So many thousandths."""
        return cls(value * 10**6, form)

    def value(self) -> int:
        """Whole units, rounded up (away from zero)."""
        return _round_up(self._nanos, NANO)

    def milli(self) -> int:
        """Thousandths, rounded up (away from zero)."""
        return _round_up(self._nanos, 10**6)

    def nanos(self) -> int:
        return self._nanos

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self._nanos == other._nanos

    def __lt__(self, other: Quantity) -> bool:
        return self._nanos < other._nanos

    def __hash__(self) -> int:
        return hash(self._nanos)

    def __bool__(self) -> bool:
        return self._nanos != 0

    def _form_with(self, other: Quantity) -> str:
        # Adding to zero takes the format of what is added, as resource.Quantity.Add does.
        return self.form if self._nanos else other.form

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self._nanos + other._nanos, self._form_with(other))

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self._nanos - other._nanos, self._form_with(other))

    def __mul__(self, times: int) -> Quantity:
        return Quantity(self._nanos * times, self.form)

    def __neg__(self) -> Quantity:
        return Quantity(-self._nanos, self.form)

    def __repr__(self) -> str:
        return f"Quantity({str(self)!r})"

    def __str__(self) -> str:
        """Canonical: no fraction, the largest suffix that loses nothing, the exponent a multiple of three."""
        nanos = self._nanos
        if nanos == 0:
            return "0"
        if self.form == BINARY_SI and abs(nanos) >= 1024 * NANO and nanos % NANO == 0:
            whole, step = nanos // NANO, 0
            while step < 6 and whole % 1024 == 0:
                whole //= 1024
                step += 1
            return f"{whole}{_BINARY_NAMES[step]}"
        power = -9
        while power < 18 and nanos % 1000 == 0:
            nanos //= 1000
            power += 3
        if self.form == DECIMAL_EXPONENT:
            return f"{nanos}e{power}" if power else str(nanos)
        return f"{nanos}{_DECIMAL_NAMES[power]}"


def parse(text: str | int | float) -> Quantity:
    """The quantity that a manifest's value means. QuantityError (a ValueError) when it means none."""
    if isinstance(text, bool):
        raise QuantityError("quantities must match the regular expression")
    if isinstance(text, int):
        return Quantity(text * NANO)
    if isinstance(text, float):
        return _parse(repr(text))
    if not isinstance(text, str):
        raise QuantityError("quantities must be strings or numbers")
    return _parse(text)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Quantity:
    match = _SHAPE.fullmatch(text)
    if match is None or len(text) > _MAX_DIGITS:
        raise QuantityError(
            "quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    sign, whole, fraction, bare_fraction, binary, exponent, decimal = match.groups()
    fraction = fraction or bare_fraction or ""
    digits = int((whole or "") + fraction)
    scale = len(fraction)
    if binary:
        form = BINARY_SI
        nanos = _round_up(digits * 2 ** _BINARY[binary] * NANO, 10**scale)
    else:
        if exponent is not None:
            form, power = DECIMAL_EXPONENT, int(exponent)
        else:
            form, power = DECIMAL_SI, _DECIMAL[decimal]
        power = max(-_MAX_EXPONENT, min(_MAX_EXPONENT, power)) + 9 - scale
        nanos = digits * 10**power if power >= 0 else _round_up(digits, 10**-power)
    return Quantity(-nanos if sign == "-" else nanos, form)


def canonical(text: str | int | float) -> str:
    """The text that the API server stores for this value."""
    return str(parse(text))


def total(quantities: list[Quantity]) -> Quantity:
    return sum(quantities, Quantity())
