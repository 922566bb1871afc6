"""What admission counts: how long its plug-ins, webhooks and policies take, and what they refuse. Names are kube-apiserver's.

A plug-in's histogram is looked up once for each kind of request and kept beside its hook (`chain.Step`), so that counting costs the
way of a write one reading of the clock and one addition for each plug-in.
"""

from __future__ import annotations

from collections import Counter

from sampan.apiserver.metrics import Histograms

ADMIT, VALIDATE, VALIDATING = "admit", "validate", "validating"  # the last is a webhook's
FASTEST = 0.005  # seconds; the first bound of a plug-in's histogram
_STEP = (FASTEST, 0.025, 0.1, 0.5, 1.0, 2.5)
_WEBHOOK = (*_STEP, 10.0, 25.0)
_CHECK = (0.0000005, 0.001, 0.01, 0.1, 1.0)
MAX_CODE = 600  # a webhook's invention; more would be as many series

Labels = tuple[str, ...]


class Measures:
    def __init__(self) -> None:
        self.steps = Histograms(_STEP)  # type, operation, rejected
        self.plugins = Histograms(_STEP)  # name, type, operation, rejected
        self.webhooks = Histograms(_WEBHOOK)  # name, type, operation, rejected
        self.webhook_requests: Counter[Labels] = Counter()  # …, code, rejected
        self.webhook_rejections: Counter[Labels] = Counter()  # …, error_type, rejection_code
        self.webhook_fail_open: Counter[Labels] = Counter()  # name, type
        self.conditions = Histograms(_STEP)  # name, kind, type, operation
        self.condition_errors: Counter[Labels] = Counter()
        self.condition_exclusions: Counter[Labels] = Counter()
        self.validating = Histograms(
            _CHECK
        )  # policy, policy_binding, error_type, enforcement_action
        self.mutating = Histograms(_CHECK)  # policy, policy_binding, error_type

    def webhook(
        self,
        name: str,
        type_: str,
        operation: str,
        seconds: float,
        *,
        code: int = 200,
        refused: str = "",
    ) -> None:
        """`refused`: the error type when the request was rejected."""
        shown, rejected = str(min(code, MAX_CODE)), "true" if refused else "false"
        labels = (name, type_, operation)
        self.webhook_requests[(*labels, shown, rejected)] += 1
        self.webhooks[(*labels, rejected)].observe(seconds)
        if refused:
            self.webhook_rejections[(*labels, refused, shown)] += 1

    def condition(
        self, labels: tuple[str, str, str, str], seconds: float, *, errors: int, excluded: bool
    ) -> None:
        """`labels`: name, kind (webhook or policy), type, operation."""
        self.conditions[labels].observe(seconds)
        if errors:
            self.condition_errors[labels] += errors
        if excluded:
            self.condition_exclusions[labels] += 1
