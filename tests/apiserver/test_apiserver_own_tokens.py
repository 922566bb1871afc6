"""Tokens that need no provider: bootstrap tokens, a static file, service accounts; and the flags that configure them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import jwt
import pytest
from token_harness import (
    TOKEN_REVIEW,
    bearer,
    closed,
    serving,
    who,
)

from sampan.apiserver.security import BadFlag, SecurityConfig
from sampan.apiserver.static_tokens import BadTokenFile, StaticTokens
from sampan.client.transport import Request

# --- bootstrap tokens --------------------------------------------------------------------------------------


def bootstrap_secret(**data: str) -> dict[str, Any]:
    filled = {
        "token-id": "abcdef",
        "token-secret": "0123456789abcdef",
        "usage-bootstrap-authentication": "true",
        **data,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "data": {k: base64.b64encode(v.encode()).decode() for k, v in filled.items()},
    }


async def test_bootstrap_tokens(tmp_path: Path) -> None:
    api = await serving(tmp_path)
    path, token = "/api/v1/namespaces/kube-system/secrets", "abcdef.0123456789abcdef"
    assert (await bearer(api, token)).status == 401
    groups = "system:bootstrappers:deck,system:bootstrappers:kubeadm:default-node-token"
    await api.call("POST", path, bootstrap_secret(**{"auth-extra-groups": groups}))
    assert await who(api, token) == {
        "username": "system:bootstrap:abcdef",
        "groups": ["system:bootstrappers", *groups.split(","), "system:authenticated"],
    }
    assert (await bearer(api, "abcdef.0123456789abcdee")).status == 401
    assert (await bearer(api, "abcdeg.0123456789abcdef")).status == 401
    for data in (
        {"expiration": "2020-01-01T00:00:00Z"},
        {"expiration": "soon"},
        {"usage-bootstrap-authentication": "false"},
        {"auth-extra-groups": "system:masters"},
        {"token-id": "fedcba"},
    ):
        await api.call("PUT", f"{path}/bootstrap-token-abcdef", bootstrap_secret(**data))
        assert (await bearer(api, token)).status == 401, data
    later = {"expiration": "2999-01-01T00:00:00Z"}
    await api.call("PUT", f"{path}/bootstrap-token-abcdef", bootstrap_secret(**later))
    assert (await bearer(api, token)).status == 200
    await api.call("DELETE", f"{path}/bootstrap-token-abcdef")
    assert (await bearer(api, token)).status == 401
    await closed(api)
    off = await serving(tmp_path / "off", enable_bootstrap_token_auth=False)
    await off.call("POST", path, bootstrap_secret())
    assert (await bearer(off, token)).status == 401
    await closed(off)


# --- static tokens -----------------------------------------------------------------------------------------


async def test_static_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text(
        'sesame,alice,u1,"crew,deck"\n# a comment\n\nmaster,root,0,system:masters\nshort,bob,u2\n'
    )
    api = await serving(tmp_path, token_auth_file=path)
    assert await who(api, "sesame") == {
        "username": "alice",
        "uid": "u1",
        "groups": ["crew", "deck", "system:authenticated"],
    }
    assert (await who(api, "short"))["groups"] == ["system:authenticated"]
    assert (await bearer(api, "master", "/api/v1/secrets")).status == 200
    assert (await bearer(api, "sesame", "/api/v1/secrets")).status == 403
    for wrong in ("sesam", "sesame,alice", "SESAME"):
        assert (await bearer(api, wrong)).status == 401
    await closed(api)


def test_a_wrong_token_file_names_the_line_and_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.csv"
    path.write_text("sesame,alice,u1\nonly,two\n")
    with pytest.raises(BadTokenFile) as caught:
        StaticTokens.read(path)
    assert "line 2" in str(caught.value) and "only" not in str(caught.value).replace("tokens", "")
    with pytest.raises(BadTokenFile):
        StaticTokens.read(tmp_path / "absent")


# --- service accounts ---------------------------------------------------------------------------------------


async def test_issuer_audiences_and_the_longest_life(tmp_path: Path) -> None:
    api = await serving(
        tmp_path,
        service_account_issuer="https://boats.example",
        api_audiences="api,boats",
        service_account_max_token_expiration="1h",
    )
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    path = "/api/v1/namespaces/default/serviceaccounts"
    await api.call("POST", path, account)
    answer = await api.send("POST", f"{path}/robot/token", {"spec": {"expirationSeconds": 7200}})
    made = answer.json()
    assert made["spec"]["expirationSeconds"] == 3600
    assert "requested expiration of 7200 seconds shortened to 3600" in answer.headers["Warning"]
    token = made["status"]["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"]) == ("https://boats.example", ["api"])
    assert claims["exp"] - claims["iat"] == 3600
    assert (await who(api, token))["username"] == "system:serviceaccount:default:robot"
    review = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
    for asked, status in (
        (["boats", "api"], {"authenticated": True, "audiences": ["api"]}),
        (["boats"], {"authenticated": False}),
    ):
        spec = {"token": token, "audiences": asked}
        found = (await api.call("POST", TOKEN_REVIEW, review | {"spec": spec}))["status"]
        assert {key: found[key] for key in status} == status
    # Others check such tokens by what the issuer publishes, which anybody of this cluster may read.
    assert (await api.server.handle(Request("GET", "/openid/v1/jwks"))).status == 403
    document = (await bearer(api, token, "/.well-known/openid-configuration")).json()
    assert document["issuer"] == "https://boats.example"
    keys = (await bearer(api, token, "/openid/v1/jwks")).json()
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    assert jwt.decode(token, key.key, algorithms=["ES256"], audience="api")["sub"].endswith("robot")
    await closed(api)


# --- flags -------------------------------------------------------------------------------------------------


def test_flags_become_values(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.touch()
    found = SecurityConfig.of(
        {
            "anonymous-auth": "false",
            "audit-policy-file": str(path),
            "audit-log-path": "-",
            "audit-log-maxage": "7",
            "oidc-required-claim": ["a=b"],
            "service-account-max-token-expiration": "1h30m",
        }
    )
    assert (found.anonymous_auth, found.audit_policy_file, found.audit_log_maxage) == (
        False,
        path,
        7,
    )
    assert (found.oidc_required_claim, found.longest_token) == (("a=b",), 5400)
    for wrong in (
        {"anonymous-auth": "maybe"},
        {"token-auth-file": str(tmp_path / "absent")},
        {"audit-log-maxage": "-1"},
        {"audit-log-path": "-"},
        {"oidc-issuer-url": "https://i.example"},
        {"authorization-mode": "AlwaysAllow"},
    ):
        with pytest.raises(BadFlag):
            SecurityConfig.of(wrong)
