"""What the API server is told about identity, audit and encryption: kube-apiserver's own flags, by their own names.

One table. The command line offers each row as an option, `sampan up` keeps what was given in its configuration as text, and
`SecurityConfig.of` makes values of it. Rows are added here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Flag:
    name: str
    kind: Literal["text", "path", "bool", "int", "list"]
    help: str

    @property
    def field(self) -> str:
        return self.name.replace("-", "_")


FLAGS: tuple[Flag, ...] = (
    Flag("anonymous-auth", "bool", "Let requests without credentials be judged as anonymous."),
    Flag("authentication-config", "path", "AuthenticationConfiguration file."),
    Flag("token-auth-file", "path", "CSV file of static tokens: token,user,uid,groups."),
    Flag("enable-bootstrap-token-auth", "bool", "Accept tokens of bootstrap token Secrets."),
    Flag("oidc-issuer-url", "text", "OpenID provider whose tokens are accepted; https only."),
    Flag("oidc-client-id", "text", "Audience that its tokens must have."),
    Flag("oidc-username-claim", "text", "Claim that names the user. [default: sub]"),
    Flag("oidc-username-prefix", "text", "Prefix of such users; `-` is none."),
    Flag("oidc-groups-claim", "text", "Claim that lists the user's groups."),
    Flag("oidc-groups-prefix", "text", "Prefix of such groups."),
    Flag("oidc-required-claim", "list", "key=value that a token must claim. Repeatable."),
    Flag("oidc-ca-file", "path", "Authority of the provider's certificate."),
    Flag("oidc-signing-algs", "text", "Accepted algorithms, by comma. [default: RS256]"),
    Flag("service-account-issuer", "text", "Issuer of service-account tokens."),
    Flag("api-audiences", "text", "Audiences of the API, by comma. [default: the issuer]"),
    Flag("service-account-max-token-expiration", "text", "Longest life of such tokens: 24h, 30m."),
    Flag("audit-policy-file", "path", "Audit policy; without it nothing is recorded."),
    Flag("audit-log-path", "text", "File that audit events go to; `-` is standard output."),
    Flag("audit-log-maxage", "int", "Days to keep rotated audit logs."),
    Flag("audit-log-maxbackup", "int", "Rotated audit logs to keep."),
    Flag("audit-log-maxsize", "int", "Megabytes after which the audit log is rotated."),
    Flag("encryption-provider-config", "path", "EncryptionConfiguration file."),
)
BY_NAME: Mapping[str, Flag] = {flag.name: flag for flag in FLAGS}


class BadFlag(ValueError):
    """A value that a flag does not take; names the flag."""


@dataclass(slots=True)
class SecurityConfig:
    anonymous_auth: bool = True
    authentication_config: Path | None = None
    token_auth_file: Path | None = None
    enable_bootstrap_token_auth: bool = True
    oidc_issuer_url: str = ""
    oidc_client_id: str = ""
    oidc_username_claim: str = "sub"
    oidc_username_prefix: str = ""
    oidc_groups_claim: str = ""
    oidc_groups_prefix: str = ""
    oidc_required_claim: tuple[str, ...] = field(default=())
    oidc_ca_file: Path | None = None
    oidc_signing_algs: str = "RS256"
    service_account_issuer: str = ""
    api_audiences: str = ""
    service_account_max_token_expiration: str = ""
    audit_policy_file: Path | None = None
    audit_log_path: str = ""
    audit_log_maxage: int = 0
    audit_log_maxbackup: int = 0
    audit_log_maxsize: int = 100
    encryption_provider_config: Path | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> SecurityConfig:
        """From flags by name, as text or as what JSON makes of them. Raises BadFlag."""
        values: dict[str, Any] = {}
        for name, value in given.items():
            flag = BY_NAME.get(name)
            if flag is None:
                raise BadFlag(f"--{name}: unknown")
            values[flag.field] = _value(flag, value)
        found = cls(**values)
        if bool(found.audit_policy_file) != bool(found.audit_log_path):
            raise BadFlag("--audit-policy-file and --audit-log-path: each needs the other")
        if bool(found.oidc_issuer_url) != bool(found.oidc_client_id):
            raise BadFlag("--oidc-issuer-url and --oidc-client-id: each needs the other")
        if found.oidc_issuer_url and found.authentication_config:
            raise BadFlag("--authentication-config: cannot be combined with --oidc-* flags")
        return found

    @property
    def audiences(self) -> tuple[str, ...]:
        return tuple(each.strip() for each in self.api_audiences.split(",") if each.strip())

    @property
    def longest_token(self) -> int:
        """Seconds; 0: no other limit than the API's own."""
        text = self.service_account_max_token_expiration
        return duration(text) if text else 0


def _value(flag: Flag, value: Any) -> Any:
    if flag.kind == "path":
        path = Path(str(value))
        if not path.is_file():
            raise BadFlag(f"--{flag.name} {path}: no such file")
        return path
    if flag.kind == "list":
        return tuple(value) if isinstance(value, (list, tuple)) else (str(value),)
    if flag.kind == "bool":
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise BadFlag(f"--{flag.name} {value}: must be true or false")
    if flag.kind == "int":
        try:
            number = int(value)
        except ValueError:
            number = -1
        if number < 0:
            raise BadFlag(f"--{flag.name} {value}: must be a whole number")
        return number
    return str(value)


def check_files(config: SecurityConfig) -> None:
    """Read every file that is named, as the server will. Raises BadFlag, naming file and place."""
    from sampan.apiserver.audit.policy import BadPolicy, read_policy
    from sampan.apiserver.authentication_config import (
        BadAuthenticationConfig,
        provider_of_flags,
        read_config,
    )
    from sampan.apiserver.encryption import BadEncryptionConfig
    from sampan.apiserver.encryption import read_config as read_encryption
    from sampan.apiserver.static_tokens import BadTokenFile, StaticTokens

    readers: tuple[tuple[str, Path | None, Callable[[Path], object]], ...] = (
        ("token-auth-file", config.token_auth_file, StaticTokens.read),
        ("authentication-config", config.authentication_config, read_config),
        ("audit-policy-file", config.audit_policy_file, read_policy),
        ("encryption-provider-config", config.encryption_provider_config, read_encryption),
    )
    for name, path, read in readers:
        if path is not None:
            try:
                read(path)
            except (
                BadAuthenticationConfig,
                BadEncryptionConfig,
                BadPolicy,
                BadTokenFile,
            ) as error:
                raise BadFlag(f"--{name}: {error}") from error
    if config.oidc_issuer_url:
        try:
            provider_of_flags(config)
        except BadAuthenticationConfig as error:
            raise BadFlag(str(error)) from error


UNITS = {"h": 3600, "m": 60, "s": 1}


def duration(text: str) -> int:
    """`1h30m` in seconds. Raises BadFlag."""
    total, digits = 0, ""
    for char in text:
        if char.isdigit():
            digits += char
        elif char in UNITS and digits:
            total += int(digits) * UNITS[char]
            digits = ""
        else:
            digits = "?"
            break
    if digits or not text:
        raise BadFlag(f"{text}: must be a duration such as 24h or 30m")
    return total


assert {flag.field for flag in FLAGS} == {each.name for each in fields(SecurityConfig)}
