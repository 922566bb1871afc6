"""Bodies into objects: what POST and PUT carry, what a PATCH makes of the present object, and DeleteOptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from sampan.apiserver.call import Call, boolean, integer
from sampan.apiserver.crd import decode as custom
from sampan.apiserver.negotiate import JSON, PROTOBUF, YAML, media_type, readable, unreadable
from sampan.apiserver.registry import DeleteOptions, Object
from sampan.kube import decode, defaulting, errors, schema
from sampan.kube.conform import Mismatch
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
DELETE_OPTIONS = GVK("", "v1", "DeleteOptions")
POLICIES = ("Foreground", "Background", "Orphan")


def decode_object(call: Call, gvk: GVK) -> Object:
    """The body as a defaulted object of `gvk`; warnings go to the call."""
    request = call.request
    is_custom = call.resource.custom is not None and gvk == call.gvk
    content_type = readable(request.headers.get("content-type", ""), protobuf=not is_custom)
    mode: Any = call.field_validation
    body = request.body
    if is_custom:
        return custom.decode_object(call, body, content_type, gvk)
    if content_type == PROTOBUF:
        body, content_type = from_protobuf(body, gvk), JSON
    obj, warnings = decode.decode(body, content_type, gvk, strict=mode)
    if warnings:
        call.warnings += warnings
    if not isinstance(obj.get("metadata"), dict):
        obj["metadata"] = {}
    defaulting.default(gvk, obj)
    return obj


def from_protobuf(body: bytes, gvk: GVK) -> bytes:
    """The same object as JSON, so that it takes the same way through schema and checks.

    Raises ApiError 415 for what is no message of a kind that we know: JSON would be understood.
    """
    from sampan.apiserver import protobuf

    try:
        return orjson.dumps(protobuf.decode(body, gvk))
    except (ValueError, orjson.JSONEncodeError) as error:
        refusal = unreadable(JSON, YAML)
        refusal.details["causes"] = [{"message": str(error)}]
        raise refusal from None


def patched(call: Call, gvk: GVK) -> Callable[[Object], Object]:
    """The function that applies the request's patch to an object of `gvk`. Raises ApiError 400 or 415 at once."""
    from sampan.kube import patch

    kind = media_type(call.request.headers.get("content-type", ""))
    name = schema.for_gvk(gvk)
    if kind not in (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH) or (
        kind == STRATEGIC_PATCH and not name
    ):
        accepted = (JSON_PATCH, MERGE_PATCH, *((STRATEGIC_PATCH,) if name else ()), APPLY_PATCH)
        raise unreadable(*accepted)
    try:
        body = orjson.loads(call.request.body)
        plain = orjson.dumps(body) == call.request.body.strip()
    except orjson.JSONDecodeError as error:
        raise errors.bad_request(f"error decoding patch: {error}") from None
    except TypeError:  # it can be read, and not written: encoding goes less deep than decoding
        raise errors.bad_request("error decoding patch: json: exceeded max depth") from None

    aside = kind != JSON_PATCH and not _names_managers(body)
    odd = _odd_in_patch(call, kind, body, plain)

    def apply(old: Object) -> Object:
        # Copying and checking managed fields would cost as much as the rest of a usual object.
        managers = old["metadata"].pop("managedFields", None) if aside else None
        new = patched_object(old)
        shown = body if kind == STRATEGIC_PATCH else None
        new = conforming(call, gvk, new, old, odd, shown)
        if managers is not None:
            new["metadata"]["managedFields"] = managers
        return new

    def patched_object(old: Object) -> Any:
        if kind == JSON_PATCH:
            return patch.json_patch(old, body)
        if kind == MERGE_PATCH:
            return patch.merge_patch(old, body)
        assert name is not None
        return patch.strategic_merge_patch(old, body, name)

    return apply


def _odd_in_patch(call: Call, kind: str, body: Any, plain: bool) -> list[str]:
    """Strict errors in a patch itself: keys that it gives twice, and operations with fields that mean nothing."""
    if call.field_validation == "Ignore":
        return []
    found = [] if plain else decode.duplicates(call.request.body)
    if kind != JSON_PATCH:
        return found
    for index, operation in enumerate(body if isinstance(body, list) else ()):
        for key in operation if isinstance(operation, dict) else ():
            if key not in ("op", "path", "from", "value"):
                found.append(f"unknown field {errors.quote(f'[{index}].{key}')}")
    return [f"json patch {text}" for text in found]


def _names_managers(patch: Any) -> bool:
    """May the merge patch touch metadata.managedFields?"""
    if not isinstance(patch, dict) or "$patch" in patch or "$retainKeys" in patch:
        return True
    metadata = patch.get("metadata", {})
    return not isinstance(metadata, dict) or any(
        key == "managedFields" or key.startswith("$") for key in metadata
    )


def applies(call: Call) -> bool:
    """Is the request a server-side apply?"""
    return media_type(call.request.headers.get("content-type", "")) == APPLY_PATCH


def applied_configuration(call: Call) -> Object:
    """The object that an apply sends, YAML or JSON, as it was written. Raises ApiError 400.

    It is partial on purpose: nothing is defaulted. Its fields are checked against the kind's type when it is merged, so
    `fieldValidation` decides only over keys that are there twice.
    """
    try:
        config, found = decode.parse(call.request.body)
    except ApiError as error:
        raise errors.bad_request(f"error decoding patch: {error.message}") from None
    if not isinstance(config, dict):
        raise errors.bad_request("error decoding patch: the applied configuration is no object")
    if found and call.field_validation == "Strict":
        raise errors.bad_request(f"error strict decoding patch: {', '.join(found)}")
    if found and call.field_validation == "Warn":
        call.warnings += found
    return config


def conforming(
    call: Call,
    gvk: GVK,
    new: Any,
    old: Object | None = None,
    odd: Sequence[str] = (),
    strategic: Object | None = None,
) -> Object:
    """What a patch made (of `old`, which fits), fitted to the schema and defaulted. `odd`: the patch's own strict errors.

    `strategic` is the patch itself, if it was such a one: Kubernetes then shows it, else the object it left. Raises ApiError 400
    and 422.
    """
    if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
        raise errors.bad_request("the patch must leave an object with metadata")
    if new.get("kind") != gvk.kind or new.get("apiVersion") != gvk.api_version:
        raise errors.bad_request(
            f"the patch must not change kind or apiVersion: {new.get('apiVersion')}/{new.get('kind')}"
        )
    is_custom = call.resource.custom is not None and gvk == call.gvk
    name = None if is_custom else schema.for_gvk(gvk)
    found = list(odd)
    if name is not None:
        touched = new if old is None else _touched(old, new)
        fitted = dict(touched)
        try:
            found += decode.check_types(fitted, name)
        except Mismatch as error:
            reason = str(error) if strategic is None else error.restoring
            raise decode.unfit(new, reason, strategic) from error
        for key in touched.keys() - fitted.keys():
            del new[key]
        new.update(fitted)
    if found and call.field_validation == "Strict":
        raise decode.unfit(new, decode.strict_message(found), strategic)
    if found and call.field_validation == "Warn":
        call.warnings += [each for each in found if each not in call.warnings]
    if is_custom:
        return custom.conforming(call, new)
    if not isinstance(new.get("metadata"), dict):
        new["metadata"] = {}
    defaulting.default(gvk, new)
    return new


def _touched(old: Object, new: Object) -> Object:
    """The first-level fields that a patch touched, by their bytes: to Python, 1 and true are equal."""
    try:
        return {
            key: value
            for key, value in new.items()
            if key not in old or orjson.dumps(value) != orjson.dumps(old[key])
        }
    except TypeError:  # a patch that copies a thing into itself makes it deeper than can be encoded
        return dict(new)


def delete_options(call: Call) -> DeleteOptions:
    """DeleteOptions out of the body, or of the query when there is no body. Raises ApiError 400 or 422."""
    request = call.request
    options: Object = {}
    if request.body.strip():
        content_type = readable(request.headers.get("content-type", ""))
        options = _decoded_options(request.body, content_type)
    else:
        grace = integer(request, "gracePeriodSeconds")
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if request.param("propagationPolicy"):
            options["propagationPolicy"] = request.param("propagationPolicy")
        orphan = boolean(request, "orphanDependents")
        if orphan is not None:
            options["orphanDependents"] = orphan
    dry_run = [
        *(options.get("dryRun") or ()),
        *(value for value in request.params("dryRun") if value),
    ]
    policy, orphan = options.get("propagationPolicy"), options.get("orphanDependents")
    causes = []
    if policy is not None and orphan is not None:
        causes.append(
            errors.invalid_value(
                "propagationPolicy",
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            )
        )
    if policy is not None and policy not in POLICIES:
        causes.append(errors.not_supported("propagationPolicy", policy, [*POLICIES, "nil"]))
    if any(value != "All" for value in dry_run):
        causes.append(errors.not_supported("dryRun", dry_run, ["All"]))
    if causes:
        raise errors.invalid("DeleteOptions", "", causes, "meta.k8s.io")
    call.dry_run = bool(dry_run)
    if orphan is not None:
        policy = "Orphan" if orphan else "Background"
    conditions = options.get("preconditions") or {}
    return DeleteOptions(
        options.get("gracePeriodSeconds"),
        policy or "",
        conditions.get("uid"),
        conditions.get("resourceVersion"),
    )


_OPTION_TYPES: dict[str, type | tuple[type, ...]] = {
    "gracePeriodSeconds": int,
    "propagationPolicy": str,
    "orphanDependents": bool,
    "dryRun": list,
    "preconditions": dict,
    "kind": str,
    "apiVersion": str,
}


def _decoded_options(body: bytes, content_type: str) -> Object:
    value: Any
    if content_type == PROTOBUF:
        body, content_type = from_protobuf(body, DELETE_OPTIONS), JSON
    if content_type == JSON:
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise errors.bad_request(
                f"couldn't get version/kind; json parse error: {error}"
            ) from None
    else:
        from sampan.kube import yaml_body

        try:
            value, _ = yaml_body.parse(body)
        except yaml_body.YAMLError as error:
            raise errors.bad_request(f"error converting YAML to JSON: {error}") from None
    if not isinstance(value, dict):
        raise errors.bad_request("DeleteOptions must be an object")
    if value.get("kind") not in (None, "", "DeleteOptions"):
        raise errors.bad_request(f"expected DeleteOptions, got {value.get('kind')}")
    found = {key: each for key, each in value.items() if each is not None}
    for key, wanted in _OPTION_TYPES.items():
        if key in found and (
            not isinstance(found[key], wanted) or (wanted is int and found[key] is True)
        ):
            raise errors.bad_request(
                f'DeleteOptions in version "v1" cannot be handled as a DeleteOptions: '
                f"json: cannot unmarshal into Go struct field DeleteOptions.{key}"
            )
    conditions = found.get("preconditions") or {}
    if any(not isinstance(conditions.get(key), str | None) for key in ("uid", "resourceVersion")):
        raise errors.bad_request(
            'DeleteOptions in version "v1" cannot be handled as a DeleteOptions: '
            "json: cannot unmarshal into Go struct field Preconditions"
        )
    return found
