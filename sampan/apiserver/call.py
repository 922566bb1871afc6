"""`Call`: one request on a resource, after it was authenticated and routed; what every later stage is given.

Also reads the options that Kubernetes takes from the query (CreateOptions, PatchOptions, ListOptions …) with the errors
that it gives for bad ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sampan.apiserver.negotiate import PLAIN, Form
from sampan.apiserver.resources import Resource, Subresource
from sampan.apiserver.routes import RequestInfo
from sampan.client.transport import Request, User
from sampan.kube import errors
from sampan.kube.errors import ApiError
from sampan.kube.types import GVK

VALIDATION_MODES = ("Ignore", "Warn", "Strict")
MAX_MANAGER = 128  # bytes of a field manager's name


@dataclass(slots=True)
class Call:
    request: Request
    info: RequestInfo
    resource: Resource
    user: User
    form: Form = PLAIN
    subresource: Subresource | None = None
    dry_run: bool = False
    tracked: bool = False  # the object that is written has its managedFields already (apply, scale)
    field_validation: str = "Warn"
    warnings: list[str] = field(default_factory=list)
    reinvocation: Any = None  # of webhooks and policies that change the object (admission)

    @property
    def gvk(self) -> GVK:
        """What the body is, unless the subresource has a kind of its own."""
        return GVK(self.resource.group, self.resource.version, self.resource.kind)

    @property
    def storage_gvk(self) -> GVK:
        return _gvk(self.resource.storage_version, self.resource.kind)

    @property
    def key(self) -> str:
        return self.resource.key(self.info.namespace, self.info.name)

    def not_found(self, name: str = "") -> ApiError:
        return errors.not_found(self.resource.name, name or self.info.name, self.resource.group)

    def conflict(self, message: str, name: str = "") -> ApiError:
        row = self.resource
        return errors.conflict(row.name, name or self.info.name, message, row.group)

    def invalid(self, causes: list[errors.Cause], name: str = "") -> ApiError:
        row = self.resource
        return errors.invalid(row.kind, name or self.info.name, causes, row.group)

    def forbidden(self, message: str, name: str = "") -> ApiError:
        row = self.resource
        return errors.forbidden(row.name, name or self.info.name, message, row.group)

    def read_write_options(self, kind: str, *, apply: bool | None = None) -> None:
        """dryRun, fieldValidation, fieldManager. `kind` is the options' name in error messages.

        `apply` tells of a patch whether it is an apply, which must say who applies and alone may say `force`.
        """
        query = self.request
        if not query.query and not apply:
            return
        causes = []
        if apply and not query.param("fieldManager"):
            causes.append(errors.required("fieldManager", "is required for apply patch"))
        if apply is False and query.params("force"):
            problem = "may not be specified for non-apply patch"
            causes.append(errors.forbidden_field("force", problem))
        dry_run = [value for value in query.params("dryRun") if value]
        if dry_run:
            if any(value != "All" for value in dry_run):
                causes.append(errors.not_supported("dryRun", dry_run, ["All"]))
            self.dry_run = True
        mode = query.param("fieldValidation")
        if mode:
            if mode not in VALIDATION_MODES:
                causes.append(
                    errors.not_supported("fieldValidation", mode, ["Ignore", "Strict", "Warn"])
                )
            self.field_validation = mode
        manager = query.param("fieldManager")
        if manager:
            causes += manager_causes(manager, "fieldManager")
        if causes:
            raise errors.invalid(kind, "", causes, "meta.k8s.io")


def manager_causes(name: str, path: str) -> list[errors.Cause]:
    """What is wrong with a field manager's name."""
    causes = []
    if len(name.encode()) > MAX_MANAGER:
        causes.append(errors.too_long(path, "", MAX_MANAGER))
    if not name.isprintable():
        for position, character in enumerate(name):
            if not character.isprintable():
                problem = f"invalid character U+{ord(character):04X} (at position {position})"
                causes.append(errors.invalid_value(path, name, problem))
    return causes


@lru_cache(maxsize=1024)
def _gvk(api_version: str, kind: str) -> GVK:
    """Asked several times in every write."""
    group, _, version = api_version.rpartition("/")
    return GVK(group, version, kind)


def boolean(request: Request, name: str) -> bool | None:
    """A query parameter as the API server reads booleans: present and not false or 0; None when it is not there."""
    values = request.params(name)
    return values[0].lower() not in ("false", "0") if values else None


def integer(request: Request, name: str) -> int | None:
    """A query parameter as an int64; None when absent or empty."""
    value = request.param(name)
    if not value:
        return None
    try:
        number = int(value)
    except ValueError:
        number = 1 << 64
    if not -(1 << 63) <= number < 1 << 63:
        raise errors.bad_request(f'strconv.ParseInt: parsing "{value}": invalid syntax')
    return number


def revision_of(text: str, what: str = "resourceVersion") -> int:
    """A resourceVersion as a number; "" is 0. Raises ApiError 400 as Kubernetes' versioner does."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise errors.bad_request(
            f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    number = int(text)
    if number >= 1 << 64:
        raise errors.bad_request(
            f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": value out of range'
        )
    return number


def object_revision(obj: dict[str, Any]) -> str:
    """metadata.resourceVersion, "" when unset."""
    return obj["metadata"].get("resourceVersion") or ""
