"""The rules of writing custom objects, and definitions themselves.

A custom object is worked on in the version of the request; the registry converts it to the stored one last.
"""

from __future__ import annotations

from collections.abc import Awaitable

from sampan.apiserver.call import Call
from sampan.apiserver.crd import conditions
from sampan.apiserver.crd.version import Version
from sampan.apiserver.expressions import allowance, aside
from sampan.apiserver.strategies.base import Causes, Object, Strategy, keep
from sampan.kube import names, objects
from sampan.kube.structural import definition, formats
from sampan.kube.structural.node import every_part
from sampan.kube.structural.resource import ResourceSchema
from sampan.kube.validation import validate_metadata, validate_metadata_update

_STANDARD_FINALIZERS = ("orphan", "foregroundDeletion", "kubernetes")


class CustomStrategy(Strategy):
    """Objects of a kind that a definition made."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        version = version_of(call)
        refusal = version.refuse_create(call.resource, obj["metadata"].get("name") or "")
        if refusal is not None:
            raise refusal
        if version.has_status:
            obj.pop("status", None)

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        if version_of(call).has_status:
            keep(new, old, "status")

    def prepare_status(self, call: Call, new: Object, old: Object) -> None:
        managed = new["metadata"].get("managedFields")
        for key in {*new, *old} - {"status"}:
            keep(new, old, key)
        metadata = new["metadata"] = dict(old["metadata"])
        if managed is not None:
            metadata["managedFields"] = managed

    def validate_create(self, call: Call, obj: Object) -> Causes | Awaitable[Causes]:
        causes: Causes = []
        namespaced = call.resource.namespaced
        validate_metadata(obj["metadata"], causes, namespaced=namespaced, builtin=False)
        schema = version_of(call).schema
        return with_rules(schema, obj, None, causes, schema.validate_create(obj))

    def validate_update(self, call: Call, new: Object, old: Object) -> Causes | Awaitable[Causes]:
        causes: Causes = []
        validate_metadata_update(new["metadata"], old["metadata"], causes, builtin=False)
        schema = version_of(call).schema
        if call.info.subresource == "status":
            return with_rules(schema, new, old, causes, schema.validate_status(new, old))
        return with_rules(schema, new, old, causes, schema.validate_update(new, old))

    def warn(self, call: Call, new: Object, old: Object | None) -> list[str]:
        """Finalizers that another writer could take for its own."""
        found = []
        before = objects.finalizers(old) if old is not None else []
        for name in sorted(set(objects.finalizers(new)) - set(before)):
            where = f'metadata.finalizers: "{name}": '
            found += [where + reason for reason in names.qualified_name(name)]
            if "/" not in name and name not in _STANDARD_FINALIZERS:
                path = " including a path (/)" if "." in name else ""
                found.append(
                    f"{where}prefer a domain-qualified finalizer name{path} to avoid accidental "
                    "conflicts with other finalizer writers"
                )
        return found


class DefinitionStrategy(Strategy):
    """CustomResourceDefinitions: their status is the server's, and their objects go before they do."""

    def prepare_create(self, call: Call, obj: Object) -> None:
        obj["status"] = {
            "conditions": [],
            "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": [],
        }
        _note_stored(obj)

    def prepare_update(self, call: Call, new: Object, old: Object) -> None:
        keep(new, old, "status")
        new["status"] = dict(new.get("status") or {})
        _note_stored(new)

    async def validate_create(self, call: Call, obj: Object) -> Causes:
        causes: Causes = []
        validate_metadata(obj["metadata"], causes, namespaced=False)
        return causes + await aside(definition.validate, obj)  # it compiles all rules

    async def validate_update(self, call: Call, new: Object, old: Object) -> Causes:
        causes: Causes = []
        validate_metadata_update(new["metadata"], old["metadata"], causes)
        if call.info.subresource == "status":
            return causes + definition.validate_status(new)
        if new["spec"] == old["spec"] and objects.annotations(new) == objects.annotations(old):
            return causes
        return causes + await aside(definition.validate_update, new, old)

    def warn(self, call: Call, new: Object, old: Object | None) -> list[str]:
        before = _remarks(old) if old is not None else []
        return [each for each in _remarks(new) if each not in before]

    def may_remove(self, obj: Object) -> bool:
        """The first DELETE marks it and adds the finalizer; once that is gone, so are the objects."""
        return objects.is_deleting(obj)

    def begin_delete(self, obj: Object) -> None:
        conditions.begin_delete(obj)


def with_rules(
    schema: ResourceSchema, new: Object, old: Object | None, before: Causes, found: Causes
) -> Causes | Awaitable[Causes]:
    """All causes: of metadata, of the schema and of its rules; to be awaited when the rules are expensive.

    At their first use they are compiled, a millisecond for each, which is done aside too.
    """
    if schema.ready:
        budget = allowance()
        ruled = schema.check_rules(new, old, found, budget)
        if budget.left:
            return before + found + ruled

    async def all_causes() -> Causes:
        return before + found + await aside(schema.check_rules, new, old, found)

    return all_causes()


def version_of(call: Call) -> Version:
    found = call.resource.custom
    assert found is not None
    return found


def _note_stored(crd: Object) -> None:
    stored = crd["status"].get("storedVersions") or []
    for version in (crd.get("spec") or {}).get("versions") or ():
        if version.get("storage") and version.get("name") not in stored:
            crd["status"]["storedVersions"] = [*stored, version["name"]]
            return


def _remarks(crd: Object) -> list[str]:
    """What is allowed in a schema and not acted upon."""
    found: list[str] = []
    sets: set[str] = set()
    for version in (crd.get("spec") or {}).get("versions") or ():
        raw = (version.get("schema") or {}).get("openAPIV3Schema")
        for part in every_part(raw) if raw else ():
            name = part.get("format")
            if name and not formats.recognized(part.get("type") or "", name):
                text = f'unrecognized format "{name}"'
                if text not in found:
                    found.append(text)
            items = part.get("items")
            if part.get("x-kubernetes-list-type") == "set" and isinstance(items, dict):
                if items.get("type") in ("object", "array"):
                    kind = items["type"]
                    sets.add(
                        f'x-kubernetes-list-type: set for items of type "{kind}" is not supported by '
                        "server-side apply or CEL validation rules"
                    )
    return found + sorted(sets)
