"""LIST: pages of entries, from the cache when it shows what was asked for, else from the store's history.

The first page fixes a revision; later pages show that revision. While nothing of the kind has changed since, the cache
still shows it and no store is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from sampan.apiserver.call import Call, revision_of
from sampan.apiserver.entries import Entry
from sampan.apiserver.selection import EXACT, Continue, Selection
from sampan.apiserver.watchcache import ResourceCache, WatchCache
from sampan.kube import errors
from sampan.kube.errors import ApiError
from sampan.store import Compacted

FRESH_WAIT = 3.0  # seconds that a read waits for a revision from the future
TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter."
)


@dataclass(slots=True)
class Listed:
    entries: list[Entry]
    revision: int
    continues: str = ""
    remaining: int | None = None


async def fresh(caches: WatchCache, wanted: str) -> None:
    """Wait until the cache shows `wanted`. Raises 504 as Kubernetes does when it stays in the future."""
    revision = revision_of(wanted)
    if revision > caches.revision and caches.store.shared:
        await caches.confirm()  # it may be of keys that are not ours
    if revision > caches.revision and not await caches.wait(revision, FRESH_WAIT):
        raise too_large(revision, caches.revision)


def too_large(asked: int, current: int) -> ApiError:
    error = errors.timeout(f"Too large resource version: {asked}, current: {current}", 1)
    error.details["causes"] = [
        {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    ]
    return error


async def list_entries(caches: WatchCache, call: Call, selection: Selection) -> Listed:
    token = selection.token
    if token is None and not selection.resource_version:
        await caches.confirm()
    cache = await caches.get(call.resource)
    custom = call.resource.custom
    if custom is not None and selection.match is not None:
        # The selector speaks of fields of the request's version, which a webhook may have to make.
        await custom.prepare(cache.select(selection.prefix))
    if token is not None and token.revision > 0:
        await caches.wait(token.revision, FRESH_WAIT)  # another server may have begun this list
        return await _at(caches, cache, selection, token.revision, token.after)
    if is_exact(selection):
        await fresh(caches, selection.resource_version)
        return await _at(caches, cache, selection, revision_of(selection.resource_version), "")
    if selection.resource_version:
        await fresh(caches, selection.resource_version)
    return from_cache(caches, cache, selection, token.after if token else "")


def is_exact(selection: Selection) -> bool:
    """Asked for, or the oldest clients' way to say it: a limit and a version (KEP-2523's "legacy exact match")."""
    match = selection.resource_version_match
    if match:
        return match == EXACT
    return bool(selection.limit) and selection.resource_version not in ("", "0")


def from_cache(
    caches: WatchCache, cache: ResourceCache, selection: Selection, after: str
) -> Listed:
    """What the cache shows now. Does not await."""
    revision = caches.current(cache)
    return page(cache.entries, cache.keys(selection.prefix, after), selection, revision)


def page(entries: dict[str, Entry], keys: list[str], selection: Selection, revision: int) -> Listed:
    match, limit = selection.match, selection.limit
    if not limit or (match is None and len(keys) <= limit):
        found = [entries[key] for key in keys]
        return Listed([each for each in found if match(each)] if match else found, revision)
    chosen: list[Entry] = []
    for index, key in enumerate(keys):
        entry = entries[key]
        if match is not None and not match(entry):
            continue
        if len(chosen) == limit:
            token = Continue(revision, chosen[-1].key).encode(namespace_prefix(selection))
            left = len(keys) - index if match is None else None
            return Listed(chosen, revision, token, left)
        chosen.append(entry)
    return Listed(chosen, revision)


def namespace_prefix(selection: Selection) -> str:
    """The prefix up to its last slash: continue tokens are relative to it."""
    return selection.prefix[: selection.prefix.rindex("/") + 1]


async def _at(
    caches: WatchCache, cache: ResourceCache, selection: Selection, revision: int, after: str
) -> Listed:
    """The kind as it was at `revision`."""
    if cache.changed_at <= revision <= caches.current(cache) and cache.ring_start <= revision:
        return page(cache.entries, cache.keys(selection.prefix, after), selection, revision)
    if revision > caches.current(cache):
        raise too_large(revision, caches.revision)
    entries: dict[str, Entry] = {}
    try:
        found = await caches.store.range(selection.prefix, after=after, revision=revision)
    except Compacted as error:
        if selection.token is None:
            raise errors.expired(
                f"The resourceVersion for the provided list is too old: {error.asked} ({error.oldest})"
            ) from None
        gone = errors.expired(TOO_OLD)
        gone.details["continue"] = Continue(-1, after).encode(namespace_prefix(selection))
        raise gone from None
    for record in found.records:
        entries[record.key] = Entry(
            record.key, cache.splice(record.value, record.revision), record.revision
        )
    return page(entries, list(entries), selection, revision)


def encode_list(kind: str, api_version: str, listed: Listed, items: Iterable[bytes]) -> bytes:
    """The list's bytes around those of its items."""
    metadata: dict[str, str | int] = {"resourceVersion": str(listed.revision)}
    if listed.continues:
        metadata["continue"] = listed.continues
    if listed.remaining:
        metadata["remainingItemCount"] = listed.remaining
    return b'{"kind":"%s","apiVersion":"%s","metadata":%s,"items":[%s]}\n' % (
        kind.encode(),
        api_version.encode(),
        orjson.dumps(metadata),
        b",".join(items),
    )
