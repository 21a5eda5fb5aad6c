"""DataHub's tokens are read and made as DataHub does it: claims, key, hash."""

import json
from typing import Any

import pytest

from sidecar.errors import Cause, Reason, Refused
from sidecar.secrets.value import Secret
from sidecar.tokens.datahub import (
    DataHubKind,
    DataHubToken,
    SharedKey,
    Version,
    datahub_hash,
    is_datahub,
    mint_datahub_token,
    verify_datahub,
)
from sidecar.tokens.jwt.compact import decode_segment, parse
from tests.support import forge
from tests.support.datahub import KEY, KEY_TEXT, NOW, PUBLISHED_KEY, PUBLISHED_SALT, V1, V2, V2_HASH, claims, token


def verify(text: str, now: float = NOW, key: SharedKey = KEY) -> DataHubToken:
    return verify_datahub(parse(text, 16_384), key, now)


def refusal(text: str, now: float = NOW) -> tuple[Reason, Cause]:
    with pytest.raises(Refused) as caught:
        verify(text, now)
    return caught.value.reason, caught.value.cause


@pytest.mark.parametrize(
    ("text", "kind", "version"),
    [(V2, DataHubKind.PERSONAL, Version.STATEFUL), (V1, DataHubKind.SESSION, Version.STATELESS)],
)
def test_vectors_verify_with_the_text_of_the_key(text: str, kind: DataHubKind, version: Version) -> None:
    """The key is the literal text's bytes: what it would give as base64 does not verify."""
    found = verify(text, key=SharedKey(Secret(PUBLISHED_KEY)))
    assert (found.actor_id, found.kind, found.version) == ("datahub", kind, version)
    assert found.verified.expires_at == 4102444800
    assert found.verified.issued_at is None


def test_hash_vector() -> None:
    assert datahub_hash(V2, Secret(PUBLISHED_SALT)) == V2_HASH


def test_minted_session_has_datahubs_claims_and_nothing_else() -> None:
    text = mint_datahub_token(
        KEY, actor_id="Sam.X@x.com", kind=DataHubKind.SESSION, token_id="1", issuer="i", issued_at=5, expires_at=9
    )
    header, payload, _ = (decode_segment(part) for part in text.split("."))
    assert json.loads(header) == {"alg": "HS256"}
    assert json.loads(payload) == {
        "actorType": "USER",
        "actorId": "Sam.X@x.com",
        "type": "SESSION",
        "version": "1",
        "jti": "1",
        "sub": "Sam.X@x.com",
        "iat": 5,
        "exp": 9,
        "iss": "i",
    }


@pytest.mark.parametrize("kind", [DataHubKind.PERSONAL, DataHubKind.SERVICE_ACCOUNT])
def test_minted_token_of_other_kinds_is_of_version_2_and_may_be_endless(kind: DataHubKind) -> None:
    text = mint_datahub_token(KEY, actor_id="sam", kind=kind, token_id="1", issuer="i", issued_at=5, expires_at=None)
    found = verify(text)
    assert (found.kind, found.version, found.verified.expires_at) == (kind, Version.STATEFUL, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "any-issuer"},
        {"iss": ...},
        {"exp": ...},
        {"type": "SERVICE_ACCOUNT"},
        {"sub": ..., "jti": ...},
        {"actorId": "Sam.X@Example.com"},
        {"iat": int(NOW) - 5},
    ],
)
def test_what_datahub_does_not_look_at_is_accepted(changes: dict[str, Any]) -> None:
    assert verify(token(**changes)).actor_id == changes.get("actorId", "datahub")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"actorId": ...}, (Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MISSING)),
        ({"actorId": None}, (Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MISSING)),
        *(
            ({"actorId": bad}, (Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED))
            for bad in ("", 7, ["sam"], "a b", "a\nb", "a\u200b", "x" * 513)
        ),
        *(
            ({name: bad}, (Reason.TOKEN_INVALID, Cause.REQUIRED_CLAIM))
            for name, bad in [
                ("actorType", ...),
                ("actorType", "SERVICE"),
                ("actorType", "user"),
                ("type", ...),
                ("type", "session"),
                ("type", ["SESSION"]),
                ("version", ...),
                ("version", 2),
                ("version", "3"),
                ("version", None),
            ]
        ),
        ({"exp": int(NOW)}, (Reason.TOKEN_EXPIRED, Cause.EXPIRED)),
        ({"exp": "4102444800"}, (Reason.TOKEN_INVALID, Cause.CLAIM_TYPE)),
        ({"nbf": int(NOW) + 1}, (Reason.TOKEN_NOT_YET_VALID, Cause.NOT_YET_VALID)),
        ({"cnf": {"jkt": "x"}}, (Reason.TOKEN_INVALID, Cause.PROOF_OF_POSSESSION)),
        ({"auth_sidecar": "upstream"}, (Reason.TOKEN_INVALID, Cause.UPSTREAM_ONLY)),
    ],
)
def test_what_a_token_must_be(changes: dict[str, Any], expected: tuple[Reason, Cause]) -> None:
    assert refusal(token(**changes)) == expected


def signed(header: dict[str, Any], payload: bytes) -> str:
    """The exact bytes of a payload, under a header with further members."""
    parts = (json.dumps({"alg": "HS256", **header}).encode(), payload)
    signing_input = ".".join(map(forge.b64, parts))
    return f"{signing_input}.{forge.hs256(signing_input, KEY_TEXT.encode())}"


PAYLOAD = json.dumps(claims()).encode()


@pytest.mark.parametrize(
    "text",
    [
        token(exp=1e300),
        token(exp=None),
        token(actorId="x" * 512),
        signed({"zip": "DEF"}, PAYLOAD),
        signed({"typ": "at+jwt"}, PAYLOAD),
        signed({}, b"  " + PAYLOAD + b" \n"),
        signed({}, PAYLOAD[:-1] + b',"x":' + b"[" * 31 + b"]" * 31 + b"}"),
    ],
    ids=str,
)
def test_where_datahub_is_stricter(text: str) -> None:
    """As the page on compatibility says, with the limits that it names."""
    assert verify(text).kind is DataHubKind.PERSONAL


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (token(iat=int(NOW) + 60), Cause.ISSUED_IN_FUTURE),
        (token(nbf="1"), Cause.CLAIM_TYPE),
        (token(nbf=None), Cause.CLAIM_TYPE),
        (token(version="02"), Cause.REQUIRED_CLAIM),
        (signed({"crit": ["b64"], "b64": False}, PAYLOAD), Cause.CRITICAL_HEADER),
        (signed({"b64": True}, PAYLOAD), Cause.CRITICAL_HEADER),
        (signed({"cty": "JWT"}, PAYLOAD), Cause.TOKEN_TYPE),
        (signed({"typ": "x"}, PAYLOAD), Cause.TOKEN_TYPE),
        (signed({"kid": None}, PAYLOAD), Cause.HEADER),
        (signed({}, PAYLOAD[:-1] + b',"actorId":"x"}'), Cause.ENCODING),
        (signed({}, PAYLOAD[:-1] + b',"x":' + b"[" * 32 + b"]" * 32 + b"}"), Cause.ENCODING),
        (token(pad="x" * 16_384), Cause.TOKEN_SIZE),
    ],
    ids=str,
)
def test_where_datahub_is_looser(text: str, cause: Cause) -> None:
    """As the page on compatibility says."""
    assert refusal(text)[1] is cause


@pytest.mark.parametrize("algorithm", ["HS384", "HS512", "RS256", "ES256", "hs256", "HS256 "])
def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    assert refusal(token(algorithm=algorithm)) == (Reason.TOKEN_INVALID, Cause.ALGORITHM)


def test_unsigned_and_wrongly_signed_tokens_are_refused() -> None:
    body = token().rpartition(".")[0]
    assert refusal(f"{body}.{forge.b64(bytes(32))}") == (Reason.TOKEN_INVALID, Cause.SIGNATURE)
    assert refusal(f"{body}.") == (Reason.TOKEN_INVALID, Cause.SIGNATURE)
    assert refusal(token(key=KEY_TEXT[:-1])) == (Reason.TOKEN_INVALID, Cause.SIGNATURE)
    assert refusal(token(algorithm="none")) == (Reason.TOKEN_INVALID, Cause.ALGORITHM)


def test_public_key_is_no_shared_secret() -> None:
    """The old confusion: a provider's public key used as the secret."""
    body = token().rpartition(".")[0]
    public = forge.RSA.as_pem(private=False)
    forged = f"{body}.{forge.hs256(body, public)}"
    assert refusal(forged) == (Reason.TOKEN_INVALID, Cause.SIGNATURE)


def test_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        SharedKey(Secret("x" * 31))


@pytest.mark.parametrize(
    ("changes", "algorithm", "expected"),
    [
        ({}, "HS256", True),
        ({}, "HS384", True),
        ({}, "RS256", True),
        ({"iss": "elsewhere"}, "HS256", True),
        ({"iss": "elsewhere"}, "RS256", False),
        ({"iss": "elsewhere", "actorId": ..., "actorType": ...}, "HS256", False),
        ({"iss": "ours", "actorId": ..., "actorType": ...}, "HS256", True),
        ({"iss": "ours"}, "RS256", False),
        ({"iss": ..., "actorId": ..., "actorType": ...}, "HS256", False),
    ],
)
def test_whose_token_it_can_only_be(changes: dict[str, Any], algorithm: str, expected: bool) -> None:
    parsed = parse(token(algorithm=algorithm, **changes), 16_384)
    assert is_datahub(parsed, "datahub-metadata-service", "ours") is expected
    assert not is_datahub(parse(token(iss="", actorId=..., actorType=...), 16_384), "datahub-metadata-service", "")


def test_claims_of_the_vectors_are_those_of_the_tests() -> None:
    assert parse(V2, 16_384).claims == claims()
