"""Encryption at rest, judged by the bytes on disk; and the store's contract, which must hold through it."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import yaml
from apiserver_harness import ADMIN, MAPS, Harness, config_map, open_server

from sampan.apiserver.encryption import (
    BadEncryptionConfig,
    EncryptedStore,
    EncryptionError,
    Rule,
    parse_config,
)
from sampan.apiserver.security import SecurityConfig
from sampan.store import Conflict
from sampan.store.sqlite import SQLiteStore

SECRETS = "/api/v1/namespaces/default/secrets"
PLAIN = "open sesame, said the sailor"
KEY = "/registry/core/secrets/default/s"


def key(letter: str, size: int = 32) -> str:
    return base64.b64encode(letter.encode() * size).decode()


def provider(cipher: str, *names: str) -> dict[str, Any]:
    return {cipher: {"keys": [{"name": name, "secret": key(name[-1])} for name in names]}}


def document(*providers: Any, resources: tuple[str, ...] = ("secrets",)) -> dict[str, Any]:
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": list(resources), "providers": list(providers)}],
    }


async def opened(directory: Path, *providers: Any, **options: Any) -> Harness:
    path = directory / "encryption.yaml"
    path.write_text(yaml.safe_dump(document(*providers, **options)))
    security = SecurityConfig(encryption_provider_config=path)
    api = await open_server(directory, security=security)
    await api.server.start(serve=False)
    return api


async def closed(api: Harness) -> None:
    await api.server.close()
    await api.store.close()


def on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (directory / "store").iterdir() if path.is_file())


def stored(directory: Path, key: str) -> bytes:
    """The value's last version, as SQLite has it."""
    with sqlite3.connect(f"file:{directory}/store/state.db?mode=ro", uri=True) as database:
        (value,) = database.execute(
            "SELECT value FROM log WHERE key = ? ORDER BY revision DESC LIMIT 1", (key,)
        ).fetchone()
    return bytes(value)


def secret(name: str = "s", text: str = PLAIN) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "stringData": {"word": text},
    }


async def test_no_secret_is_readable_on_disk(tmp_path: Path) -> None:
    api = await opened(tmp_path, provider("aesgcm", "key-a"), {"identity": {}})
    await api.call("POST", SECRETS, secret())
    await api.call("POST", MAPS, config_map("m", a=PLAIN))
    encoded = base64.b64encode(PLAIN.encode())
    value = stored(tmp_path, KEY)
    assert value.startswith(b"k8s:enc:aesgcm:v1:key-a:")
    assert PLAIN.encode() in on_disk(tmp_path)  # the ConfigMap: this does look into the files
    assert encoded not in on_disk(tmp_path)
    events = api.watch(f"{SECRETS}?watch=true&resourceVersion=0&timeoutSeconds=30")
    async with asyncio.timeout(10):
        seen = await anext(events)
        assert seen["object"]["data"]["word"] == encoded.decode()
        changed = await api.patch("merge", f"{SECRETS}/s", {"stringData": {"more": PLAIN}})
        assert changed["data"]["more"] == encoded.decode()
        seen = await anext(events)
        assert seen["type"] == "MODIFIED" and seen["object"]["data"]["more"] == encoded.decode()
        await api.call("DELETE", f"{SECRETS}/s")
        assert (await anext(events))["type"] == "DELETED"
    await events.aclose()
    await closed(api)
    assert encoded not in on_disk(tmp_path)


async def test_keys_are_rotated_by_writing_again(tmp_path: Path) -> None:
    api = await opened(tmp_path, {"identity": {}})
    await api.call("POST", SECRETS, secret())
    await closed(api)
    assert stored(tmp_path, KEY).startswith(b"{")
    for providers, wanted in (
        ([provider("aesgcm", "key-a"), {"identity": {}}], b"k8s:enc:aesgcm:v1:key-a:"),
        ([provider("aesgcm", "key-b", "key-a")], b"k8s:enc:aesgcm:v1:key-b:"),
        ([provider("aescbc", "key-c"), provider("aesgcm", "key-b")], b"k8s:enc:aescbc:v1:key-c:"),
        ([{"identity": {}}, provider("aescbc", "key-c")], b"{"),
    ):
        api = await opened(tmp_path, *providers)
        found = await api.call("GET", f"{SECRETS}/s")
        assert base64.b64decode(found["data"]["word"]).decode() == PLAIN
        written = await api.call("PUT", f"{SECRETS}/s", found)  # nothing changes, and yet
        assert stored(tmp_path, KEY).startswith(wanted)
        again = await api.call("PUT", f"{SECRETS}/s", written)
        assert again["metadata"]["resourceVersion"] == written["metadata"]["resourceVersion"]
        await closed(api)


async def test_a_lost_key_is_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    api = await opened(tmp_path, provider("aesgcm", "key-a"))
    await api.call("POST", SECRETS, secret())
    await closed(api)
    api = await opened(tmp_path, provider("aesgcm", "key-b"))
    answer = await api.call("GET", SECRETS, status=500)
    assert "no provider of the encryption configuration can read it" in answer["message"]
    assert (await api.send("GET", MAPS, user=ADMIN)).status == 200
    await closed(api)


async def test_ciphertexts_do_not_move(tmp_path: Path) -> None:
    inner = await SQLiteStore.open(tmp_path / "state.db")
    store = EncryptedStore(inner, parse_config(document(provider("aesgcm", "key-a"))))
    await store.put(KEY, b"value", expect=0)
    sealed = await inner.get(KEY)
    assert sealed is not None
    other = KEY.replace("default", "kube-system")
    await inner.put(other, sealed.value, expect=0)
    with pytest.raises(EncryptionError):
        await store.get(other)
    flipped = sealed.value[:-1] + bytes((sealed.value[-1] ^ 1,))
    await inner.put(KEY, flipped, expect=None)
    with pytest.raises(EncryptionError):
        await store.get(KEY)
    await store.close()


@pytest.mark.parametrize("cipher", ["aesgcm", "aescbc"])
async def test_the_contract_of_a_store_holds(tmp_path: Path, cipher: str) -> None:
    inner = await SQLiteStore.open(tmp_path / "state.db")
    store = EncryptedStore(inner, parse_config(document(provider(cipher, "key-a"))))
    feed = store.watch("/", store.revision)
    values = [b"", b"x", b"y" * 15, b"z" * 16, b"w" * 100_000]
    for number, value in enumerate(values):
        await store.put(f"{KEY}{number}", value, expect=0)
    page = await store.range("/registry/core/secrets/")
    assert [record.value for record in page.records] == values
    with pytest.raises(Conflict) as caught:
        await store.put(f"{KEY}1", b"other", expect=0)
    assert caught.value.current is not None and caught.value.current.value == b"x"
    revision = await store.put(f"{KEY}1", b"new", expect=caught.value.current.revision)
    with pytest.raises(Conflict) as caught:
        await store.delete(f"{KEY}1", expect=revision - 1)
    assert caught.value.current is not None and caught.value.current.value == b"new"
    await store.delete(f"{KEY}1", expect=revision)
    seen = []
    async with asyncio.timeout(10):
        while len(seen) < len(values) + 2:
            seen += await anext(feed)
    assert [change.value for change in seen] == [*values, b"new", None]
    assert (seen[-2].previous, seen[-1].previous) == (b"x", b"new")
    await store.close()


def test_which_kinds() -> None:
    def covers(names: tuple[str, ...], group: str, plural: str) -> bool:
        return Rule(names, ()).covers(group, plural)

    assert covers(("secrets",), "", "secrets") and not covers(
        ("secrets",), "example.com", "secrets"
    )
    assert covers(("pandas.example.com",), "example.com", "pandas")
    assert covers(("*.apps",), "apps", "deployments") and not covers(("*.apps",), "", "pods")
    assert covers(("*.",), "", "pods") and not covers(("*.",), "apps", "deployments")
    assert covers(("*.*",), "", "pods") and covers(("*.*",), "apps", "deployments")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "kind: must be EncryptionConfiguration"),
        (document(), "providers: Required value"),
        (document({"kms": {}}), "kms: not supported"),
        (document({"aesgcm": {"keys": []}}), "keys: Required value"),
        (document(provider("aesgcm", "a:b")), "without a colon"),
        (document(provider("aesgcm", "a", "a")), "must be unique"),
        (
            document({"aesgcm": {"keys": [{"name": "a", "secret": key("a", 20)}]}}),
            "secret is not of the expected length, got 20",
        ),
        (document({"aesgcm": {"keys": [{"name": "a", "secret": "?"}]}}), "must be base64"),
        (document(provider("aesgcm", "a"), resources=()), "resources: Required value"),
    ],
)
def test_a_wrong_configuration_says_where(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadEncryptionConfig) as caught:
        parse_config(given)
    assert said in str(caught.value)
    assert key("a") not in str(caught.value)
