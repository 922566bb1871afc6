"""Who of those that mutate is asked again, within one request (KEP-1872's reinvocation of webhooks, KEP-3962's of policies).

When one changes the object, the built-in plug-ins see it once more, and then those with `reinvocationPolicy: IfNeeded` that
were asked before the change. There are two rounds, never more.
"""

from __future__ import annotations

from typing import Any

from sampan.kube.objects import clone

Object = dict[str, Any]


class Round:
    """Of one kind of plug-in: whom it has asked, and what the object was when it was done."""

    def __init__(self) -> None:
        self.before: set[Any] = set()  # asked, and willing to be asked again
        self.again: set[Any] = set()  # to be asked in the second round
        self.output: Object | None = None

    def require(self) -> None:
        """The object was changed: whoever was asked before wants to see it."""
        self.again |= self.before
        self.before = set()


class Reinvocation:
    """Of one request."""

    __slots__ = ("repeating", "rounds", "wanted")

    def __init__(self) -> None:
        self.wanted = False  # is there to be a second round?
        self.repeating = False  # is this it?
        self.rounds: dict[str, Round] = {}

    def begin(self, plugin: str, obj: Object | None) -> Round:
        found = self.rounds.setdefault(plugin, Round())
        if self.repeating and found.output is not None and found.output != obj:
            found.require()
        return found

    def end(self, plugin: str, obj: Object | None) -> None:
        self.rounds[plugin].output = None if obj is None else clone(obj)

    def skips(self, round_: Round, key: Any) -> bool:
        return self.repeating and key not in round_.again

    def asked(self, round_: Round, key: Any, *, changed: bool, if_needed: bool) -> None:
        if changed:
            round_.require()
            self.wanted = True
        if if_needed:
            round_.before.add(key)


def of(call: Any) -> Reinvocation:
    if call.reinvocation is None:
        call.reinvocation = Reinvocation()
    found: Reinvocation = call.reinvocation
    return found
