"""One id for a request: in the answer, in every log line about it, and at the upstream."""

import json
import re
from pathlib import Path

import pytest

from sidecar.keys.key_files import generate, write_pair
from tests.flow.conftest import LOOPBACK, Start, bearer, own_keys
from tests.support.echo_upstream import Received, echo_upstream
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import running_sidecar

OWN = re.compile(r"[0-9a-f]{22}")
CHECKS = ("/oauth2/auth", "/oauth2/forward_auth", "/oauth2/ext_authz/x")


async def test_every_answer_names_one(start: Start, tmp_path: Path) -> None:
    """Answers of every kind, and the second of two equal checks, which goes another way inside."""
    admin = {"authorizerConfiguration": {"adminPrincipals": ["corp/root"]}}
    scene = await start(jwtTokenConfiguration=own_keys(tmp_path), **admin)
    root = [bearer(sub="root"), ("Content-Type", "application/json")]
    async with await scene.connect() as wire:
        twice = [*CHECKS, *CHECKS, "/oauth2/userinfo", "/oauth2/tokens"]
        seen = [await wire.ask(path, [bearer()]) for path in twice]
        seen += [await wire.ask("/oauth2/jwks"), await wire.ask("/oauth2/jwks", [("If-None-Match", "*")])]
        seen.append(await wire.ask("/oauth2/tokens", root, method="POST", body=b'{"name":"laptop"}'))
        seen.append(await wire.ask(f"/oauth2/tokens/{seen[-1].json()['id']}", root, method="DELETE"))
        seen += [await wire.ask("/oauth2/auth"), await wire.ask("/nowhere")]
        await wire.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")
        seen.append(await wire.answer())
    assert [answer.status for answer in seen] == [200] * 9 + [304, 201, 204, 401, 404, 400]
    named = [answer.all("X-Request-Id") for answer in seen]
    assert all(len(names) == 1 and OWN.fullmatch(names[0]) for names in named), named
    assert len({names[0] for names in named}) == len(named)


@pytest.mark.parametrize("path", CHECKS)
async def test_a_check_keeps_the_id_of_a_trusted_proxy_only(start: Start, path: str) -> None:
    """The logs of proxy, sidecar and upstream have the same id; ids that could break a log line are replaced."""
    trusting, doubting = await start(server={"trustedProxies": [LOOPBACK]}), await start()
    original = [("X-Original-URI", "/x"), ("X-Original-Method", "GET")]
    original += [("X-Forwarded-Uri", "/x"), ("X-Forwarded-Method", "GET")]
    for scene, given, kept in (
        (trusting, "af31-77_x/+=.~", True),
        (doubting, "af31", False),
        (trusting, 'a"b', False),
        (trusting, "a b", False),
        (trusting, "", False),
        (trusting, "x" * 129, False),
    ):
        async with await scene.connect() as wire:
            for _ in range(2):
                answer = await wire.ask(path, [bearer(), ("X-Request-Id", given), *original])
                assert answer.status == 200
                assert (answer.all("X-Request-Id") == [given]) is kept


def test_a_request_can_be_followed_by_its_id(tmp_path: Path) -> None:
    """From the access log to the audit log, to the refusal and to the upstream."""
    write_pair(tmp_path / "keys", generate("ES256"))
    with IdentityProvider() as idp, echo_upstream() as upstream:
        configuration = {
            "upstream": {"url": upstream.url},
            "logging": {"access": True},
            "jwtTokenConfiguration": {
                "rsaprivateKeyFilePath": str(tmp_path / "keys" / "private_key.der"),
                "rsapublicKeyFilePath": str(tmp_path / "keys" / "public_key.der"),
                "jwtissuer": "meta.example.com",
            },
            "authenticationConfiguration": {
                "providers": [{"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]}]
            },
        }
        with running_sidecar(tmp_path, configuration) as sidecar:
            token = ("Authorization", f"Bearer {idp.mint(preferred_username='sam')}")

            def call(identifier: str, path: str, method: str = "GET", body: bytes | None = None) -> Reply:
                headers = [token, ("X-Request-Id", identifier), ("Content-Type", "application/json")]
                return request(f"{sidecar.url}{path}", method, headers=headers, body=body)

            forwarded = call("forward-1", "/x")
            assert Received.of(forwarded.json()).all("X-Request-Id") == ["forward-1"]
            minted = call("mint-1", "/oauth2/tokens", "POST", b'{"name":"laptop"}').json()
            assert call("revoke-1", f"/oauth2/tokens/{minted['id']}", "DELETE").status == 204
            form = [("Content-Type", "application/x-www-form-urlencoded"), ("X-Request-Id", "end-1")]
            assert request(f"{sidecar.url}/oauth2/revoke", "POST", headers=form, body=f"token={token[1][7:]}".encode())
            assert call("refused-1", "/x").status == 401
            lines = [json.loads(line) for line in sidecar.process.output.splitlines()]
    told = {(line.get("requestId"), line.get("event")) for line in lines if "requestId" in line}
    assert told >= {
        ("forward-1", "request_answered"),
        ("mint-1", "request_answered"),
        ("mint-1", "token_minted"),
        ("revoke-1", "request_answered"),
        ("revoke-1", "token_revoked"),
        ("end-1", "request_answered"),
        ("end-1", "revocation_added"),
        ("refused-1", "request_answered"),
        ("refused-1", "request_rejected"),
    }
    assert all("requestId" in line for line in lines if line["logger"] == "sidecar.audit")
