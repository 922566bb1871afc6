"""AdmissionReview: what a webhook is asked and what its answer means.

https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#request
"""

from __future__ import annotations

import base64
import binascii
import uuid
from dataclasses import dataclass, field
from typing import Any

import orjson

from sampan.apiserver.admission.attributes import Attributes
from sampan.apiserver.resources import Resource
from sampan.kube.errors import ApiError, quote

Object = dict[str, Any]

GROUP = "admission.k8s.io"
VERSIONS = ("v1", "v1beta1")


class InvalidReview(ValueError):
    """What came back is no answer to what was asked."""


@dataclass(slots=True)
class Answer:
    allowed: bool
    status: Object
    patch: list[Any] | None = None
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)


def version_for(webhook: Object) -> str:
    """The first version that both sides know. Raises InvalidReview."""
    for version in webhook.get("admissionReviewVersions") or ():
        if version in VERSIONS:
            return str(version)
    raise InvalidReview("webhook does not accept known AdmissionReview versions (v1, v1beta1)")


async def asked(attributes: Attributes, row: Resource, version: str) -> Object:
    request = {"uid": str(uuid.uuid4()), **attributes.request(row)}
    request["object"] = await attributes.show(row)
    request["oldObject"] = await attributes.show(row, old=True)
    return {"kind": "AdmissionReview", "apiVersion": f"{GROUP}/{version}", "request": request}


def answered(review: Object, answer: Object, *, mutating: bool) -> Answer:
    """Raises InvalidReview."""
    response = answer.get("response")
    if not isinstance(response, dict):
        raise InvalidReview("webhook response was absent")
    strict = review["apiVersion"].endswith("/v1")
    if strict:
        _check_identity(review, answer, response)
    given, kind = response.get("patch"), response.get("patchType")
    if not mutating:
        if strict and given:
            raise InvalidReview("validating webhook may not return response.patch")
        if strict and kind is not None:
            raise InvalidReview("validating webhook may not return response.patchType")
        given = None
    elif strict:
        if given and kind is None:
            raise InvalidReview("webhook returned response.patch but not response.patchType")
        if not given and kind is not None:
            raise InvalidReview("webhook returned response.patchType but not response.patch")
        if kind not in (None, "JSONPatch"):
            raise InvalidReview(
                f"webhook returned invalid response.patchType of {quote(str(kind))}"
            )
    result = response.get("status")
    warnings = response.get("warnings")
    annotations = response.get("auditAnnotations")
    return Answer(
        response.get("allowed") is True,
        result if isinstance(result, dict) else {},
        _patch(given) if given else None,
        [each for each in warnings if isinstance(each, str)] if isinstance(warnings, list) else [],
        {key: str(value) for key, value in annotations.items()}
        if isinstance(annotations, dict)
        else {},
    )


def _check_identity(review: Object, answer: Object, response: Object) -> None:
    uid = review["request"]["uid"]
    if response.get("uid") != uid:
        raise InvalidReview(f'expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    found = (answer.get("apiVersion"), answer.get("kind"))
    if found != (f"{GROUP}/v1", "AdmissionReview"):
        raise InvalidReview(
            f"expected webhook response of {GROUP}/v1, Kind=AdmissionReview, "
            f"got {found[0] or '/'}, Kind={found[1] or ''}"
        )


def _patch(given: Any) -> list[Any]:
    try:
        patch = orjson.loads(base64.b64decode(given, validate=True))
    except (binascii.Error, TypeError, ValueError) as error:
        raise InvalidReview(f"received undecodable patch in webhook response: {error}") from error
    if not isinstance(patch, list):
        raise InvalidReview("received undecodable patch in webhook response: it is no list")
    return patch


def refusal(name: str, status: Object) -> ApiError:
    """What the user is told when webhook `name` does not allow the request."""
    code = status.get("code")
    message, reason = status.get("message") or "", status.get("reason") or ""
    text = f'admission webhook "{name}" denied the request'
    if message or reason:
        text += f": {message or reason}"
    else:
        text += " without explanation"
    details = status.get("details")
    return ApiError(
        code if isinstance(code, int) and 400 <= code < 600 else 400,
        str(reason),
        text,
        details if isinstance(details, dict) else None,
    )
