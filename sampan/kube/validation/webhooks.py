"""Webhooks of admission: whom to call, for what, and with what promises.

Some rules came later than the kind: an object that breaks one already may go on breaking it, and no other may begin to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from sampan.kube import names
from sampan.kube.errors import duplicate, invalid_value, not_supported, required
from sampan.kube.validation import expressions, matching, rules
from sampan.kube.validation.rules import Causes, Object, Rules

_FAILURE: Final = frozenset(("Fail", "Ignore"))
_MATCH: Final = frozenset(("Equivalent", "Exact"))
_NO_EFFECTS: Final = ("None", "NoneOnDryRun")
_EFFECTS: Final = ("None", "NoneOnDryRun", "Some", "Unknown")
_VERSIONS: Final = ("v1", "v1beta1")  # of AdmissionReview, that we speak
_FORM: Final = "; desired format: https://host[/path]"


@dataclass(frozen=True, slots=True)
class _Strictness:
    effects: bool = True  # none are allowed but on a dry run
    versions: bool = True  # one that we speak is among them
    unique: bool = True  # names
    conditions: bool = True  # are looked at


def _create(configuration: Object, causes: Causes) -> None:
    _all(configuration.get("webhooks") or [], causes, _Strictness())


def _update(new: Object, old: Object, causes: Causes) -> None:
    after, before = new.get("webhooks") or [], old.get("webhooks") or []
    known = [each.get("name") or "" for each in before]
    same = [each.get("matchConditions") for each in after] == [
        each.get("matchConditions") for each in before
    ]
    strictness = _Strictness(
        effects=all(each.get("sideEffects") in _NO_EFFECTS for each in before),
        versions=all(
            _understood(each.get("admissionReviewVersions") or _VERSIONS) for each in before
        ),
        unique=len(known) == len(set(known)),
        conditions=not same,
    )
    _all(after, causes, strictness)


def _understood(versions: list[str] | tuple[str, ...]) -> bool:
    return any(version in _VERSIONS for version in versions)


def _all(webhooks: list[Object], causes: Causes, strictness: _Strictness) -> None:
    seen: set[str] = set()
    for index, webhook in enumerate(webhooks):
        path, name = f"webhooks[{index}]", webhook.get("name") or ""
        _webhook(webhook, causes, path, strictness)
        _review_versions(
            webhook.get("admissionReviewVersions") or [],
            causes,
            f"{path}.admissionReviewVersions",
            strictness,
        )
        if strictness.unique and name in seen:
            causes.append(duplicate(f"{path}.name", name))
        if name:
            seen.add(name)


def _webhook(webhook: Object, causes: Causes, path: str, strictness: _Strictness) -> None:
    _qualified(webhook.get("name") or "", causes, f"{path}.name")
    for at, rule in enumerate(webhook.get("rules") or ()):
        matching.rule(rule, causes, f"{path}.rules[{at}]")
    rules.choice(causes, f"{path}.failurePolicy", webhook.get("failurePolicy"), _FAILURE)
    rules.choice(causes, f"{path}.matchPolicy", webhook.get("matchPolicy"), _MATCH)
    effects, allowed = webhook.get("sideEffects"), _NO_EFFECTS if strictness.effects else _EFFECTS
    if effects is None:
        causes.append(required(f"{path}.sideEffects", f"must specify one of {', '.join(allowed)}"))
    elif effects not in allowed:
        causes.append(not_supported(f"{path}.sideEffects", effects, allowed))
    seconds = webhook.get("timeoutSeconds")
    if seconds is not None and not 1 <= seconds <= 30:
        text = "the timeout value must be between 1 and 30 seconds"
        causes.append(invalid_value(f"{path}.timeoutSeconds", seconds, text))
    for field in ("namespaceSelector", "objectSelector"):
        rules.label_selector(causes, f"{path}.{field}", webhook.get(field))
    _client_config(webhook.get("clientConfig") or {}, causes, f"{path}.clientConfig")
    if strictness.conditions:
        conditions = webhook.get("matchConditions")
        expressions.match_conditions(causes, f"{path}.matchConditions", conditions)


def _review_versions(
    versions: list[str], causes: Causes, path: str, strictness: _Strictness
) -> None:
    if not versions:
        causes.append(required(path, f"must specify one of {', '.join(_VERSIONS)}"))
        return
    for index, version in enumerate(versions):
        if version in versions[:index]:
            causes.append(invalid_value(f"{path}[{index}]", version, "duplicate version"))
        else:
            rules.name(causes, f"{path}[{index}]", version, names.dns1035_label)
    if strictness.versions and not _understood(versions):
        text = f"must include at least one of {', '.join(_VERSIONS)}"
        causes.append(invalid_value(path, versions, text))


def _qualified(name: str, causes: Causes, path: str) -> None:
    if not name:
        causes.append(required(path))
    elif reasons := names.dns1123_subdomain(name):
        causes.extend(invalid_value(path, name, reason) for reason in reasons)
    elif name.count(".") < 2:
        text = "should be a domain with at least three segments separated by dots"
        causes.append(invalid_value(path, name, text))


def _client_config(config: Object, causes: Causes, path: str) -> None:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        causes.append(required(path, "exactly one of url or service is required"))
    elif url is not None:
        _url(url, causes, f"{path}.url")
    elif service is not None:
        _service(service, causes, f"{path}.service")


def _url(text: str, causes: Causes, path: str) -> None:
    try:
        url = urlsplit(text)
    except ValueError as error:
        causes.append(required(path, f"url must be a valid URL: {error}{_FORM}"))
        return
    if url.scheme != "https":
        why = f"'https' is the only allowed URL scheme{_FORM}"
        causes.append(invalid_value(path, url.scheme, why))
    user, at, host = url.netloc.rpartition("@")
    if not host:
        causes.append(invalid_value(path, "", f"host must be specified{_FORM}"))
    if at:
        causes.append(invalid_value(path, user, "user information is not permitted in the URL"))
    if url.fragment:
        causes.append(invalid_value(path, url.fragment, "fragments are not permitted in the URL"))
    if url.query:
        causes.append(
            invalid_value(path, url.query, "query parameters are not permitted in the URL")
        )


def _service(service: Object, causes: Causes, path: str) -> None:
    # Kubernetes takes each of the two for the other.
    for field, shown in (("namespace", "name"), ("name", "namespace")):
        if not service.get(field):
            causes.append(required(f"{path}.{shown}"))
    port = service.get("port") or 0
    if reasons := names.port_number(port):
        text = f"port is not valid: {', '.join(reasons)}"
        causes.append(invalid_value(f"{path}.port", port, text))
    place, where = service.get("path") or "/", f"{path}.path"
    if place == "/":
        return
    if place == "//":
        causes.append(invalid_value(where, place, "segment[0] may not be empty"))
        return
    if not place.startswith("/"):
        causes.append(invalid_value(where, place, "must start with a '/'"))
    for index, step in enumerate(place[1:].removesuffix("/").split("/")):
        if not step:
            causes.append(invalid_value(where, place, f"segment[{index}] may not be empty"))
            continue
        for reason in names.dns1123_subdomain(step):
            causes.append(invalid_value(where, place, f"segment[{index}]: {reason}"))


RULES = Rules(_create, _update, namespaced=False, update_is_whole=True)
