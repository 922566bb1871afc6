"""Encryption at rest: what the store holds of chosen kinds is ciphertext, and everything above it sees plain objects.

`EncryptedStore` stands between the API server and any store. It is made only when `--encryption-provider-config` names a
file, so a cluster without one pays nothing. The file is Kubernetes' own (apiserver.config.k8s.io/v1), and so is the stored
form: `k8s:enc:aesgcm:v1:<key name>:` then nonce and ciphertext, with the object's key as additional data, so that a
ciphertext moved to another key does not decrypt.

The first provider of a kind writes; all of them read. A value that another than the first one wrote is *stale*: an update
that changes nothing still writes it again, which is how keys are rotated (`kubectl get secrets -A -o json | kubectl replace -f -`).
https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sampan.store import Change, Conflict, Page, Record, Store, StoreError

API_VERSION = "apiserver.config.k8s.io/v1"
MARK = b"k8s:enc:"
NONCE = 12  # bytes; NIST SP 800-38D §8.2.2
BLOCK = 16
KEY_SIZES = (16, 24, 32)


class EncryptionError(StoreError):
    """A stored value that no configured key can read."""


class BadEncryptionConfig(Exception):
    """The configuration cannot be used; says what is wrong and where. Never quotes a key."""


class Provider(Protocol):
    prefix: bytes  # what the values that it wrote begin with; b"" only for identity

    def seal(self, key: str, value: bytes) -> bytes: ...

    def unseal(self, key: str, value: bytes) -> bytes:
        """Without its prefix. Raises EncryptionError."""
        ...


def place(key: str) -> bytes:
    """A key as additional data. Whether it is one that can be stored is for the store to say."""
    return key.encode("utf-8", "surrogatepass")


class Identity:
    prefix = b""

    def seal(self, key: str, value: bytes) -> bytes:
        return value

    def unseal(self, key: str, value: bytes) -> bytes:
        return value


class AESGCM:
    """One key of an `aesgcm` provider. Nonces are random, so a key is good for some 2^32 writes at the very most."""

    def __init__(self, name: str, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import aead

        self.prefix = b"k8s:enc:aesgcm:v1:%s:" % name.encode()
        self._cipher = aead.AESGCM(secret)

    def seal(self, key: str, value: bytes) -> bytes:
        nonce = os.urandom(NONCE)
        return self.prefix + nonce + self._cipher.encrypt(nonce, value, place(key))

    def unseal(self, key: str, value: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(value[:NONCE], value[NONCE:], place(key))
        except (InvalidTag, ValueError) as error:
            raise EncryptionError(f"{key}: the stored value does not belong to its key") from error


class AESCBC:
    """One key of an `aescbc` provider: not authenticated, kept for clusters whose data was written with it."""

    def __init__(self, name: str, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import algorithms

        self.prefix = b"k8s:enc:aescbc:v1:%s:" % name.encode()
        self._algorithm = algorithms.AES(secret)

    def seal(self, key: str, value: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, modes

        vector = os.urandom(BLOCK)
        padding = BLOCK - len(value) % BLOCK
        encryptor = Cipher(self._algorithm, modes.CBC(vector)).encryptor()
        sealed = encryptor.update(value + bytes((padding,)) * padding) + encryptor.finalize()
        return self.prefix + vector + sealed

    def unseal(self, key: str, value: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers import Cipher, modes

        if len(value) < 2 * BLOCK or len(value) % BLOCK:
            raise EncryptionError(f"{key}: the stored value is cut off")
        decryptor = Cipher(self._algorithm, modes.CBC(value[:BLOCK])).decryptor()
        plain = decryptor.update(value[BLOCK:]) + decryptor.finalize()
        padding = plain[-1]
        if not 0 < padding <= BLOCK or plain[-padding:] != bytes((padding,)) * padding:
            raise EncryptionError(f"{key}: the stored value does not belong to its key")
        return plain[:-padding]


CIPHERS: Mapping[str, type[AESGCM] | type[AESCBC]] = {"aesgcm": AESGCM, "aescbc": AESCBC}


class Rule:
    """One entry of `resources`: which kinds, and their providers."""

    def __init__(self, resources: Sequence[str], providers: Sequence[Provider]) -> None:
        self.resources = frozenset(resources)
        self.providers = providers

    def covers(self, group: str, plural: str) -> bool:
        """`secrets`, `deployments.apps`, `*.apps`, `*.` (all of the core group) and `*.*`."""
        exact = f"{plural}.{group}" if group else plural
        return not self.resources.isdisjoint((exact, f"*.{group}", "*.*"))

    def unseal(self, key: str, value: bytes) -> tuple[bytes, bool]:
        """(the plain value, whether the first provider wrote it). Raises EncryptionError."""
        for index, provider in enumerate(self.providers):
            prefix = provider.prefix
            if value.startswith(prefix) if prefix else not value.startswith(MARK):
                return provider.unseal(key, value[len(prefix) :]), index == 0
        raise EncryptionError(f"{key}: no provider of the encryption configuration can read it")


PLAIN = Rule((), (Identity(),))


class EncryptedStore:
    """A `Store` whose values are sealed on their way down and unsealed on their way up."""

    def __init__(self, inner: Store, rules: Sequence[Rule]) -> None:
        self.inner = inner
        self.shared = inner.shared
        self.rules = rules
        self.stale: set[str] = set()  # keys whose value was written with another than the first key
        self._by_kind: dict[tuple[str, str], Rule] = {}

    def _rule(self, key: str) -> Rule:
        """Keys are `/registry/<group or core>/<plural>/…`."""
        parts = key.split("/", 4)
        kind = (parts[2], parts[3]) if len(parts) > 4 else ("", "")
        found = self._by_kind.get(kind)
        if found is None:
            group = "" if kind[0] == "core" else kind[0]
            found = next((rule for rule in self.rules if rule.covers(group, kind[1])), PLAIN)
            self._by_kind[kind] = found
        return found

    def _open(self, key: str, value: bytes) -> bytes:
        plain, fresh = self._rule(key).unseal(key, value)
        if fresh:
            self.stale.discard(key)
        else:
            self.stale.add(key)
        return plain

    def _record(self, record: Record) -> Record:
        plain = self._open(record.key, record.value)
        return Record(record.key, plain, record.created, record.revision)

    def _change(self, change: Change) -> Change:
        value, previous = change.value, change.previous
        if value is None:
            self.stale.discard(change.key)
        rule = self._rule(change.key)
        return Change(
            change.key,
            None if value is None else self._open(change.key, value),
            None if previous is None else rule.unseal(change.key, previous)[0],
            change.revision,
            change.created,
        )

    async def get(self, key: str) -> Record | None:
        record = await self.inner.get(key)
        return None if record is None else self._record(record)

    async def range(
        self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0
    ) -> Page:
        page = await self.inner.range(prefix, after=after, limit=limit, revision=revision)
        return Page([self._record(each) for each in page.records], page.revision, page.more)

    async def put(self, key: str, value: bytes, *, expect: int | None) -> int:
        sealed = self._rule(key).providers[0].seal(key, value)
        try:
            revision = await self.inner.put(key, sealed, expect=expect)
        except Conflict as conflict:
            raise self._conflict(conflict) from None
        self.stale.discard(key)
        return revision

    async def delete(self, key: str, *, expect: int | None) -> int:
        try:
            return await self.inner.delete(key, expect=expect)
        except Conflict as conflict:
            raise self._conflict(conflict) from None

    def _conflict(self, conflict: Conflict) -> Conflict:
        current = conflict.current
        return Conflict(conflict.key, None if current is None else self._record(current))

    def watch(self, prefix: str, since: int) -> AsyncIterator[list[Change]]:
        # Registered with the inner store at once, as the contract wants, not when first awaited.
        return _Watch(self, self.inner.watch(prefix, since))

    @property
    def size(self) -> int | None:
        return self.inner.size

    @property
    def revision(self) -> int:
        return self.inner.revision

    async def current(self) -> int:
        return await self.inner.current()

    async def mark(self) -> int:
        return await self.inner.mark()

    async def compact(self, before: int) -> None:
        await self.inner.compact(before)

    async def close(self) -> None:
        await self.inner.close()

    def change(self, change: Change) -> Change:
        """A change as it comes from the inner store, readable."""
        return self._change(change)


class _Watch:
    def __init__(self, store: EncryptedStore, inner: AsyncIterator[list[Change]]) -> None:
        self.store = store
        self.inner = inner

    def __aiter__(self) -> _Watch:
        return self

    async def __anext__(self) -> list[Change]:
        return [self.store.change(each) for each in await self.inner.__anext__()]

    async def aclose(self) -> None:
        close = getattr(self.inner, "aclose", None)
        if close is not None:
            await close()


# --- the configuration file ---------------------------------------------------------------------------


def read_config(path: Path) -> list[Rule]:
    """The rules of an EncryptionConfiguration file. Raises BadEncryptionConfig."""
    import yaml

    try:
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise BadEncryptionConfig(f"{path}: {error}") from error
    try:
        return parse_config(document)
    except BadEncryptionConfig as error:
        raise BadEncryptionConfig(f"{path}: {error}") from error


def parse_config(document: Any) -> list[Rule]:
    if not isinstance(document, Mapping) or document.get("kind") != "EncryptionConfiguration":
        raise BadEncryptionConfig("kind: must be EncryptionConfiguration")
    if document.get("apiVersion") != API_VERSION:
        raise BadEncryptionConfig(f"apiVersion: must be {API_VERSION}")
    entries = document.get("resources")
    if not isinstance(entries, list) or not entries:
        raise BadEncryptionConfig("resources: Required value")
    return [_rule(entry, f"resources[{index}]") for index, entry in enumerate(entries)]


def _rule(entry: Any, at: str) -> Rule:
    if not isinstance(entry, Mapping):
        raise BadEncryptionConfig(f"{at}: must be an object")
    resources = entry.get("resources")
    if not isinstance(resources, list) or not all(isinstance(r, str) and r for r in resources):
        raise BadEncryptionConfig(f"{at}.resources: must be a list of resource names")
    if not resources:
        raise BadEncryptionConfig(f"{at}.resources: Required value")
    providers: list[Provider] = []
    for index, spec in enumerate(entry.get("providers") or ()):
        providers += _providers(spec, f"{at}.providers[{index}]")
    if not providers:
        raise BadEncryptionConfig(f"{at}.providers: Required value")
    return Rule(resources, providers)


def _providers(spec: Any, at: str) -> list[Provider]:
    """One provider for each key, the writing one first."""
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise BadEncryptionConfig(f"{at}: must name exactly one provider")
    ((name, body),) = spec.items()
    if name == "identity":
        return [Identity()]
    cipher = CIPHERS.get(name)
    if cipher is None:
        known = ", ".join((*CIPHERS, "identity"))
        raise BadEncryptionConfig(f"{at}.{name}: not supported; supported are {known}")
    keys = (body or {}).get("keys") if isinstance(body, Mapping) else None
    if not isinstance(keys, list) or not keys:
        raise BadEncryptionConfig(f"{at}.{name}.keys: Required value")
    found: list[Provider] = []
    names: set[str] = set()
    for index, key in enumerate(keys):
        where = f"{at}.{name}.keys[{index}]"
        label = key.get("name") if isinstance(key, Mapping) else None
        if not isinstance(label, str) or not label or ":" in label or label in names:
            raise BadEncryptionConfig(f"{where}.name: must be unique, not empty, without a colon")
        names.add(label)
        found.append(cipher(label, _secret(key.get("secret"), where, name)))
    return found


def _secret(text: Any, where: str, cipher: str) -> bytes:
    try:
        secret = base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadEncryptionConfig(f"{where}.secret: must be base64") from None
    if len(secret) not in KEY_SIZES:
        sizes = ", ".join(map(str, KEY_SIZES))
        raise BadEncryptionConfig(
            f"{where}.secret: secret is not of the expected length, got {len(secret)}, "
            f"expected one of {sizes} bytes for {cipher}"
        )
    return secret
