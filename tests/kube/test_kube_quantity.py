"""Quantities against a model in exact fractions, and against the examples of Kubernetes' documentation."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube.quantity import MAXIMUM, Quantity, canonical, parse

SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}

numbers = st.tuples(
    st.sampled_from(["", "-", "+"]),
    st.integers(0, 10**6),
    st.one_of(st.none(), st.text("0123456789", max_size=12)),
    st.one_of(st.sampled_from(sorted(SUFFIXES)), st.integers(-12, 18)),
)


def written(sign: str, whole: int, fraction: str | None, suffix: str | int) -> str:
    point = "" if fraction is None else f".{fraction}"
    tail = f"e{suffix}" if isinstance(suffix, int) else suffix
    return f"{sign}{whole}{point}{tail}"


def exact(sign: str, whole: int, fraction: str | None, suffix: str | int) -> Fraction:
    scale = Fraction(10) ** suffix if isinstance(suffix, int) else SUFFIXES[suffix]
    value = (whole + Fraction(int(fraction or 0), 10 ** len(fraction or ""))) * scale
    return -value if sign == "-" else value


def nanos_away_from_zero(value: Fraction) -> int:
    size = -(-abs(value) * 10**9 // 1)
    capped = min(size, MAXIMUM * 10**9)
    return int(capped if value >= 0 else -capped)


@given(numbers)
def test_parse_is_exact_to_the_nano_and_never_rounds_down(parts):
    assert parse(written(*parts)).nanos() == nanos_away_from_zero(exact(*parts))


@given(numbers)
def test_canonical_text_means_the_same_and_is_stable(parts):
    quantity = parse(written(*parts))
    assert parse(str(quantity)) == quantity
    assert canonical(str(quantity)) == str(quantity)


@given(numbers, numbers)
def test_order_and_sum_agree_with_fractions(one, other):
    first, second = parse(written(*one)), parse(written(*other))
    assert (first < second) == (first.nanos() < second.nanos())
    total = first.nanos() + second.nanos()
    assert (first + second).nanos() == max(-MAXIMUM * 10**9, min(MAXIMUM * 10**9, total))
    assert (first - second) == -(second - first)


@given(st.integers(-(10**15), 10**15))
def test_integers_and_their_rounding(value):
    quantity = Quantity.of_milli(value)
    assert quantity.milli() == value
    sign = -1 if value < 0 else 1
    assert quantity.value() == sign * -(-abs(value) // 1000)


@pytest.mark.parametrize(
    ("given_text", "stored"),
    [
        ("0", "0"),
        ("1.5", "1500m"),
        ("0.1", "100m"),
        ("1000m", "1"),
        ("1024Ki", "1Mi"),
        ("0.5Gi", "512Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Ki", "512"),
        ("1000k", "1M"),
        ("1e3", "1e3"),
        ("12e6", "12e6"),
        ("100e-3", "100e-3"),
        ("1e2", "100"),
        ("0.1n", "1n"),
        ("-0.1n", "-1n"),
        ("10E", str(MAXIMUM)),
        ("0.1Mi", "104857600m"),
        (".5", "500m"),
        ("5.", "5"),
        (0.5, "500m"),
        (2, "2"),
    ],
)
def test_canonical_forms(given_text, stored):
    assert canonical(given_text) == stored


@pytest.mark.parametrize(
    "text", ["", "x", "1 ", "1kk", "1ki", "--1", "1e", ".", "1KiB", "∞", "1e1e1"]
)
def test_what_is_no_quantity(text):
    with pytest.raises(ValueError, match="quantities must match"):
        parse(text)


def test_huge_exponents_are_cheap():
    assert str(parse("1e999999999")) == "9223372036854775807e0".removesuffix("e0")
    assert parse("1e-999999999").nanos() == 1


def test_adding_to_zero_takes_the_format_of_the_other():
    assert str(parse("0") + parse("1Mi")) == "1Mi"


def test_a_quantity_does_not_change():
    with pytest.raises(AttributeError):
        parse("1").form = "BinarySI"
