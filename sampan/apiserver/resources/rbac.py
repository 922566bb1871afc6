"""rbac.authorization.k8s.io/v1, and the kinds of authentication and authorization that answer and are not stored."""

from __future__ import annotations

from sampan.apiserver.resources.model import CREATE_ONLY, Resource, resource

GROUP = "rbac.authorization.k8s.io"

RESOURCES: tuple[Resource, ...] = (
    resource(
        GROUP,
        "v1",
        "clusterrolebindings",
        "ClusterRoleBinding",
        namespaced=False,
        create_on_update=True,
    ),
    resource(
        GROUP,
        "v1",
        "clusterroles",
        "ClusterRole",
        namespaced=False,
        create_on_update=True,
    ),
    resource(GROUP, "v1", "rolebindings", "RoleBinding", create_on_update=True),
    resource(GROUP, "v1", "roles", "Role", create_on_update=True),
    *(
        resource(
            "authentication.k8s.io",
            "v1",
            name,
            kind,
            namespaced=False,
            verbs=CREATE_ONLY,
            strategy="review",
        )
        for name, kind in (
            ("selfsubjectreviews", "SelfSubjectReview"),
            ("tokenreviews", "TokenReview"),
        )
    ),
    *(
        resource(
            "authorization.k8s.io",
            "v1",
            name,
            kind,
            namespaced=namespaced,
            verbs=CREATE_ONLY,
            strategy="review",
        )
        for name, kind, namespaced in (
            ("localsubjectaccessreviews", "LocalSubjectAccessReview", True),
            ("selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
            ("selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
            ("subjectaccessreviews", "SubjectAccessReview", False),
        )
    ),
)
