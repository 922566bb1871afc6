"""Between the versions of a custom resource: `None` changes the apiVersion and nothing else, `Webhook` asks a service.

The ConversionReview protocol, the checks of what comes back and the words of failure are those of apiextensions
`apiserver/conversion/webhook_converter.go`. A webhook may change labels and annotations; the rest of metadata is restored.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sampan.kube.errors import ApiError, Cause
from sampan.kube.objects import clone
from sampan.kube.types import GVK
from sampan.kube.validation import rules

Object = dict[str, Any]
# (clientConfig, what the request is sent, seconds) → the answer's JSON
CallWebhook = Callable[[Object, Object, float], Awaitable[Object]]

REVIEW: Final = "apiextensions.k8s.io"
REVIEW_VERSIONS: Final = ("v1", "v1beta1")
TIMEOUT: Final = 30.0


class Converter:
    """Strategy `None`."""

    is_remote = False

    async def convert(self, objects: list[Object], api_version: str) -> list[Object]:
        """The objects in another version, in their order. Raises ApiError 500 when it cannot be done."""
        return [{**obj, "apiVersion": api_version} for obj in objects]


class WebhookConverter(Converter):
    is_remote = True

    def __init__(self, conversion: Object, call: CallWebhook) -> None:
        webhook = conversion.get("webhook") or {}
        self.config: Object = webhook.get("clientConfig") or {}
        wanted = webhook.get("conversionReviewVersions") or ()
        self.review = next((each for each in wanted if each in REVIEW_VERSIONS), "v1")
        self.call = call

    async def convert(self, objects: list[Object], api_version: str) -> list[Object]:
        asked = [obj for obj in objects if obj["apiVersion"] != api_version]
        if not asked:
            return objects
        gvk = GVK.from_object(asked[0])
        uid = str(uuid.uuid4())
        request = {"uid": uid, "desiredAPIVersion": api_version, "objects": asked}
        review = {
            "kind": "ConversionReview",
            "apiVersion": f"{REVIEW}/{self.review}",
            "request": request,
        }
        try:
            answer = await self.call(self.config, review, TIMEOUT)
            converted = self._objects(answer, uid)
        except ApiError as error:
            raise failed(gvk, error.message) from error
        except (ConversionError, ConnectionError, TimeoutError, ValueError) as error:
            raise failed(gvk, str(error)) from error
        if len(converted) != len(asked):
            text = f"conversion webhook for {gvk} returned {len(converted)} objects, expected {len(asked)}"
            raise ApiError(500, "", text)
        results = []
        for index, (before, after) in enumerate(zip(asked, converted, strict=True)):
            try:
                results.append(_checked(before, after, api_version))
            except ConversionError as error:
                where = f"invalid converted object at index {index}"
                text = f"conversion webhook for {gvk} returned {where}: {error}"
                raise ApiError(500, "", text) from error
        fresh = iter(results)
        return [obj if obj["apiVersion"] == api_version else next(fresh) for obj in objects]

    def _objects(self, answer: Object, uid: str) -> list[Any]:
        expected = f"{REVIEW}/{self.review}"
        if self.review == "v1" and (answer.get("apiVersion"), answer.get("kind")) != (
            expected,
            "ConversionReview",
        ):
            found = GVK.from_object(answer)
            raise ConversionError(
                f"expected webhook response of {REVIEW}/v1, Kind=ConversionReview, got {found}"
            )
        response = answer.get("response")
        if not isinstance(response, dict):
            raise ConversionError("no response provided")
        if self.review == "v1" and response.get("uid") != uid:
            raise ConversionError(
                f'expected response.uid="{uid}", got "{response.get("uid") or ""}"'
            )
        result = response.get("result") or {}
        if result.get("status") != "Success":
            status = result.get("status") or ""
            raise ConversionError(
                result.get("message") or f"response.result.status was '{status}', not 'Success'"
            )
        return response.get("convertedObjects") or []


class ConversionError(ValueError):
    """What the webhook answered is no conversion."""


def failed(gvk: GVK, reason: str) -> ApiError:
    return ApiError(500, "", f"conversion webhook for {gvk} failed: {reason}")


def _checked(before: Object, after: Any, api_version: str) -> Object:
    """The converted object with the metadata that a conversion may not touch put back."""
    if not isinstance(after, dict):
        raise ConversionError("must be an object")
    wanted, found = GVK.from_object({**before, "apiVersion": api_version}), GVK.from_object(after)
    if wanted[:2] != found[:2]:
        text = f"(expected {wanted.api_version}, received {found.api_version})"
        raise ConversionError(f"invalid groupVersion {text}")
    if wanted.kind != found.kind:
        raise ConversionError(f"invalid kind (expected {wanted.kind}, received {found.kind})")
    metadata = after.get("metadata")
    if "metadata" not in after:
        raise ConversionError("missing metadata in converted object")
    if not isinstance(metadata, dict):
        raise ConversionError(
            f"invalid metadata of type {type(metadata).__name__} in converted object"
        )
    original = before["metadata"]
    for key, name in (("name", "name"), ("namespace", "namespace"), ("uid", "UID")):
        one, other = original.get(key) or "", metadata.get(key) or ""
        if one != other:
            raise ConversionError(f"must have the same {name}: {one} != {other}")
    restored = clone(original)
    for key in ("labels", "annotations"):
        values = metadata.get(key)
        if values is None:
            restored.pop(key, None)
            continue
        _check_texts(key, values)
        restored[key] = values
    return {**after, "metadata": restored}


def _check_texts(key: str, values: Any) -> None:
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ConversionError(f"invalid metadata.{key} of type {kind} in converted object")
    for name, value in values.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            raise ConversionError(
                f"metadata.{key}[{name}] must be a string, but is {kind} in converted object"
            )
    causes: list[Cause] = []
    if key == "labels":
        rules.labels(causes, "metadata.labels", values)
    else:
        rules.annotations(causes, "metadata.annotations", values)
    if causes:
        raise ConversionError(", ".join(str(each) for each in causes))
