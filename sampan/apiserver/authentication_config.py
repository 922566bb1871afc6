"""Outside providers of identity, as the configuration names them, and the rule for anonymous requests.

Two ways lead here, as in kube-apiserver: the single provider of the `--oidc-*` flags, and the file of
`--authentication-config` (apiserver.config.k8s.io AuthenticationConfiguration: any number of JWT issuers, and the paths that
anonymous requests may ask for). Claims are mapped by name or by CEL expression.
https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sampan.apiserver.auth import Anonymous
from sampan.apiserver.oidc_claims import (
    ALGORITHMS,
    Expression,
    Mapped,
    Provider,
    check_algorithms,
    default_prefix,
)
from sampan.apiserver.security import SecurityConfig

API_VERSIONS = tuple(f"apiserver.config.k8s.io/{version}" for version in ("v1", "v1beta1"))


EMAIL = re.compile(r"\bclaims\.email\b")


class BadAuthenticationConfig(Exception):
    """The configuration cannot be used; says what is wrong and where."""


def provider_of_flags(config: SecurityConfig) -> Provider:
    """Raises BadAuthenticationConfig, naming the flag."""
    issuer = config.oidc_issuer_url
    _check_issuer(issuer, "--oidc-issuer-url")
    required = {}
    for text in config.oidc_required_claim:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise BadAuthenticationConfig(f"--oidc-required-claim {text}: must be key=value")
        required[name] = value
    try:
        algorithms = check_algorithms(config.oidc_signing_algs.split(","))
        authority = config.oidc_ca_file.read_text() if config.oidc_ca_file else ""
    except (OSError, ValueError) as error:
        raise BadAuthenticationConfig(f"--oidc-signing-algs, --oidc-ca-file: {error}") from error
    claim = config.oidc_username_claim
    groups = None
    if config.oidc_groups_claim:
        groups = Mapped(config.oidc_groups_claim, config.oidc_groups_prefix)
    return Provider(
        issuer=issuer,
        audiences=(config.oidc_client_id,),
        username=Mapped(claim, default_prefix(claim, config.oidc_username_prefix, issuer)),
        groups=groups,
        required=required,
        algorithms=algorithms,
        authority=authority,
    )


def read_config(path: Path) -> tuple[list[Provider], Anonymous | None]:
    """Providers, and the rule for anonymous requests when the file states one. Raises BadAuthenticationConfig."""
    import yaml

    try:
        return parse_config(yaml.safe_load(path.read_bytes()))
    except (OSError, yaml.YAMLError, BadAuthenticationConfig) as error:
        raise BadAuthenticationConfig(f"{path}: {error}") from error


def parse_config(document: Any) -> tuple[list[Provider], Anonymous | None]:
    if not isinstance(document, Mapping) or document.get("kind") != "AuthenticationConfiguration":
        raise BadAuthenticationConfig("kind: must be AuthenticationConfiguration")
    if document.get("apiVersion") not in API_VERSIONS:
        raise BadAuthenticationConfig(f"apiVersion: must be {' or '.join(API_VERSIONS)}")
    providers = [
        _provider(_mapping(entry, f"jwt[{index}]"), f"jwt[{index}]")
        for index, entry in enumerate(document.get("jwt") or ())
    ]
    issuers = [provider.issuer for provider in providers]
    for issuer in issuers:
        if issuers.count(issuer) > 1:
            raise BadAuthenticationConfig(f"jwt: issuer {issuer} is given twice")
    stated = document.get("anonymous")
    if stated is None:
        return providers, None
    conditions = _mapping(stated, "anonymous").get("conditions")
    paths = frozenset(str(each.get("path")) for each in conditions) if conditions else None
    return providers, Anonymous(bool(stated.get("enabled")), paths)


def _provider(entry: Mapping[str, Any], at: str) -> Provider:
    issuer = _mapping(entry.get("issuer"), f"{at}.issuer")
    url, audiences = issuer.get("url") or "", issuer.get("audiences") or []
    _check_issuer(url, f"{at}.issuer.url")
    if not audiences:
        raise BadAuthenticationConfig(f"{at}.issuer.audiences: Required value")
    if len(audiences) > 1 and issuer.get("audienceMatchPolicy") != "MatchAny":
        raise BadAuthenticationConfig(
            f"{at}.issuer.audienceMatchPolicy: must be MatchAny for several audiences"
        )
    discovery = issuer.get("discoveryURL") or ""
    if discovery:
        _check_issuer(discovery, f"{at}.issuer.discoveryURL")
    required: dict[str, str] = {}
    claim_rules: list[Expression] = []
    for index, rule in enumerate(entry.get("claimValidationRules") or ()):
        where = f"{at}.claimValidationRules[{index}]"
        if _mapping(rule, where).get("expression"):
            claim_rules.append(_expression(rule, where, "bool"))
        elif rule.get("claim"):
            required[rule["claim"]] = rule.get("requiredValue") or ""
        else:
            raise BadAuthenticationConfig(f"{where}: claim or expression is required")
    user_rules = tuple(
        _expression(rule, f"{at}.userValidationRules[{index}]", "bool", "user")
        for index, rule in enumerate(entry.get("userValidationRules") or ())
    )
    mappings = _mapping(entry.get("claimMappings"), f"{at}.claimMappings")
    username = _mapped(mappings.get("username"), f"{at}.claimMappings.username", "string")
    if username is None:
        raise BadAuthenticationConfig(f"{at}.claimMappings.username: Required value")
    extra = {}
    for index, each in enumerate(mappings.get("extra") or ()):
        where = f"{at}.claimMappings.extra[{index}]"
        key = _mapping(each, where).get("key") or ""
        if "/" not in key or key != key.lower() or key in extra or _is_reserved(key):
            raise BadAuthenticationConfig(
                f"{where}.key {key!r}: must be a unique lower-case domain-prefixed path outside of "
                "kubernetes.io and k8s.io"
            )
        extra[key] = _expression({"expression": each.get("valueExpression")}, where)
    _check_email(username, [*claim_rules, *extra.values()], f"{at}.claimMappings.username")
    return Provider(
        issuer=url,
        audiences=tuple(audiences),
        username=username,
        groups=_mapped(mappings.get("groups"), f"{at}.claimMappings.groups"),
        uid=_mapped(mappings.get("uid"), f"{at}.claimMappings.uid", "string"),
        extra=extra,
        required=required,
        claim_rules=tuple(claim_rules),
        user_rules=user_rules,
        algorithms=ALGORITHMS,
        discovery_url=discovery,
        authority=issuer.get("certificateAuthority") or "",
    )


def _mapped(entry: Any, at: str, result: str = "any") -> Mapped | Expression | None:
    if not entry:
        return None
    if _mapping(entry, at).get("expression"):
        if entry.get("claim") or entry.get("prefix"):
            raise BadAuthenticationConfig(f"{at}: claim and expression cannot both be set")
        return _expression(entry, at, result)
    if not entry.get("claim"):
        raise BadAuthenticationConfig(f"{at}.claim: Required value")
    return Mapped(entry["claim"], entry.get("prefix") or "")


def _expression(
    entry: Mapping[str, Any], at: str, result: str = "any", variable: str = "claims"
) -> Expression:
    from sampan.kube import cel

    text = entry.get("expression")
    if not isinstance(text, str) or not text:
        raise BadAuthenticationConfig(f"{at}.expression: Required value")
    # A user's fields are known; of claims nothing is, so that their type is seen only when they are there.
    declared: cel.Type = {
        "claims": cel.map_of(cel.STRING, cel.DYN),
        "user": cel.record(
            "kubernetes.UserInfo",
            username=cel.STRING,
            uid=cel.STRING,
            groups=cel.list_of(cel.STRING),
            extra=cel.map_of(cel.STRING, cel.list_of(cel.STRING)),
        ),
    }[variable]
    results: Any = {"string": (cel.STRING, cel.DYN), "bool": cel.BOOL, "any": "any"}[result]
    try:
        program = cel.compile(text, {variable: declared}, result=results)
    except cel.CompileError as error:
        raise BadAuthenticationConfig(f"{at}.expression: {error}") from error
    return Expression(text, program, variable, entry.get("message") or "")


def _is_reserved(key: str) -> bool:
    domain = key.partition("/")[0]
    return any(
        domain == each or domain.endswith("." + each) for each in ("kubernetes.io", "k8s.io")
    )


def _check_email(username: Mapped | Expression, others: list[Expression], at: str) -> None:
    """Whoever takes names from e-mail addresses has to look whether these were verified."""
    if not isinstance(username, Expression) or not EMAIL.search(username.text):
        return
    if not any("email_verified" in each.text for each in (username, *others)):
        raise BadAuthenticationConfig(
            f"{at}.expression: claims.email_verified must be used in claimMappings.username.expression "
            "or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when "
            "claims.email is used in claimMappings.username.expression"
        )


def _mapping(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadAuthenticationConfig(f"{at}: must be an object")
    return value


def _check_issuer(url: Any, at: str) -> None:
    parts = urlsplit(url if isinstance(url, str) else "")
    if parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment or "@" in url:
        raise BadAuthenticationConfig(f"{at} {url}: must be an https URL without query or user")
