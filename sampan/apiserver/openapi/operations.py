"""What the paths of a resource offer, in neither version of OpenAPI: `v2.py` and `v3.py` write these rows down.

Names of operations follow kube-apiserver's (`readAppsV1NamespacedDeployment`), because generated clients are made of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sampan.apiserver.resources.model import Resource, Subresource
from sampan.kube import schema
from sampan.kube.types import GVK

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
STATUS, DELETE_OPTIONS, PATCH = META + "Status", META + "DeleteOptions", META + "Patch"

PATCH_TYPES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
# kubectl takes the strategic one wherever it is offered, and a custom kind has no strategy.
CUSTOM_PATCH_TYPES = tuple(each for each in PATCH_TYPES if "strategic" not in each)


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    type: str = "string"
    where: str = "query"
    required: bool = False
    many: bool = False


NAME = Parameter("name", where="path", required=True)
NAMESPACE = Parameter("namespace", where="path", required=True)
PATH = Parameter("path", where="path", required=True)
PRETTY = Parameter("pretty")

DRY_RUN = Parameter("dryRun")
WRITE = (DRY_RUN, Parameter("fieldManager"), Parameter("fieldValidation"))
APPLY = (*WRITE, Parameter("force", "boolean"))
LIST = (
    Parameter("allowWatchBookmarks", "boolean"),
    Parameter("continue"),
    Parameter("fieldSelector"),
    Parameter("labelSelector"),
    Parameter("limit", "integer"),
    Parameter("resourceVersion"),
    Parameter("resourceVersionMatch"),
    Parameter("sendInitialEvents", "boolean"),
    Parameter("timeoutSeconds", "integer"),
    Parameter("watch", "boolean"),
)
DELETE = (
    DRY_RUN,
    Parameter("gracePeriodSeconds", "integer"),
    Parameter("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    Parameter("orphanDependents", "boolean"),
    Parameter("propagationPolicy"),
)
DELETE_COLLECTION = (*DELETE, *(p for p in LIST if not p.name.startswith(("allow", "watch"))))
STREAMS = (
    Parameter("container"),
    Parameter("stderr", "boolean"),
    Parameter("stdin", "boolean"),
    Parameter("stdout", "boolean"),
    Parameter("tty", "boolean"),
)
# Options of the subresources that have some of their own.
CONNECT: dict[str, tuple[Parameter, ...]] = {
    "attach": STREAMS,
    "exec": (Parameter("command", many=True), *STREAMS),
    "portforward": (Parameter("ports", "integer", many=True),),
    "proxy": (Parameter("path"),),
    "log": (
        Parameter("container"),
        Parameter("follow", "boolean"),
        Parameter("insecureSkipTLSVerifyBackend", "boolean"),
        Parameter("limitBytes", "integer"),
        Parameter("previous", "boolean"),
        Parameter("sinceSeconds", "integer"),
        Parameter("sinceTime"),
        Parameter("stream"),
        Parameter("tailLines", "integer"),
        Parameter("timestamps", "boolean"),
    ),
}


@dataclass(frozen=True, slots=True)
class Operation:
    method: str  # lower case
    id: str
    action: str  # x-kubernetes-action
    gvk: GVK
    parameters: tuple[Parameter, ...] = ()
    body: str = ""  # definition, "" for none
    answer: str = ""  # definition, "" for plain text
    created: bool = False  # answers 201 too
    accepted: bool = False  # answers 202 too
    patch: tuple[str, ...] = ()  # media types of a patch
    stream: bool = False  # may be watched


@dataclass(slots=True)
class PathItem:
    path: str
    parameters: tuple[Parameter, ...]
    operations: list[Operation] = field(default_factory=list)


def group_title(group: str, version: str) -> str:
    """`rbac.authorization.k8s.io`, `v1` → `RbacAuthorizationV1`."""
    words = group.removesuffix(".k8s.io").split(".") if group else ["core"]
    return "".join(capitalized(word) for word in (*words, version))


def tag(group: str, version: str) -> str:
    """`rbacAuthorization_v1`."""
    words = group.removesuffix(".k8s.io").split(".") if group else ["core"]
    return words[0] + "".join(capitalized(word) for word in words[1:]) + "_" + version


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def definition_of(gvk: GVK) -> str:
    """The schema's name of a kind; "" for one that only has options (PodExecOptions) or is custom."""
    return schema.for_gvk(gvk) or ""


def model_name(gvk: GVK) -> str:
    """The schema's name of a custom kind: `stable.example.com`, `v1`, `CronTab` → `com.example.stable.v1.CronTab`."""
    return ".".join((*reversed(gvk.group.split(".")), gvk.version, gvk.kind))


def path_items(row: Resource) -> Iterator[PathItem]:
    """Every path of one resource, subresources included."""
    return _Writer(row).items()


class _Writer:
    def __init__(self, row: Resource) -> None:
        self.row = row
        self.gvk = GVK(row.group, row.version, row.kind)
        if row.custom is not None:
            self.kind = model_name(self.gvk)
            self.listed = model_name(self.gvk._replace(kind=row.list_kind))
        else:
            self.kind = definition_of(self.gvk)
            self.listed = definition_of(GVK(row.group, row.version, row.kind + "List"))
        self.title = group_title(row.group, row.version)
        self.scope = "Namespaced" if row.namespaced else ""
        self.prefix = f"/apis/{row.group}/{row.version}" if row.group else f"/api/{row.version}"
        self.base = self.prefix + ("/namespaces/{namespace}" if row.namespaced else "")
        self.shared = (NAMESPACE, PRETTY) if row.namespaced else (PRETTY,)

    def name(self, verb: str, suffix: str = "", *, scope: str | None = None) -> str:
        place = self.scope if scope is None else scope
        return f"{verb}{self.title}{place}{self.row.kind}{suffix}"

    def items(self) -> Iterator[PathItem]:
        row = self.row
        if row.namespaced and "list" in row.verbs:
            everywhere = Operation(
                "get",
                self.name("list", "ForAllNamespaces", scope=""),
                "list",
                self.gvk,
                answer=self.listed,
                stream=True,
            )
            yield PathItem(f"{self.prefix}/{row.name}", (*LIST, PRETTY), [everywhere])
        collection = PathItem(f"{self.base}/{row.name}", self.shared, list(self.on_collection()))
        if collection.operations:
            yield collection
        named = (NAME, *self.shared)
        path = f"{self.base}/{row.name}/{{name}}"
        item = PathItem(path, named, list(self.on_object("", row.verbs, self.kind)))
        if item.operations:
            yield item
        for sub in row.subresources:
            yield from self.subresource(sub, path, named)

    def on_collection(self) -> Iterator[Operation]:
        verbs = self.row.verbs
        if "list" in verbs:
            yield Operation(
                "get", self.name("list"), "list", self.gvk, LIST, answer=self.listed, stream=True
            )
        if "create" in verbs:
            yield Operation(
                "post",
                self.name("create"),
                "post",
                self.gvk,
                WRITE,
                self.kind,
                self.kind,
                created=True,
                accepted=True,
            )
        if "deletecollection" in verbs:
            collection = f"delete{self.title}Collection{self.scope}{self.row.kind}"
            yield Operation(
                "delete",
                collection,
                "deletecollection",
                self.gvk,
                DELETE_COLLECTION,
                DELETE_OPTIONS,
                STATUS,
            )

    def on_object(
        self, suffix: str, verbs: tuple[str, ...], kind: str, gvk: GVK | None = None
    ) -> Iterator[Operation]:
        gvk = gvk or self.gvk
        if "get" in verbs:
            options = CONNECT["log"] if suffix == "Log" else ()
            answer = "" if suffix == "Log" else kind
            yield Operation("get", self.name("read", suffix), "get", gvk, options, answer=answer)
        if "update" in verbs:
            yield Operation(
                "put", self.name("replace", suffix), "put", gvk, WRITE, kind, kind, created=True
            )
        if "patch" in verbs:
            yield Operation(
                "patch",
                self.name("patch", suffix),
                "patch",
                gvk,
                APPLY,
                PATCH,
                kind,
                created=True,
                patch=PATCH_TYPES if self.row.custom is None else CUSTOM_PATCH_TYPES,
            )
        if "delete" in verbs:
            yield Operation(
                "delete",
                self.name("delete", suffix),
                "delete",
                gvk,
                DELETE,
                DELETE_OPTIONS,
                STATUS if self.row.kind != "Pod" else kind,
                accepted=True,
            )

    def subresource(
        self, sub: Subresource, path: str, named: tuple[Parameter, ...]
    ) -> Iterator[PathItem]:
        gvk = GVK(
            sub.group if sub.version else self.row.group,
            sub.version or self.row.version,
            sub.kind,
        )
        suffix = capitalized(sub.name)
        options = CONNECT.get(sub.name, ())
        if sub.kind.endswith("Options"):
            yield PathItem(
                f"{path}/{sub.name}", (*named, *options), self.connects(suffix, sub, gvk)
            )
            if sub.name == "proxy":
                parameters = (*named, PATH, *options)
                operations = self.connects(suffix + "WithPath", sub, gvk)
                yield PathItem(f"{path}/proxy/{{path}}", parameters, operations)
            return
        kind = self.kind if gvk == self.gvk else definition_of(gvk)
        operations = list(self.on_object(suffix, sub.verbs, kind, gvk))
        if "create" in sub.verbs:
            operation = Operation(
                "post", self.name("create", suffix), "post", gvk, WRITE, kind, kind, created=True
            )
            operations.append(operation)
        yield PathItem(f"{path}/{sub.name}", named, operations)

    def connects(self, suffix: str, sub: Subresource, gvk: GVK) -> list[Operation]:
        methods = {
            "get": "get",
            "create": "post",
            "update": "put",
            "patch": "patch",
            "delete": "delete",
        }
        found = [
            Operation(
                method,
                f"connect{self.title}{capitalized(method)}{self.scope}{self.row.kind}{suffix}",
                "connect",
                gvk,
            )
            for verb, method in methods.items()
            if verb in sub.verbs
        ]
        if sub.name == "proxy":
            for method in ("head", "options"):
                name = (
                    f"connect{self.title}{capitalized(method)}{self.scope}{self.row.kind}{suffix}"
                )
                found.append(Operation(method, name, "connect", gvk))
        return found
