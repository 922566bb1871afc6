"""What the embedded registry holds: repositories with manifests, tags and blobs, as rows of the image store's index.

The bytes are blobs of the same content store. A row keeps its blobs from being swept as long as a tag leads to it (directly, through an
index, or as the subject of a referrer), an image of the node is made of it, or it was pushed within the last hours, for a client
pushes blobs first, then manifests, then tags. Pure SQL on a connection that the caller commits; manifests are read through `content`.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.image.manifest import INDEXES

SCHEMA = """
CREATE TABLE IF NOT EXISTS repository_manifests (
    repository TEXT, digest TEXT, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    subject TEXT NOT NULL, artifact_type TEXT NOT NULL, annotations TEXT NOT NULL, pushed REAL NOT NULL,
    PRIMARY KEY (repository, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS repository_manifests_by_subject ON repository_manifests (repository, subject);
CREATE TABLE IF NOT EXISTS repository_tags (
    repository TEXT, tag TEXT, digest TEXT NOT NULL, name TEXT NOT NULL,
    PRIMARY KEY (repository, tag)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS repository_tags_by_name ON repository_tags (name);
CREATE TABLE IF NOT EXISTS repository_blobs (
    repository TEXT, digest TEXT, linked REAL NOT NULL, PRIMARY KEY (repository, digest)) WITHOUT ROWID;
"""
LEASE = (
    6 * 3600.0
)  # seconds that what was pushed is kept without a tag: a push over a slow line takes its time
_COLUMNS = "digest, media_type, size, subject, artifact_type, annotations"


@dataclass(frozen=True, slots=True)
class Manifest:
    digest: str
    media_type: str
    size: int
    subject: str = ""
    artifact_type: str = ""
    annotations: str = "{}"

    def descriptor(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
        }
        if self.artifact_type:
            shown["artifactType"] = self.artifact_type
        if annotations := json.loads(self.annotations):
            shown["annotations"] = annotations
        return shown


def put_manifest(index: sqlite3.Connection, repository: str, manifest: Manifest) -> None:
    index.execute(
        f"INSERT OR REPLACE INTO repository_manifests (repository, {_COLUMNS}, pushed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            repository,
            manifest.digest,
            manifest.media_type,
            manifest.size,
            manifest.subject,
            manifest.artifact_type,
            manifest.annotations,
            time.time(),
        ),
    )


def manifest(index: sqlite3.Connection, repository: str, digest: str) -> Manifest | None:
    row = index.execute(
        f"SELECT {_COLUMNS} FROM repository_manifests WHERE repository = ? AND digest = ?",
        (repository, digest),
    ).fetchone()
    return Manifest(*row) if row else None


def referrers(index: sqlite3.Connection, repository: str, subject: str) -> list[Manifest]:
    rows = index.execute(
        f"SELECT {_COLUMNS} FROM repository_manifests WHERE repository = ? AND subject = ? ORDER BY digest",
        (repository, subject),
    )
    return [Manifest(*row) for row in rows]


def delete_manifest(index: sqlite3.Connection, repository: str, digest: str) -> list[str]:
    """With its tags, whose image names are the result."""
    names = index.execute(
        "DELETE FROM repository_tags WHERE repository = ? AND digest = ? RETURNING name",
        (repository, digest),
    ).fetchall()
    index.execute(
        "DELETE FROM repository_manifests WHERE repository = ? AND digest = ?", (repository, digest)
    )
    return [name for (name,) in names]


def put_tag(index: sqlite3.Connection, repository: str, tag: str, digest: str, name: str) -> None:
    index.execute(
        "INSERT OR REPLACE INTO repository_tags VALUES (?, ?, ?, ?)",
        (repository, tag, digest, name),
    )


def resolve_tag(index: sqlite3.Connection, repository: str, tag: str) -> str:
    row = index.execute(
        "SELECT digest FROM repository_tags WHERE repository = ? AND tag = ?", (repository, tag)
    ).fetchone()
    return row[0] if row else ""


def delete_tag(index: sqlite3.Connection, repository: str, tag: str) -> str:
    """The name that the tag gave an image of the node; empty when there is no such tag."""
    rows = index.execute(
        "DELETE FROM repository_tags WHERE repository = ? AND tag = ? RETURNING name",
        (repository, tag),
    ).fetchall()
    return rows[0][0] if rows else ""


def untag_names(index: sqlite3.Connection, names: Iterable[str]) -> None:
    """Images lost these names: the tags that stood for them go, and manifests that no tag is left for."""
    for name in names:
        rows = index.execute(
            "DELETE FROM repository_tags WHERE name = ? RETURNING repository, digest", (name,)
        ).fetchall()
        index.executemany(
            "DELETE FROM repository_manifests WHERE repository = ?1 AND digest = ?2 AND NOT EXISTS "
            "(SELECT 1 FROM repository_tags WHERE repository = ?1 AND digest = ?2)",
            rows,
        )


def tags(index: sqlite3.Connection, repository: str, after: str, limit: int) -> list[str]:
    """In the order of their bytes, from behind `after`; `limit` -1 is all."""
    rows = index.execute(
        "SELECT tag FROM repository_tags WHERE repository = ? AND tag > ? ORDER BY tag LIMIT ?",
        (repository, after, limit),
    )
    return [tag for (tag,) in rows]


def repositories(index: sqlite3.Connection, after: str = "", limit: int = -1) -> list[str]:
    rows = index.execute(
        "SELECT DISTINCT repository FROM repository_manifests WHERE repository > ? "
        "ORDER BY repository LIMIT ?",
        (after, limit),
    )
    return [name for (name,) in rows]


def is_known(index: sqlite3.Connection, repository: str) -> bool:
    query = "SELECT EXISTS (SELECT 1 FROM {} WHERE repository = ?)"
    return any(
        index.execute(query.format(table), (repository,)).fetchone()[0]
        for table in ("repository_manifests", "repository_blobs")
    )


def link_blob(index: sqlite3.Connection, repository: str, digest: str) -> None:
    index.execute(
        "INSERT OR REPLACE INTO repository_blobs VALUES (?, ?, ?)",
        (repository, digest, time.time()),
    )


def renew_blob(index: sqlite3.Connection, repository: str, digest: str) -> bool:
    """Whether the repository has it; its lease begins anew, for a client that asks is about to rely on it."""
    done = index.execute(
        "UPDATE repository_blobs SET linked = ? WHERE repository = ? AND digest = ?",
        (time.time(), repository, digest),
    )
    return done.rowcount > 0


def has_blob(index: sqlite3.Connection, repository: str, digest: str) -> bool:
    row = index.execute(
        "SELECT 1 FROM repository_blobs WHERE repository = ? AND digest = ?", (repository, digest)
    ).fetchone()
    return row is not None


def unlink_blob(index: sqlite3.Connection, repository: str, digest: str) -> bool:
    done = index.execute(
        "DELETE FROM repository_blobs WHERE repository = ? AND digest = ?", (repository, digest)
    )
    return done.rowcount > 0


def rename(index: sqlite3.Connection, host: str) -> None:
    """The registry is now called `host`: names that its tags give to images follow."""
    rows = index.execute("SELECT repository, tag, name FROM repository_tags").fetchall()
    for repository, tag, old in rows:
        new = f"{host}/{repository}:{tag}"
        if new != old:
            index.execute("UPDATE OR REPLACE names SET name = ? WHERE name = ?", (new, old))
            index.execute(
                "UPDATE repository_tags SET name = ? WHERE repository = ? AND tag = ?",
                (new, repository, tag),
            )


def parts(document: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Digests that a manifest names: manifests (of an index), and blobs."""

    def digests(entries: Any) -> list[str]:
        found = entries if isinstance(entries, list) else [entries]
        return [
            str(each["digest"]) for each in found if isinstance(each, dict) and "digest" in each
        ]

    children = digests(document.get("manifests"))
    blobs = [name for key in ("config", "layers", "blobs") for name in digests(document.get(key))]
    return children, blobs


def collect(
    index: sqlite3.Connection,
    read: Callable[[str], Mapping[str, Any]],
    images: set[str],
    now: float,
) -> set[str]:
    """Forget what nothing leads to; the digests of all blobs that the registry still needs.

    `images`: manifests of the node's images. `read` gives a manifest's document, {} when it cannot be read.
    """
    needed: set[str] = set()
    fresh = now - LEASE
    for repository in repositories(index):
        rows = {
            digest: (media_type, subject, pushed)
            for digest, media_type, subject, pushed in index.execute(
                "SELECT digest, media_type, subject, pushed FROM repository_manifests WHERE repository = ?",
                (repository,),
            )
        }
        tagged = index.execute(
            "SELECT digest FROM repository_tags WHERE repository = ?", (repository,)
        )
        todo = {digest for (digest,) in tagged}
        todo |= {digest for digest, row in rows.items() if row[2] > fresh or digest in images}
        kept: set[str] = set()
        while todo:
            digest = todo.pop()
            if digest in kept or digest not in rows:
                continue
            kept.add(digest)
            children, blobs = parts(read(digest))
            needed.update(blobs)
            if rows[digest][0] in INDEXES:
                todo.update(children)
            todo.update(other for other, row in rows.items() if row[1] == digest)
        needed |= kept
        index.executemany(
            "DELETE FROM repository_manifests WHERE repository = ? AND digest = ?",
            [(repository, digest) for digest in rows if digest not in kept],
        )
    links = index.execute("SELECT repository, digest, linked FROM repository_blobs").fetchall()
    index.executemany(
        "DELETE FROM repository_blobs WHERE repository = ? AND digest = ?",
        [row[:2] for row in links if row[2] <= fresh and row[1] not in needed],
    )
    needed.update(digest for _, digest, linked in links if linked > fresh)
    return needed
