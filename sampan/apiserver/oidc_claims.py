"""What the claims of an ID token mean here: which are accepted, and which user they make. Pure.

A value comes from a claim by name, with a prefix, or out of a CEL expression over `claims` (AuthenticationConfiguration).
Expressions are compiled when the configuration is read, and evaluated within a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sampan.apiserver.auth import AUTHENTICATED, CREDENTIAL_ID
from sampan.apiserver.tokens import InvalidToken
from sampan.client.transport import User

if TYPE_CHECKING:
    from sampan.kube.cel import Program

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512")
LEEWAY = 10.0  # seconds that clocks may differ


@dataclass(frozen=True, slots=True)
class Mapped:
    """A value out of a claim; `prefix` is put before it, or before each of a list."""

    claim: str
    prefix: str = ""

    def value(self, claims: Mapping[str, Any]) -> Any:
        return claims.get(self.claim)


@dataclass(frozen=True, slots=True)
class Expression:
    """A value out of a CEL expression over `claims` or `user`."""

    text: str
    program: Program
    variable: str = "claims"
    message: str = ""  # what is said when a rule does not hold

    prefix = ""
    claim = ""

    def value(self, values: Mapping[str, Any]) -> Any:
        """Raises InvalidToken."""
        from sampan.kube import cel

        try:
            found = self.program.evaluate({self.variable: dict(values)}, cel.Budget())
            return cel.to_json(found)
        except (cel.EvaluationError, cel.BudgetExceeded) as error:
            raise InvalidToken(f"oidc: {self.text}: {error}") from error

    def holds(self, values: Mapping[str, Any]) -> None:
        """Raises InvalidToken unless the expression is true."""
        if self.value(values) is not True:
            raise InvalidToken(
                f"oidc: {self.message or 'validation expression failed: ' + self.text}"
            )


@dataclass(frozen=True, slots=True)
class Provider:
    """One issuer and how its claims become a user."""

    issuer: str
    audiences: tuple[str, ...]
    username: Mapped | Expression
    groups: Mapped | Expression | None = None
    uid: Mapped | Expression | None = None
    extra: Mapping[str, Expression] = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    claim_rules: tuple[Expression, ...] = ()
    user_rules: tuple[Expression, ...] = ()
    algorithms: tuple[str, ...] = ("RS256",)
    discovery_url: str = ""  # "": below the issuer
    authority: str = ""  # PEM; "": the system's


def check_claims(provider: Provider, claims: Mapping[str, Any], now: float) -> None:
    """Time, audience and the provider's rules. Raises InvalidToken."""
    expires, not_before = claims.get("exp"), claims.get("nbf", 0)
    if not isinstance(expires, (int, float)) or not isinstance(not_before, (int, float)):
        raise InvalidToken("oidc: the token says no time of expiry")
    if now > expires + LEEWAY:
        raise InvalidToken("oidc: the token has expired")
    if now < not_before - LEEWAY:
        raise InvalidToken("oidc: the token is not valid yet")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(each in provider.audiences for each in audiences):
        raise InvalidToken(f"oidc: expected audience {list(provider.audiences)} got {audiences}")
    for name, wanted in provider.required.items():
        if claims.get(name) != wanted:
            raise InvalidToken(f"oidc: claim {name} does not have the required value")
    for rule in provider.claim_rules:
        rule.holds(claims)


def user_of_claims(provider: Provider, claims: Mapping[str, Any]) -> User:
    """Raises InvalidToken when the claims name nobody, or somebody whom the rules do not let in."""
    name = provider.username.value(claims)
    if not isinstance(name, str) or not name:
        what = provider.username.claim or "of the username expression"
        raise InvalidToken(f"oidc: claim {what} is missing or not a string")
    if provider.username.claim == "email" and claims.get("email_verified", True) is not True:
        raise InvalidToken("oidc: email not verified")
    groups: list[str] = []
    if provider.groups is not None:
        prefix = provider.groups.prefix
        groups = [prefix + each for each in _texts(provider.groups.value(claims), "groups")]
    uid = provider.uid.value(claims) if provider.uid is not None else ""
    if not isinstance(uid, str):
        raise InvalidToken("oidc: uid is not a string")
    extra: dict[str, tuple[str, ...]] = {}
    jti = claims.get("jti")
    if isinstance(jti, str) and jti:
        extra[CREDENTIAL_ID] = (f"JTI={jti}",)
    for key, expression in provider.extra.items():
        values = tuple(_texts(expression.value(claims), f"extra {key}"))
        if values:
            extra[key] = values
    members = tuple(dict.fromkeys(groups))
    user = User(provider.username.prefix + name, members, uid, extra)
    if provider.user_rules:
        seen = {
            "username": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": user.extra_map(),
        }
        for rule in provider.user_rules:
            rule.holds(seen)
    return User(user.name, (*members, AUTHENTICATED), uid, extra)


def _texts(value: Any, what: str) -> list[str]:
    """A string or a list of strings, without empty ones."""
    if value is None:
        return []
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise InvalidToken(f"oidc: {what} is not a list of strings")
    return [each for each in listed if each]


def default_prefix(claim: str, prefix: str, issuer: str) -> str:
    """`-` is no prefix; without one, all but e-mail addresses are set apart by their issuer."""
    if prefix == "-":
        return ""
    return prefix if prefix or claim == "email" else f"{issuer}#"


def check_algorithms(names: Iterable[str]) -> tuple[str, ...]:
    """Raises ValueError for what is not asymmetric: a shared secret cannot be known here."""
    found = tuple(name.strip() for name in names if name.strip())
    for name in found:
        if name not in ALGORITHMS:
            raise ValueError(f"{name}: not one of {', '.join(ALGORITHMS)}")
    return found
