"""ObjectMeta, the same for every kind. Source: apimachinery `api/validation/objectmeta.go`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sampan.kube import names
from sampan.kube.errors import forbidden_field, invalid_value, required
from sampan.kube.types import split_api_version
from sampan.kube.validation import rules
from sampan.kube.validation.rules import Causes, Object

# Finalizers without a domain that Kubernetes itself made.
_STANDARD_FINALIZERS: Final = frozenset(("kubernetes", "orphan", "foregroundDeletion"))
_NO_OWNER: Final = frozenset((("v1", "Event"), ("events.k8s.io/v1", "Event")))
_IMMUTABLE: Final = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def validate_metadata(
    metadata: Object | None,
    causes: Causes,
    *,
    name_rule: Callable[[str], list[str]] = names.dns1123_subdomain,
    namespaced: bool | None = True,
    path: str = "metadata",
    builtin: bool = True,
) -> None:
    """Append what is wrong. `namespaced` None: the scope of the kind is not known here, so it is not checked.

    `builtin` False: a custom kind, whose finalizers need no domain.
    """
    metadata = metadata or {}
    prefix = metadata.get("generateName") or ""
    if prefix:
        rules.name(causes, f"{path}.generateName", prefix, names.for_prefix(name_rule))
    name = metadata.get("name") or ""
    if not name:
        if not prefix:
            causes.append(required(f"{path}.name", "name or generateName is required"))
    elif reasons := name_rule(name):
        causes.extend(invalid_value(f"{path}.name", name, reason) for reason in reasons)
    _namespace(metadata.get("namespace") or "", causes, namespaced, path)
    rules.not_negative(causes, f"{path}.generation", metadata.get("generation"))
    _parts(metadata, causes, path, builtin)


def _namespace(namespace: str, causes: Causes, namespaced: bool | None, path: str) -> None:
    if namespaced:
        rules.required_name(causes, f"{path}.namespace", namespace, names.dns1123_label)
    elif namespaced is False and namespace:
        causes.append(forbidden_field(f"{path}.namespace", "not allowed on this type"))


def _parts(metadata: Object, causes: Causes, path: str, builtin: bool) -> None:
    """What create and update check alike."""
    if found := metadata.get("labels"):
        rules.labels(causes, f"{path}.labels", found)
    if found := metadata.get("annotations"):
        rules.annotations(causes, f"{path}.annotations", found)
    if found := metadata.get("ownerReferences"):
        _owners(found, causes, f"{path}.ownerReferences")
    if found := metadata.get("finalizers"):
        _finalizers(found, causes, f"{path}.finalizers", builtin)


def _owners(owners: list[Object], causes: Causes, path: str) -> None:
    controller = ""
    for owner in owners:  # Kubernetes names no index
        api_version = owner.get("apiVersion") or ""
        if not split_api_version(api_version)[1]:
            causes.append(
                invalid_value(f"{path}.apiVersion", api_version, "version must not be empty")
            )
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                text = "must not be empty"
                causes.append(invalid_value(f"{path}.{field}", owner.get(field) or "", text))
        if (api_version, owner.get("kind")) in _NO_OWNER:
            text = f"{api_version}, Kind={owner['kind']} is disallowed from being an owner"
            causes.append(invalid_value(path, owner, text))
        if owner.get("controller"):
            name = f"{owner.get('kind') or ''}/{owner.get('name') or ''}"
            if controller:
                text = (
                    'Only one reference can have Controller set to true. Found "true" in references '
                    f"for {controller} and {name}"
                )
                causes.append(invalid_value(path, owners, text))
            controller = name


def _finalizers(finalizers: list[str], causes: Causes, path: str, builtin: bool) -> None:
    for index, finalizer in enumerate(finalizers):
        # Only kinds of Kubernetes' own insist on a domain.
        finalizer_name(finalizer, causes, path, f"{path}[{index}]" if builtin else "")
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        text = "finalizer orphan and foregroundDeletion cannot be both set"
        causes.append(invalid_value(path, finalizers, text))


def finalizer_name(finalizer: str, causes: Causes, path: str, bare_path: str) -> None:
    """`bare_path` is where a name without a domain is refused, "" where it is not."""
    rules.name(causes, path, finalizer, names.qualified_name)
    if bare_path and "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
        text = "name is neither a standard finalizer name nor is it fully qualified"
        causes.append(invalid_value(bare_path, finalizer, text))


def validate_metadata_update(
    new: Object | None, old: Object | None, causes: Causes, *, builtin: bool = True
) -> None:
    """A server-owned field that the client left out is not a change: the server fills it in."""
    new, old = new or {}, old or {}
    for field in _IMMUTABLE:
        value = new.get(field)
        if value is not None and value != old.get(field):
            causes.append(invalid_value(f"metadata.{field}", value, rules.IMMUTABLE))
    if (new.get("generation") or 0) < (old.get("generation") or 0) and "generation" in new:
        causes.append(
            invalid_value("metadata.generation", new["generation"], "must not be decremented")
        )
    if old.get("deletionTimestamp"):
        before = old.get("finalizers") or []
        added = [item for item in new.get("finalizers") or () if item not in before]
        if added:
            shown = ", ".join(f'"{item}"' for item in added)
            causes.append(
                forbidden_field(
                    "metadata.finalizers",
                    "no new finalizers can be added if the object is being deleted, found new "
                    f"finalizers []string{{{shown}}}",
                )
            )
    _parts(new, causes, "metadata", builtin)
