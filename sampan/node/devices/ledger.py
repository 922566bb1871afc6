"""Which device belongs to which container, on disk before it is used: a node that was killed gives no device away twice.

One JSON file, written beside and renamed. What a plug-in answered is kept as it came, since a restarted container gets
the same devices without asking again. A pod that is gone is dropped when the next grant is written, or at the next start.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)


class Grant(NamedTuple):
    resource: str
    ids: tuple[str, ...]
    answer: bytes  # ContainerAllocateResponse


class Ledger:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.resources: set[str] = set()  # that a plug-in ever registered
        self._grants: dict[tuple[str, str], dict[str, Grant]] = {}  # by pod uid and container
        try:
            self._read(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s: %s; devices of running pods are not known", path, error)

    def _read(self, told: dict[str, list[dict[str, str | list[str]]]]) -> None:
        for item in told["grants"]:
            pod, container, resource = (str(item[k]) for k in ("pod", "container", "resource"))
            answer = base64.b64decode(str(item["answer"]))
            grant = Grant(resource, tuple(item["ids"]), answer)
            self._grants.setdefault((pod, container), {})[resource] = grant
        self.resources = {str(each) for each in told["resources"]}

    def of(self, uid: str, container: str) -> dict[str, Grant]:
        """By resource."""
        return self._grants.get((uid, container), {})

    def taken(self, resource: str) -> set[str]:
        return {id for _, _, grant in self._all() if grant.resource == resource for id in grant.ids}

    def pods(self) -> set[str]:
        return {uid for uid, _ in self._grants}

    def put(self, uid: str, container: str, grant: Grant) -> None:
        self._grants.setdefault((uid, container), {})[grant.resource] = grant

    def drop(self, uid: str) -> None:
        for key in [key for key in self._grants if key[0] == uid]:
            del self._grants[key]

    def keep_only(self, uids: Collection[str]) -> None:
        for uid in self.pods().difference(uids):
            self.drop(uid)

    def _all(self) -> Iterator[tuple[str, str, Grant]]:
        for (uid, container), grants in self._grants.items():
            for grant in grants.values():
                yield uid, container, grant

    def save(self) -> None:
        """On disk on return. Raises OSError."""
        text = json.dumps(
            {
                "resources": sorted(self.resources),
                "grants": [
                    {
                        "pod": uid,
                        "container": container,
                        "resource": grant.resource,
                        "ids": grant.ids,
                        "answer": base64.b64encode(grant.answer).decode(),
                    }
                    for uid, container, grant in self._all()
                ],
            }
        )
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        beside = self._path.with_name(self._path.name + ".new")
        with open(beside, "w", encoding="utf-8", opener=_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
