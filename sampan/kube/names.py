"""Name rules: each takes a string and returns the reasons it is refused, worded as Kubernetes words them.

An empty list means valid. Patterns and limits are those of RFC 1123 and RFC 1035 as narrowed by apimachinery
`util/validation`; the doubled space before "or" in the examples is Kubernetes' own and users search for it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Rule = Callable[[str], list[str]]

LABEL_MAX: Final = 63
SUBDOMAIN_MAX: Final = 253

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_HTTP_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_UNDERSCORED = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SEARCH = rf"{_UNDERSCORED}(\.{_UNDERSCORED})*"
_WILDCARD = rf"\*\.{_SUBDOMAIN}"
_DNS1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_HEADER = "[-A-Za-z0-9]+"
_PERCENT = "[0-9]+%"
_C_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_SYSCTL = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?"

_label_match = re.compile(_LABEL).fullmatch
_subdomain_match = re.compile(_SUBDOMAIN).fullmatch
_path_match = re.compile(_HTTP_PATH).fullmatch
_search_match = re.compile(_SEARCH).fullmatch
_wildcard_match = re.compile(_WILDCARD).fullmatch
_dns1035_match = re.compile(_DNS1035).fullmatch
_qualified_match = re.compile(_QUALIFIED).fullmatch
_label_value_match = re.compile(_LABEL_VALUE).fullmatch
_config_key_match = re.compile(_CONFIG_KEY).fullmatch
_header_match = re.compile(_HEADER).fullmatch
_percent_match = re.compile(_PERCENT).fullmatch
_c_identifier_match = re.compile(_C_IDENTIFIER).fullmatch
_sysctl_match = re.compile(_SYSCTL).fullmatch
_port_name_match = re.compile("[-a-z0-9]+").fullmatch


def max_length(limit: int) -> str:
    return f"must be no more than {limit} characters"


def _max_bytes(limit: int) -> str:
    """As labels' keys and values say it, which are the first to be checked declaratively (KEP-5073)."""
    return f"must be no more than {limit} bytes"


def in_range(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


def pattern_error(text: str, pattern: str, *examples: str) -> str:
    if not examples:
        return f"{text} (regex used for validation is '{pattern}')"
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{text} (e.g. {shown}regex used for validation is '{pattern}')"


_LABEL_TEXT = pattern_error(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character",
    _LABEL,
    "my-name",
    "123-abc",
)
_SUBDOMAIN_TEXT = pattern_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character",
    _SUBDOMAIN,
    "example.com",
)
_SEARCH_TEXT = pattern_error(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', "
    "and must start and end with an alphanumeric character",
    _SEARCH,
    "example.com",
)
_PATH_TEXT = pattern_error("Invalid path", _HTTP_PATH)
_WILDCARD_TEXT = pattern_error(
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must "
    "consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    _WILDCARD,
    "*.example.com",
)
_DNS1035_TEXT = pattern_error(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an "
    "alphabetic character, and end with an alphanumeric character",
    _DNS1035,
    "my-name",
    "abc-123",
)
_QUALIFIED_TEXT = pattern_error(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character",
    _QUALIFIED,
    "MyName",
    "my.name",
    "123-abc",
)
_LABEL_VALUE_TEXT = pattern_error(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character",
    _LABEL_VALUE,
    "MyValue",
    "my_value",
    "12345",
)
_CONFIG_KEY_TEXT = pattern_error(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _CONFIG_KEY,
    "key.name",
    "KEY_NAME",
    "key-name",
)
_HEADER_TEXT = pattern_error(
    "a valid HTTP header must consist of alphanumeric characters or '-'", _HEADER, "X-Header-Name"
)
_PERCENT_TEXT = pattern_error(
    "a valid percent string must be a numeric string followed by an ending '%'",
    _PERCENT,
    "1%",
    "93%",
)
_C_IDENTIFIER_TEXT = pattern_error(
    "a valid C identifier must start with alphabetic character or '_', followed by a string of "
    "alphanumeric characters or '_'",
    _C_IDENTIFIER,
    "my_name",
    "MY_NAME",
    "MyName",
)


def _too_long(value: str, limit: int) -> bool:
    # Only a non-ASCII string can have more bytes than characters, and those fail the pattern anyway.
    return len(value) > limit


def dns1123_label(value: str) -> list[str]:
    if len(value) <= LABEL_MAX and _label_match(value):
        return []
    reasons = [max_length(LABEL_MAX)] if _too_long(value, LABEL_MAX) else []
    if not _label_match(value):
        # A name that is a valid subdomain gets the shorter hint.
        if _subdomain_match(value):
            reasons.append("must not contain dots")
        else:
            reasons.append(_LABEL_TEXT)
    return reasons


def dns1123_subdomain(value: str) -> list[str]:
    if len(value) <= SUBDOMAIN_MAX and _subdomain_match(value):
        return []
    reasons = [max_length(SUBDOMAIN_MAX)] if _too_long(value, SUBDOMAIN_MAX) else []
    if not _subdomain_match(value):
        reasons.append(_SUBDOMAIN_TEXT)
    return reasons


def search_domain(value: str) -> list[str]:
    """A subdomain as resolvers search it: underscores may be in it."""
    reasons = [max_length(SUBDOMAIN_MAX)] if _too_long(value, SUBDOMAIN_MAX) else []
    return reasons if _search_match(value) else [*reasons, _SEARCH_TEXT]


def wildcard_subdomain(value: str) -> list[str]:
    reasons = [max_length(SUBDOMAIN_MAX)] if _too_long(value, SUBDOMAIN_MAX) else []
    return reasons if _wildcard_match(value) else [*reasons, _WILDCARD_TEXT]


def dns1035_label(value: str) -> list[str]:
    reasons = [max_length(LABEL_MAX)] if _too_long(value, LABEL_MAX) else []
    return reasons if _dns1035_match(value) else [*reasons, _DNS1035_TEXT]


@lru_cache(maxsize=2048)
def _qualified(value: str) -> tuple[str, ...]:
    prefix, slash, name = value.partition("/")
    if "/" in name:
        return (
            f"a valid label key {_QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')",
        )
    reasons: list[str] = []
    if not slash:
        name = prefix
    elif not prefix:
        reasons.append("prefix part must be non-empty")
    else:
        if len(prefix) > SUBDOMAIN_MAX:
            reasons.append(f"prefix part {_max_bytes(SUBDOMAIN_MAX)}")
        if not _subdomain_match(prefix):
            reasons.append(f"prefix part {_SUBDOMAIN_TEXT}")
    if not name:
        reasons.append("name part must be non-empty")
    elif len(name) > LABEL_MAX:
        reasons.append(f"name part {_max_bytes(LABEL_MAX)}")
    if not _qualified_match(name):
        reasons.append(f"name part {_QUALIFIED_TEXT}")
    return tuple(reasons)


def qualified_name(value: str) -> list[str]:
    """`name` or `dns.prefix/name`: label keys, resource names, finalizers."""
    return list(_qualified(value))


def label_key(value: str) -> list[str]:
    return list(_qualified(value))


def annotation_key(value: str) -> list[str]:
    """Annotation keys are compared in lower case, so `Example.com/x` passes."""
    return list(_qualified(value.lower()))


def label_value(value: str) -> list[str]:
    if len(value) <= LABEL_MAX and _label_value_match(value):
        return []
    reasons = [_max_bytes(LABEL_MAX)] if _too_long(value, LABEL_MAX) else []
    if not _label_value_match(value):
        reasons.append(_LABEL_VALUE_TEXT)
    return reasons


def env_var(value: str) -> list[str]:
    """KEP-4369: any printable ASCII but `=`."""
    if not value:
        return ["environment variable name must be non-empty"]
    if value.isascii() and value.isprintable() and "=" not in value:
        return []
    return [
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
    ]


def _parent_directory(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"must not be '{value}'"]
    return ["must not start with '..'"] if value.startswith("..") else []


def config_key(value: str) -> list[str]:
    """Keys of ConfigMap and Secret data: they become file names."""
    reasons = [max_length(SUBDOMAIN_MAX)] if _too_long(value, SUBDOMAIN_MAX) else []
    if not _config_key_match(value):
        reasons.append(_CONFIG_KEY_TEXT)
    return reasons + _parent_directory(value)


def port_name(value: str) -> list[str]:
    """IANA service name: at most 15 of a-z, 0-9 and single inner hyphens, one letter at least (RFC 6335)."""
    reasons: list[str] = []
    if len(value) > 15:
        reasons.append(max_length(15))
    if not _port_name_match(value):
        reasons.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        reasons.append("must contain at least one letter (a-z)")
    if "--" in value:
        reasons.append("must not contain consecutive hyphens")
    if value and (value[0] == "-" or value[-1] == "-"):
        reasons.append("must not begin or end with a hyphen")
    return reasons


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else [in_range(1, 65535)]


_NOT_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def ip(value: str) -> list[str]:
    wrong = _wrong_ip(value)
    return [wrong] if wrong else []


@lru_cache(maxsize=4096)
def _wrong_ip(value: str) -> str:
    """Endpoints name the same addresses again and again."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return "must not have leading 0s" if _padded_ip(value) else _NOT_IP
    if "%" in value:
        return _NOT_IP
    if address.version == 6 and address.ipv4_mapped is not None:
        return "must not be an IPv4-mapped IPv6 address"
    return ""


def _padded_ip(value: str) -> bool:
    """An IPv4 address but for zeros in front of its numbers, which some take for octal (CVE-2021-29923)."""
    parts = value.split(".")
    return len(parts) == 4 and all(
        part.isascii() and part.isdigit() and len(part) < 9 and int(part) < 256 for part in parts
    )


def cidr(value: str) -> list[str]:
    """A network, written so that nobody can take it for another (KEP-4858)."""
    address, _, bits = value.partition("/")
    digits = bits.isascii() and bits.isdecimal()
    try:
        if not digits:
            raise ValueError(value)
        network = ipaddress.ip_interface(value).network
    except ValueError:
        plain = (
            ".".join(str(int(part)) for part in address.split(".")) if _padded_ip(address) else ""
        )
        if digits and plain and int(bits) <= 32:
            return ["must not have leading 0s in IP or prefix length"]
        return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]
    if bits != str(network.prefixlen):
        return ["must not have leading 0s in IP or prefix length"]
    if network.version == 6 and ipaddress.IPv6Address(address).ipv4_mapped is not None:
        return ["must not have an IPv4-mapped IPv6 address"]
    if ipaddress.ip_address(address) != network.network_address:
        return ["must not have bits set beyond the prefix length"]
    return []


def percent(value: str) -> list[str]:
    return [] if _percent_match(value) else [_PERCENT_TEXT]


def http_header(value: str) -> list[str]:
    return [] if _header_match(value) else [_HEADER_TEXT]


def c_identifier(value: str) -> list[str]:
    return [] if _c_identifier_match(value) else [_C_IDENTIFIER_TEXT]


def is_sysctl(value: str) -> bool:
    return len(value) <= SUBDOMAIN_MAX and _sysctl_match(value) is not None


def path_segment(value: str) -> list[str]:
    """Names that must only survive being part of a URL path: RBAC, volumes, namespaces' finalizers."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{bad}'" for bad in ("/", "%") if bad in value]


def domain_prefixed_path(value: str) -> list[str]:
    """`example.com/some/path`: who manages a thing, or implements a class."""
    domain, slash, path = value.partition("/")
    if not slash or not domain or not path:
        return ['must be a domain-prefixed path (such as "acme.io/foo")']
    if reasons := dns1123_subdomain(domain):
        return reasons
    return [] if _path_match(path) else [_PATH_TEXT]


def for_prefix(rule: Rule) -> Rule:
    """The rule for a generateName: a trailing dash is fine, the random suffix follows it."""

    def check(value: str) -> list[str]:
        if len(value) > 1 and value.endswith("-"):
            value = value[:-2] + "a"
        return rule(value)

    return check
