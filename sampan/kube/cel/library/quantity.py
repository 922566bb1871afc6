"""Quantities: https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-quantity-library"""

from __future__ import annotations

from sampan.kube.cel.errors import EvaluationError
from sampan.kube.cel.functions import Library, function, method
from sampan.kube.cel.types import BOOL, DOUBLE, INT, STRING, opaque
from sampan.kube.cel.values import Opaque
from sampan.kube.quantity import NANO, Quantity, QuantityError, parse

QUANTITY = opaque("kubernetes.Quantity")


def _parsed(text: str) -> Opaque:
    try:
        return Opaque(QUANTITY, parse(text))
    except QuantityError as error:
        raise EvaluationError(str(error)) from None


def _is_quantity(text: str) -> bool:
    try:
        parse(text)
    except QuantityError:
        return False
    return True


def _is_integer(quantity: Opaque) -> bool:
    return bool(quantity.value.nanos() % NANO == 0)


def _as_integer(quantity: Opaque) -> int:
    if not _is_integer(quantity):
        raise EvaluationError("cannot convert value to integer")
    return int(quantity.value.nanos() // NANO)


def _sign(quantity: Opaque) -> int:
    return (quantity.value.nanos() > 0) - (quantity.value.nanos() < 0)


def _compare(left: Opaque, right: Opaque) -> int:
    return (left.value > right.value) - (left.value < right.value)


def _plus(left: Opaque, right: Opaque | int, sign: int = 1) -> Opaque:
    other = Quantity.of(right) if isinstance(right, int) else right.value
    return Opaque(QUANTITY, left.value + other if sign > 0 else left.value - other)


def _minus(left: Opaque, right: Opaque | int) -> Opaque:
    return _plus(left, right, -1)


FUNCTIONS: Library = {
    "quantity": [function("string_to_quantity", (STRING,), QUANTITY, _parsed)],
    "isQuantity": [function("is_quantity_string", (STRING,), BOOL, _is_quantity)],
    # Kubernetes declares a function and documents a method.
    "sign": [
        function("quantity_sign", (QUANTITY,), INT, _sign),
        method("quantity_sign_member", (QUANTITY,), INT, _sign),
    ],
    "isInteger": [method("quantity_is_integer", (QUANTITY,), BOOL, _is_integer)],
    "asInteger": [method("quantity_get_int", (QUANTITY,), INT, _as_integer)],
    "asApproximateFloat": [
        method("quantity_get_float", (QUANTITY,), DOUBLE, lambda a: a.value.nanos() / NANO)
    ],
    "isGreaterThan": [
        method(
            "quantity_is_greater_than", (QUANTITY, QUANTITY), BOOL, lambda a, b: _compare(a, b) > 0
        )
    ],
    "isLessThan": [
        method("quantity_is_less_than", (QUANTITY, QUANTITY), BOOL, lambda a, b: _compare(a, b) < 0)
    ],
    "compareTo": [method("quantity_compare_to", (QUANTITY, QUANTITY), INT, _compare)],
    "add": [
        method("quantity_add", (QUANTITY, QUANTITY), QUANTITY, _plus),
        method("quantity_add_int", (QUANTITY, INT), QUANTITY, _plus),
    ],
    "sub": [
        method("quantity_sub", (QUANTITY, QUANTITY), QUANTITY, _minus),
        method("quantity_sub_int", (QUANTITY, INT), QUANTITY, _minus),
    ],
}
