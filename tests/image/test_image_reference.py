"""References as Docker completes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.image.errors import BadReference
from sampan.image.reference import parse

D = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("Reg/x", "Reg/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        (f"busybox@{D}", f"docker.io/library/busybox@{D}"),
        (f"busybox:1@{D}", f"docker.io/library/busybox:1@{D}"),
        ("a__b/c.d-e--f:T_.-1", "docker.io/a__b/c.d-e--f:T_.-1"),
    ],
)
def test_completion(text: str, full: str) -> None:
    assert str(parse(text)) == full


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "x:", "x@", "x@sha256:abc", "Busybox", "x y", "-x", "x/", "/x", "x//y", "x:.t"),
        *("a" * 64, "x:" + "t" * 129, "y/" * 130 + "x", "x\n", "x@sha256:" + "A" * 64),
    ],
)
def test_refusal(text: str) -> None:
    with pytest.raises(BadReference, match="couldn't parse image name"):
        parse(text)


def test_key_ignores_the_tag_beside_a_digest() -> None:
    assert parse(f"x:1@{D}").key == f"docker.io/library/x@{D}"
    assert parse(f"x:1@{D}").target == D


@given(st.text("ab9AZ./:@_- \n[]é", max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_parsed_name_is_stable_and_anything_else_is_refused(text: str) -> None:
    try:
        first = parse(text)
    except BadReference:
        return
    assert parse(str(first)) == first
