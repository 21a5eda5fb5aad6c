"""Attempts to impersonate another user with a valid token of one issuer, at a sidecar with five issuers.

Every issuer names its key ``k1``: only the issuer can tell them apart.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from tests.flow.conftest import LOOPBACK, Scene, Start, own_keys
from tests.support import forge
from tests.support.echo_upstream import echo_upstream
from tests.support.jwks_server import JwksServer, document, jwk
from tests.support.wire import Answer

OWN = "meta.example.com"
FLAT_KEY = RSAKey.generate_key(2048)
SIGNERS: dict[str, tuple[forge.Key, str]] = {
    "rsa": (forge.RSA, "RS256"),
    "ec": (forge.EC, "ES256"),
    "ed": (forge.ED, "EdDSA"),
    "flat": (FLAT_KEY, "RS256"),
    "list": (RSAKey.generate_key(2048), "RS256"),
}
Spelled = dict[str, str]


def sign(signer: str, issuer: str, **claims: Any) -> str:
    """A token that ``signer`` signed in the name of ``issuer``, good for every audience and mapping here."""
    key, algorithm = SIGNERS[signer]
    usual = {
        "aud": ["meta", "om"],
        "azp": "ui",
        "preferred_username": "pat",
        "email": "pat@example.com",
        "email_verified": True,
    }
    return forge.token(
        forge.claims(iss=issuer, **{**usual, **claims}), forge.header(alg=algorithm), key=key, algorithm=algorithm
    )


@pytest.fixture
async def crowd(start: Start, tmp_path: Path) -> AsyncIterator[tuple[Scene, Spelled]]:
    """The sidecar, and each signer's own issuer."""
    async with JwksServer() as server:
        flat = server.url("/flat")
        for signer, (key, _) in SIGNERS.items():
            server.publish(jwk(key, "k1"), path=f"/{signer}/jwks")
        server.answers["/flat/.well-known/openid-configuration"] = document(
            {"issuer": f"{flat}/", "jwks_uri": f"{flat}/jwks"}
        )
        issuers = {signer: f"https://{signer}.example.com" for signer in SIGNERS} | {"flat": f"{flat}/"}
        usual = {"audiences": ["meta"]}
        mapping = ["username:preferred_username", "email:email"]
        more: dict[str, dict[str, Any]] = {
            "rsa": {},
            "ec": {"jwtPrincipalClaimsMapping": mapping, "mayBeAdmin": True, "requiredClaims": {"azp": ["ui"]}},
            "list": {"jwtPrincipalClaims": ["preferred_username", "email"], "mayBeAdmin": True},
            "ed": {"principalNamespace": "provider", "mayBeAdmin": True},
        }
        with echo_upstream() as upstream:
            scene = await start(
                upstream.url,
                server={"trustedProxies": [LOOPBACK]},
                upstream={"credentials": "openmetadata"},
                identityHeaders={"assertion": True},
                jwtTokenConfiguration=own_keys(tmp_path),
                authorizerConfiguration={"adminPrincipals": ["admin", "ed/root"]},
                authenticationConfiguration={
                    "authority": flat,
                    "publicKeyUrls": [f"{flat}/jwks"],
                    "clientId": "om",
                    "providers": [
                        {
                            "name": name,
                            "issuer": issuers[name],
                            "publicKeyUrls": [server.url(f"/{name}/jwks")],
                            **usual,
                            **options,
                        }
                        for name, options in more.items()
                    ],
                },
                rules=[{"path": "/adm/**", "require": {"admin": True}}],
            )
            yield scene, issuers


async def ask(scene: Scene, token: str, target: str = "/oauth2/userinfo") -> Answer:
    async with await scene.connect() as wire:
        return await wire.ask(target, [("Authorization", f"Bearer {token}")])


Crowd = tuple[Scene, Spelled]


async def test_a_key_speaks_for_its_own_issuer_only(crowd: Crowd) -> None:
    """Not for another with the same key id, not for ourselves, and for no other spelling of its own name."""
    scene, issuers = crowd
    names = [*issuers.values(), *(f"{issuer}/" for issuer in issuers.values()), issuers["flat"][:-1]]
    names += [OWN, f"{OWN}/", f"{OWN}/assertion", f" {OWN}", OWN.upper()]
    accepted = {
        (signer, name) for signer in SIGNERS for name in names if (await ask(scene, sign(signer, name))).status == 200
    }
    assert accepted == set(issuers.items())


@pytest.mark.parametrize("signer", SIGNERS)
async def test_what_only_the_own_issuer_may_say_is_nothing_from_others(crowd: Crowd, signer: str) -> None:
    scene, issuers = crowd
    claims = {"isBot": True, "tokenType": "BOT", "impersonatedUser": "admin", "isAdmin": True, "roles": ["Admin"]}
    token = sign(signer, issuers[signer], **claims)
    told = (await ask(scene, token)).json()
    assert (told["isBot"], told["actor"]["type"], told["actor"]["id"].rpartition("/")[2]) == (False, "USER", "pat")
    assert (await ask(scene, token, "/adm/x")).status == 403


@pytest.mark.parametrize("header", ["Authorization", "X-Auth-Assertion"])
async def test_upstream_credentials_are_rejected_from_callers(crowd: Crowd, header: str) -> None:
    scene, issuers = crowd
    seen = (await ask(scene, sign("rsa", issuers["rsa"]), "/x")).json()["headers"]
    minted = next(value for name, value in seen if name == header).removeprefix("Bearer ")
    answer = await ask(scene, minted)
    assert (answer.status, answer.json()["reason"]) == (401, "token_invalid")


@pytest.mark.parametrize(
    ("signer", "claims", "is_admin"),
    [  # None: refused
        ("flat", {"email": "admin@example.com"}, True),
        ("flat", {"email": "admin@elsewhere.com"}, False),
        ("flat", {"email": "admin@example.com."}, None),
        ("rsa", {"email": "admin@example.com"}, False),
        ("ec", {"preferred_username": "admin", "email": "admin@example.com"}, True),
        ("ec", {"preferred_username": "admin", "email": "mallory@example.com"}, False),
        ("ed", {"email": "admin@example.com"}, True),
        ("ed", {"email": "admin@elsewhere.com"}, False),
        ("ed", {"email": "root@example.com"}, True),
        ("ed", {"email": "root@elsewhere.com"}, False),
        ("ed", {"email": "adm\u0131n@example.com"}, None),
        ("ed", {"email": "\uff41dmin@example.com"}, None),
        ("ed", {"email": '"admin"@example.com'}, None),
        ("ed", {"email": "admin@example\u3002com"}, None),
        ("ed", {"email": "admin@example.com", "email_verified": ...}, None),
        ("ed", {"email": ..., "preferred_username": "admin@example.com"}, False),
        ("list", {"preferred_username": "admin", "email": "admin@example.com"}, True),
        ("list", {"preferred_username": "admin", "email": "mallory@example.com"}, False),
        ("list", {"preferred_username": "admin@example.com", "email": "mallory@example.com"}, False),
        ("list", {"preferred_username": "admin@example.com", "email": ...}, False),
        ("list", {"preferred_username": "admin", "email": "admin@elsewhere.com"}, False),
        ("list", {"preferred_username": "admin", "email": "admin@example.com", "email_verified": False}, False),
        ("list", {"preferred_username": "admin", "email": "admin@example.com", "email_verified": "true"}, False),
    ],
)
async def test_a_name_from_another_issuer_makes_no_admin(
    crowd: Crowd, signer: str, claims: dict[str, Any], is_admin: bool | None
) -> None:
    scene, issuers = crowd
    token = sign(signer, issuers[signer], **claims)
    answer = await ask(scene, token)
    if is_admin is None:
        assert (answer.status, answer.json()["reason"]) == (401, "principal_invalid")
        return
    assert answer.status == 200
    assert ((await ask(scene, token, "/adm/x")).status == 200) is is_admin


@pytest.mark.parametrize(
    "name", ["guest", "GUEST", "guest@elsewhere.com", "__datahub_system", "ed/root", "a@b@c", "a b"]
)
async def test_names_that_are_not_theirs_are_refused(crowd: Crowd, name: str) -> None:
    scene, issuers = crowd
    answer = await ask(scene, sign("rsa", issuers["rsa"], email=name))
    assert answer.status == 401
    assert answer.json()["reason"] in ("principal_reserved", "principal_invalid")
