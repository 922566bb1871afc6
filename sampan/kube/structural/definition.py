"""What makes a CustomResourceDefinition valid: names, versions, schemas, subresources, columns, conversion, approval.

Rules and words are those of apiextensions `validation.go` for v1. Kubernetes validates an internal form in which what all
versions have in common stands once, at the top: so a definition with one version hears of `spec.validation.openAPIV3Schema…`
and `spec.subresources…`, not of `spec.versions[0]…`. We report the same paths.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from sampan.kube import errors, names
from sampan.kube.errors import Cause
from sampan.kube.structural import (
    approval,
    defaults,
    fieldpath,
    keywords,
    ratchet,
    rules,
    structure,
)
from sampan.kube.structural.node import Raw

Object = dict[str, Any]
Causes = list[Cause]

SCOPES: Final = ("Cluster", "Namespaced")
STRATEGIES: Final = ("None", "Webhook")
COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
COLUMN_FORMATS: Final = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")  # fmt: skip
REVIEW_VERSIONS: Final = ("v1", "v1beta1")
MAX_SELECTABLE: Final = 8
MIXED_CASE: Final = "may have mixed case, but should otherwise match: "
# Go's names of the fields that a schema may have at its root when the status is a subresource, and their JSON names.
_ROOT_NAMES: Final = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations"  # fmt: skip
_ROOT_KEYS: Final = {
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    *(name[0].lower() + name[1:] for name in _ROOT_NAMES.split()),
}
_SHARED: Final = ("schema", "subresources", "additionalPrinterColumns", "selectableFields")


def validate(crd: Object, old: Object | None = None) -> Causes:
    """Everything wrong with a definition, beyond its metadata. `old` is the one that it replaces."""
    causes: Causes = []
    found = crd.get("spec") or {}
    expected = f"{(found.get('names') or {}).get('plural') or ''}.{found.get('group') or ''}"
    name = (crd.get("metadata") or {}).get("name") or ""
    if name != expected and old is None:
        text = 'must be spec.names.plural+"."+spec.group'
        causes.append(errors.invalid_value("metadata.name", name, text))
    _spec(found, causes)
    causes += validate_status(crd)
    _stored_versions(crd, causes)
    approval.validate(crd, old, causes)
    _preserve(found, causes)
    return causes


def validate_update(new: Object, old: Object) -> Causes:
    causes = ratchet.forgive(validate(new, old), new, old, lambda: validate(old, old))
    return causes + validate_changes(new, old)


def validate_changes(new: Object, old: Object) -> Causes:
    """What may not change, once objects depend on it."""
    causes: Causes = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    named, named_before = spec.get("names") or {}, before.get("names") or {}
    if is_established(old):
        _immutable("spec.scope", spec.get("scope"), before.get("scope"), causes)
        _immutable("spec.names.kind", named.get("kind"), named_before.get("kind"), causes)
        bundle, bundle_before = _bundle(spec), _bundle(before)
        if bundle and _unreadable(bundle) and not (bundle_before and _unreadable(bundle_before)):
            text = "unable to load root certificates: unable to parse bytes as PEM block"
            path = "spec.conversion.webhookClientConfig.caBundle"
            causes.append(errors.invalid_value(path, bundle, text))
    _immutable("spec.group", spec.get("group"), before.get("group"), causes)
    _immutable("spec.names.plural", named.get("plural"), named_before.get("plural"), causes)
    return causes


def _bundle(spec: Object) -> str:
    """The authorities of a conversion webhook: once a kind is served, one that cannot be read would stop it all."""
    webhook = (spec.get("conversion") or {}).get("webhook") or {}
    return (webhook.get("clientConfig") or {}).get("caBundle") or ""


def _unreadable(bundle: str) -> bool:
    try:
        _, begin, rest = base64.b64decode(bundle).partition(b"-----BEGIN CERTIFICATE-----")
    except ValueError:
        return True
    return not begin or b"-----END CERTIFICATE-----" not in rest


def validate_status(crd: Object) -> Causes:
    """Of a status, only the accepted names are checked."""
    causes: Causes = []
    _names((crd.get("status") or {}).get("acceptedNames") or {}, "status.acceptedNames", causes)
    return causes


def is_established(crd: Object) -> bool:
    return condition(crd, "Established") == "True"


def condition(crd: Object, kind: str) -> str:
    """The status of a condition, "" when there is none."""
    for each in (crd.get("status") or {}).get("conditions") or ():
        if each.get("type") == kind:
            return str(each.get("status"))
    return ""


def _immutable(path: str, new: Any, old: Any, causes: Causes) -> None:
    if new != old:
        causes.append(errors.invalid_value(path, new, "field is immutable"))


def _label(path: str, value: str, causes: Causes, prefix: str = "") -> None:
    if reasons := names.dns1035_label(value.lower() if prefix else value):
        causes.append(errors.invalid_value(path, value, prefix + ",".join(reasons)))


# --- spec ---------------------------------------------------------------------------------------------


def _spec(spec: Object, causes: Causes) -> None:
    group = spec.get("group") or ""
    if not group:
        causes.append(errors.required("spec.group"))
    elif reasons := names.dns1123_subdomain(group):
        causes.append(errors.invalid_value("spec.group", group, ",".join(reasons)))
    elif "." not in group:
        text = "should be a domain with at least one dot"
        causes.append(errors.invalid_value("spec.group", group, text))
    _choice("spec.scope", spec.get("scope"), SCOPES, causes)
    versions: list[Object] = spec.get("versions") or []
    hoisted = {key for key in _SHARED if _identical(versions, key)}
    for index, version in enumerate(versions):
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            where = f"spec.versions[{index}].schema.openAPIV3Schema"
            causes.append(errors.required(where))
    for index, version in enumerate(versions):
        _version(version, f"spec.versions[{index}]", hoisted, causes)
    _version_names(versions, causes)
    if versions:
        _label("spec.version", versions[0].get("name") or "", causes)
    named = spec.get("names") or {}
    for key in ("plural", "singular", "kind", "listKind"):
        if not named.get(key):
            causes.append(errors.required(f"spec.names.{key}"))
    _names(named, "spec.names", causes)
    if versions:
        _shared(versions, hoisted, causes)
    _conversion(spec.get("conversion"), causes)


def _choice(path: str, value: Any, allowed: tuple[str, ...], causes: Causes) -> None:
    if not value:
        causes.append(errors.required(path))
    elif value not in allowed:
        causes.append(errors.not_supported(path, value, allowed))


def _identical(versions: list[Object], key: str) -> bool:
    return bool(versions) and all(each.get(key) == versions[0].get(key) for each in versions)


def _version(version: Object, path: str, hoisted: set[str], causes: Causes) -> None:
    _label(f"{path}.name", version.get("name") or "", causes)
    _deprecation(version, f"{path}.deprecationWarning", causes)
    own = {key: version[key] for key in _SHARED if key not in hoisted and version.get(key)}
    _parts(own, version, f"{path}.", f"{path}.schema", causes)


def _shared(versions: list[Object], hoisted: set[str], causes: Causes) -> None:
    """What all versions have in common stands at the top of the internal form."""
    own = {key: versions[0][key] for key in hoisted if versions[0].get(key)}
    whole = versions[0]
    if any(has_status(each) for each in versions):
        whole = {**whole, "subresources": {"status": {}}}
    _parts(own, whole, "spec.", "spec.validation", causes)


def _parts(own: Object, version: Object, prefix: str, schema_path: str, causes: Causes) -> None:
    raw = (own.get("schema") or {}).get("openAPIV3Schema")
    if raw:
        _schema(raw, schema_path, has_status(version), causes)
    if "subresources" in own:
        _subresources(own["subresources"], f"{prefix}subresources", causes)
    for index, column in enumerate(own.get("additionalPrinterColumns") or ()):
        _column(column, f"{prefix}additionalPrinterColumns[{index}]", causes)
    if "selectableFields" in own:
        whole = (version.get("schema") or {}).get("openAPIV3Schema") or {}
        _selectable(own["selectableFields"], whole, f"{prefix}selectableFields", causes)


def has_status(version: Object) -> bool:
    return (version.get("subresources") or {}).get("status") is not None


def _version_names(versions: list[Object], causes: Causes) -> None:
    found = [version.get("name") or "" for version in versions]
    if len(set(found)) < len(found):
        text = "must contain unique version names"
        causes.append(errors.invalid_value("spec.versions", versions, text))
    if sum(bool(version.get("storage")) for version in versions) != 1:
        text = "must have exactly one version marked as storage version"
        causes.append(errors.invalid_value("spec.versions", versions, text))


def _deprecation(version: Object, path: str, causes: Causes) -> None:
    text = version.get("deprecationWarning")
    if text is None:
        return
    problems = []
    if not version.get("deprecated"):
        problems.append("can only be set for deprecated versions")
    else:
        if len(text.encode()) > 256:
            problems.append("must be <= 256 characters long")
        if not text:
            problems.append("must not be an empty string")
        for index, char in enumerate(text):
            if not char.isprintable():
                words = "must only contain printable UTF-8 characters; non-printable character found at index"
                problems.append(f"{words} {index}")
                break
    causes.extend(errors.invalid_value(path, text, problem) for problem in problems)


def _names(found: Object, path: str, causes: Causes) -> None:
    for key, prefix in (("plural", ""), ("singular", ""), ("kind", MIXED_CASE), ("listKind", MIXED_CASE)):  # fmt: skip
        if found.get(key):
            _label(f"{path}.{key}", found[key], causes, prefix)
    for index, name in enumerate(found.get("shortNames") or ()):
        _label(f"{path}.shortNames[{index}]", name, causes)
    if found.get("kind") and found["kind"] == found.get("listKind"):
        text = "kind and listKind may not be the same"
        causes.append(errors.invalid_value(f"{path}.listKind", found["listKind"], text))
    for index, name in enumerate(found.get("categories") or ()):
        _label(f"{path}.categories[{index}]", name, causes)


# --- parts of a version -------------------------------------------------------------------------------


def _schema(raw: Raw, path: str, status: bool, causes: Causes) -> None:
    path = f"{path}.openAPIV3Schema"
    found: Causes = []
    if status:
        kind = raw.get("type") or ""
        if kind != "object" and kind:
            text = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
            found.append(errors.invalid_value(f"{path}.type", kind, text))
        elif any(key not in _ROOT_KEYS for key, each in raw.items() if each not in (None, [], {}, "", False)):  # fmt: skip
            text = f"only [{_ROOT_NAMES}] fields are allowed at the root of the schema if the status subresource is enabled"
            found.append(errors.invalid_value(path, raw, text))
    if raw.get("nullable"):
        found.append(
            errors.forbidden_field(f"{path}.nullable", "nullable cannot be true at the root")
        )
    problems = structure.validate(raw, path) or defaults.validate(raw, path)
    found += problems
    form = keywords.validate(raw, path)
    found += form
    if not problems and not form:
        found += rules.check(raw, path) or _costs(raw, path)
    causes += found


def _costs(raw: Raw, path: str) -> Causes:
    if not rules.has_rules(raw):
        return []
    from sampan.kube.structural import costs  # brings the language

    return costs.check(raw, path)


def _subresources(found: Object, path: str, causes: Causes) -> None:
    scale = found.get("scale")
    if scale is None:
        return
    for key, prefix in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        where, value = f"{path}.scale.{key}", scale.get(key) or ""
        if not value:
            causes.append(errors.required(where))
        elif not _simple_path(where, value, causes) and not value.startswith(prefix):
            text = f"should be a json path under {prefix[:-1]}"
            causes.append(errors.invalid_value(where, value, text))
    selector = scale.get("labelSelectorPath") or ""
    where = f"{path}.scale.labelSelectorPath"
    if selector and not _simple_path(where, selector, causes):
        if not selector.startswith((".spec.", ".status.")):
            text = "should be a json path under either .spec or .status"
            causes.append(errors.invalid_value(where, selector, text))


def _simple_path(path: str, value: str, causes: Causes) -> bool:
    """True when something was wrong."""
    if value.startswith("."):
        return False
    causes.append(errors.invalid_value(path, value, "must be a simple json path starting with ."))
    return True


def _column(column: Object, path: str, causes: Causes) -> None:
    if not column.get("name"):
        causes.append(errors.required(f"{path}.name"))
    kind, form = column.get("type") or "", column.get("format") or ""
    text = f"must be one of {','.join(COLUMN_TYPES)}"
    if not kind:
        causes.append(errors.required(f"{path}.type", text))
    elif kind not in COLUMN_TYPES:
        causes.append(errors.invalid_value(f"{path}.type", kind, text))
    if form and form not in COLUMN_FORMATS:
        text = f"must be one of {','.join(COLUMN_FORMATS)}"
        causes.append(errors.invalid_value(f"{path}.format", form, text))
    where, value = f"{path}.JSONPath", column.get("jsonPath") or ""
    if not value:
        causes.append(errors.required(where))
    else:
        _simple_path(where, value, causes)


def _selectable(fields: list[Object], raw: Raw, path: str, causes: Causes) -> None:
    seen: set[str] = set()
    for index, field in enumerate(fields):
        where, value = f"{path}[{index}].jsonPath", field.get("jsonPath") or ""
        if not value:
            causes.append(errors.required(where))
            continue
        try:
            name, found = fieldpath.resolve(value, raw, brackets=False)
        except fieldpath.PathError as error:
            causes.append(errors.invalid_value(where, value, f"is an invalid path: {error}"))
            continue
        if name.partition(".")[0] == "metadata":
            text = "must not point to fields in metadata"
            causes.append(errors.invalid_value(where, value, text))
        if found.get("type") not in ("string", "boolean", "integer"):
            text = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            causes.append(errors.invalid_value(where, value, text))
        if name in seen:
            causes.append(errors.duplicate(where, value))
        seen.add(name)
    if len(seen) > MAX_SELECTABLE:
        causes.append(errors.too_many(path, len(seen), MAX_SELECTABLE))


# --- conversion, stored versions ----------------------------------------------------------------------


def _conversion(conversion: Object | None, causes: Causes) -> None:
    if conversion is None:
        return
    path = "spec.conversion"
    strategy = conversion.get("strategy")
    _choice(f"{path}.strategy", strategy, STRATEGIES, causes)
    webhook = conversion.get("webhook") or {}
    config, reviews = webhook.get("clientConfig"), webhook.get("conversionReviewVersions") or []
    if strategy != "Webhook":
        text = "should not be set when strategy is not set to Webhook"
        if config is not None:
            causes.append(errors.forbidden_field(f"{path}.webhookClientConfig", text))
        if reviews:
            causes.append(errors.forbidden_field(f"{path}.conversionReviewVersions", text))
        return
    if config is None:
        text = "required when strategy is set to Webhook"
        causes.append(errors.required(f"{path}.webhookClientConfig", text))
    else:
        _client_config(config, f"{path}.webhookClientConfig", causes)
    where = f"{path}.conversionReviewVersions"
    if not reviews:
        causes.append(errors.required(where))
        return
    for index, version in enumerate(reviews):
        if version in reviews[:index]:
            causes.append(errors.invalid_value(f"{where}[{index}]", version, "duplicate version"))
            continue
        _label(f"{where}[{index}]", version, causes)
    if not any(version in REVIEW_VERSIONS for version in reviews):
        text = f"must include at least one of {', '.join(REVIEW_VERSIONS)}"
        causes.append(errors.invalid_value(where, reviews, text))


def _client_config(config: Object, path: str, causes: Causes) -> None:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        causes.append(errors.required(path, "exactly one of url or service is required"))
    elif url is not None:
        if not url.startswith("https://"):
            text = "'https' is the only allowed URL scheme; desired format: https://host[/path]"
            scheme = url.partition(":")[0] if ":" in url else ""
            causes.append(errors.invalid_value(f"{path}.url", scheme, text))
    else:
        for key in ("name", "namespace"):
            if not (service or {}).get(key):
                where = f"{path}.service.{key}"
                causes.append(errors.required(where, f"service {key} is required"))
        port = (service or {}).get("port")
        if port is not None and not 0 < port < 65536:
            text = "port is not valid: must be between 1 and 65535, inclusive"
            causes.append(errors.invalid_value(f"{path}.service.port", port, text))


def _stored_versions(crd: Object, causes: Causes) -> None:
    path = "status.storedVersions"
    stored = list((crd.get("status") or {}).get("storedVersions") or ())
    if not stored:
        causes.append(errors.invalid_value(path, stored, "must have at least one stored version"))
        return
    present = set()
    for version in (crd.get("spec") or {}).get("versions") or ():
        name = version.get("name") or ""
        present.add(name)
        if version.get("storage") and name not in stored:
            text = f"must have the storage version {name}"
            causes.append(errors.invalid_value(path, stored, text))
    for index, name in enumerate(stored):
        if name not in present:
            text = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                f"spec.versions until a storage migration ensures no data remains persisted in {name} and "
                f"removes {name} from status.storedVersions"
            )
            causes.append(errors.invalid_value(f"{path}[{index}]", name, text))


def _preserve(spec: Object, causes: Causes) -> None:
    if spec.get("preserveUnknownFields"):
        text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        causes.append(errors.invalid_value("spec.preserveUnknownFields", True, text))
