"""Whatever is thrown at verification ends in one refusal with the expected reason, never in another exception."""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.errors import Cause, Reason, Refused
from sidecar.tokens.jwt import compact
from sidecar.tokens.jwt.compact import MAX_DEPTH, parse
from sidecar.tokens.jwt.verify import ValidationPolicy, VerifiedClaims, verify
from tests.support import forge
from tests.support.forge import EC, ED, NOW, OTHER_RSA, RSA, b64, claims, header, token

MALFORMED, INVALID = Reason.TOKEN_MALFORMED, Reason.TOKEN_INVALID
EXPIRED, EARLY = Reason.TOKEN_EXPIRED, Reason.TOKEN_NOT_YET_VALID

KEYS = (
    forge.public(RSA, "RS256", "RS384", "RS512", "PS256"),
    forge.public(EC, "ES256", kid="ec"),
    forge.public(ED, "EdDSA", "Ed25519", kid="ed"),
)
EXPECTATIONS = ValidationPolicy(
    issuers=frozenset({forge.ISSUER}),
    algorithms=frozenset({"RS256", "ES256", "EdDSA", "Ed25519"}),
    audiences=frozenset({"meta"}),
    leeway=30.0,
)


def judge(text: Any) -> VerifiedClaims:
    return verify(parse(text, 16_384), KEYS, EXPECTATIONS, NOW)


def with_claims(**changes: Any) -> str:
    return token(claims(**changes))


def with_header(**changes: Any) -> str:
    return token(header_=header(**changes))


def replaced_signature(signature: bytes, **header_changes: Any) -> str:
    signing_input, _, _ = token(header_=header(**header_changes)).rpartition(".")
    return f"{signing_input}.{b64(signature)}"


def hmac_with_public_key(encoding: str) -> str:
    """RS256 to HS256 confusion: the public key as HMAC secret."""
    parts = b64(json.dumps(header(alg="HS256")).encode()) + "." + b64(json.dumps(claims()).encode())
    secret = RSA.as_pem(private=False) if encoding == "pem" else RSA.as_der(private=False)
    mac = hmac.HMAC(secret, hashes.SHA256())
    mac.update(parts.encode())
    return f"{parts}.{b64(mac.finalize())}"


def ec_signature(shape: str) -> str:
    signing_input = (
        b64(raw := json.dumps(header(alg="ES256", kid="ec")).encode()) + "." + b64(json.dumps(claims()).encode())
    )
    assert raw
    signature = forge.raw_signature(signing_input.encode(), "ES256", EC)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    return f"{signing_input}." + b64(
        {
            "der": encode_dss_signature(r, s),
            "zero": bytes(64),
            "order": order.to_bytes(32, "big") * 2,
            "r zero": bytes(32) + signature[32:],
            "s zero": signature[:32] + bytes(32),
            "longer": signature + b"\0",
            "padded": b"\0" + signature[:32] + b"\0" + signature[32:],
            "shorter": signature[:-1],
            "s plus order": signature[:32] + ((s + order) % 2**256).to_bytes(32, "big"),
        }[shape]
    )


def jwk_of_attacker() -> dict[str, Any]:
    return dict(OTHER_RSA.as_dict(private=False))


GOOD = token()
HEAD, BODY, SIGNATURE = GOOD.split(".")
LAST = SIGNATURE[-1]
DEEP = "[" * 5000 + "]" * 5000


def hostile() -> Iterator[tuple[str, Any, Reason, Cause | None]]:
    crit: Any
    value: Any
    yield "not text", 5, MALFORMED, None
    yield "nothing", None, MALFORMED, None
    yield "raw", GOOD.encode(), MALFORMED, None
    yield "empty", "", MALFORMED, None
    yield "two dots alone", "..", MALFORMED, None
    yield "one part", HEAD, MALFORMED, None
    yield "two parts", f"{HEAD}.{BODY}", MALFORMED, None
    yield "four parts", f"{GOOD}.{SIGNATURE}", MALFORMED, None
    yield "reference to a secret", "secret:openmetadata-bot-x-config-jwttoken", MALFORMED, Cause.UNRESOLVED_REFERENCE
    yield "JWE of five parts", f"{HEAD}.{SIGNATURE}.AAAA.{BODY}.AAAA", MALFORMED, Cause.NOT_A_JWT
    yield "empty header", f".{BODY}.{SIGNATURE}", MALFORMED, None
    yield "empty claims", f"{HEAD}..{SIGNATURE}", MALFORMED, None
    yield "no signature", f"{HEAD}.{BODY}.", INVALID, Cause.SIGNATURE
    yield "a megabyte", f"{HEAD}.{'A' * 1_000_000}.{SIGNATURE}", MALFORMED, Cause.TOKEN_SIZE
    yield (
        "JSON serialization",
        json.dumps({"protected": HEAD, "payload": BODY, "signature": SIGNATURE}),
        MALFORMED,
        None,
    )
    yield "padding", f"{HEAD}.{BODY}.{SIGNATURE}==", MALFORMED, None
    yield "padded header", f"{HEAD}=.{BODY}.{SIGNATURE}", MALFORMED, None
    yield "newline at the end", GOOD + "\n", MALFORMED, None
    yield "carriage return", GOOD + "\r", MALFORMED, None
    yield "space before", " " + GOOD, MALFORMED, None
    yield "space inside", f"{HEAD}. {BODY}.{SIGNATURE}", MALFORMED, None
    yield "NUL at the end", GOOD + "\0", MALFORMED, None
    yield "plain base64 letters", f"{HEAD}.{BODY}.{SIGNATURE[:-2]}+/", MALFORMED, None
    yield "impossible length", f"{HEAD}.{BODY}.AAAAA", MALFORMED, Cause.ENCODING
    yield "spare bits in the signature", f"{HEAD}.{BODY}.{SIGNATURE[:-1]}{chr(ord(LAST) + 1)}", MALFORMED, None
    yield "letters beyond ASCII", GOOD[:-1] + "\u00e9", MALFORMED, None
    yield "digits beyond ASCII", GOOD[:-1] + "\u0663", MALFORMED, None
    yield "lone surrogate in the text", GOOD + "\ud800", MALFORMED, None

    yield "header in UTF-16", token(header_=json.dumps(header()).encode("utf-16")), MALFORMED, Cause.HEADER
    yield "header in UTF-16 without mark", token(header_=json.dumps(header()).encode("utf-16-le")), MALFORMED, None
    yield "header with byte order mark", token(header_=b"\xef\xbb\xbf" + forge.encode_part(header())), MALFORMED, None
    yield "claims in UTF-16", token(json.dumps(claims()).encode("utf-16")), MALFORMED, None
    yield "claims with byte order mark", token(b"\xef\xbb\xbf" + forge.encode_part(claims())), MALFORMED, None
    yield "claims not UTF-8", token(forge.encode_part(claims()).replace(b"sam", b"s\xe9m")), MALFORMED, None
    yield "overlong UTF-8", token(forge.encode_part(claims()).replace(b"sam", b"s\xc1\xa1m")), MALFORMED, None
    yield "lone surrogate in a claim", token(forge.encode_part(claims()).replace(b"sam", b"\\ud800")), MALFORMED, None
    yield "lone surrogate in a name", token(forge.encode_part(claims()).replace(b"sub", b"\\udfff")), MALFORMED, None
    header_part = forge.encode_part(header()).replace(b"k1", b"\\udc00")
    yield "lone surrogate in kid", token(header_=header_part), MALFORMED, None
    for name, part in {"list": "[]", "string": '"x"', "number": "5", "null": "null", "nothing": " "}.items():
        yield f"header is a {name}", token(header_=part), MALFORMED, Cause.HEADER
        yield f"claims are a {name}", token(part), MALFORMED, None
    yield "junk after the header", token(header_=json.dumps(header()) + "{}"), MALFORMED, None
    yield "junk after the claims", token(json.dumps(claims()) + "x"), MALFORMED, None
    yield "comment in the claims", token(json.dumps(claims()) + "/**/"), MALFORMED, None
    yield "header repeats alg", token(header_='{"alg":"none","alg":"RS256","kid":"k1"}'), MALFORMED, None
    yield "header repeats alg, escaped", token(header_='{"alg":"none","\\u0061lg":"RS256"}'), MALFORMED, None
    yield "claims repeat sub", token(json.dumps(claims())[:-1] + ',"sub":"admin"}'), MALFORMED, None
    yield "repetition below", token(json.dumps(claims())[:-1] + ',"a":[{"b":{"c":1,"c":2}}]}'), MALFORMED, None
    yield "deep claims", token(json.dumps(claims())[:-1] + f',"a":{DEEP}}}'), MALFORMED, None
    yield "deeper than allowed", token(json.dumps(claims(a=_nested(MAX_DEPTH + 1)))), MALFORMED, None
    yield "deep header", token(header_=f'{{"alg":"RS256","a":{"[" * 2000}{"]" * 2000}}}'), MALFORMED, None
    for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 5000, "1" * 41, "0x10", "01", "1.", "+1"):
        yield (
            f"exp is {number[:9]}, {len(number)} characters",
            token(json.dumps(claims(exp="@")).replace('"@"', number)),
            MALFORMED,
            None,
        )

    for algorithm in ("none", "None", "NONE", "nOnE"):
        unsigned = ".".join((b64(forge.encode_part(header(alg=algorithm))), BODY, ""))
        yield f"alg {algorithm}", unsigned, INVALID, Cause.ALGORITHM
        yield f"alg {algorithm} with a signature", with_header(alg=algorithm), INVALID, Cause.ALGORITHM
    for algorithm in ("rs256", "RS256 ", "HS256", "RS512", "PS256", "ES256K", "RSA-OAEP", "dir", "", "\u0000"):
        yield f"alg {algorithm!r}", with_header(alg=algorithm), INVALID, Cause.ALGORITHM
    yield "alg of another family", with_header(alg="ES256"), INVALID, Cause.KEY_UNUSABLE
    yield "alg of another family, its kid", with_header(alg="ES256", kid="ec"), INVALID, Cause.SIGNATURE
    yield "alg missing", with_header(alg=...), MALFORMED, Cause.HEADER
    for value in (5, None, ["RS256"], {"a": 1}, True):
        yield f"alg is {value}", with_header(alg=value), MALFORMED, Cause.HEADER
        yield f"kid is {value}", with_header(kid=value), MALFORMED, Cause.HEADER
        yield f"typ is {value}", with_header(typ=value), MALFORMED, Cause.HEADER
    for crit in ([], ["b64"], ["exp"], "b64", 5, None, [[]], [None]):
        yield f"crit {crit}", with_header(crit=crit), INVALID, Cause.CRITICAL_HEADER
    yield "b64 false", with_header(b64=False, crit=["b64"]), INVALID, Cause.CRITICAL_HEADER
    yield "b64 without crit", with_header(b64=False), INVALID, Cause.CRITICAL_HEADER
    for kind in ("logout+jwt", "secevent+jwt", "dpop+jwt", "auth-assertion+jwt", "JOSE", "application/", "", "JWT+x"):
        yield f"typ {kind!r}", with_header(typ=kind), INVALID, Cause.TOKEN_TYPE
    yield "nested token", with_header(cty="JWT"), INVALID, Cause.TOKEN_TYPE

    yield "other key, same kid", token(key=OTHER_RSA), INVALID, Cause.SIGNATURE
    yield "kid of another issuer", with_header(kid="k9"), INVALID, Cause.KEY_UNUSABLE
    yield "key in the header", token(header_=header(jwk=jwk_of_attacker()), key=OTHER_RSA), INVALID, Cause.SIGNATURE
    yield "key by address", token(header_=header(jku="https://evil/jwks"), key=OTHER_RSA), INVALID, Cause.SIGNATURE
    yield "certificate by address", token(header_=header(x5u="https://evil"), key=OTHER_RSA), INVALID, Cause.SIGNATURE
    yield "certificate in the header", token(header_=header(x5c=["AAAA"]), key=OTHER_RSA), INVALID, Cause.SIGNATURE
    yield "kid as a path", with_header(kid="../../dev/null"), INVALID, Cause.KEY_UNUSABLE
    yield (
        "claims replaced",
        f"{HEAD}.{b64(forge.encode_part(claims(sub='admin')))}.{SIGNATURE}",
        INVALID,
        Cause.SIGNATURE,
    )
    yield "HS256 with the public key, PEM", hmac_with_public_key("pem"), INVALID, Cause.ALGORITHM
    yield "HS256 with the public key, DER", hmac_with_public_key("der"), INVALID, Cause.ALGORITHM
    for shape in ("der", "zero", "order", "r zero", "s zero", "longer", "padded", "shorter", "s plus order"):
        yield f"ECDSA signature {shape}", ec_signature(shape), INVALID, Cause.SIGNATURE
    for size in (0, 1, 255, 257, 512):
        yield f"RSA signature of {size}", replaced_signature(b"\x01" * size), INVALID, Cause.SIGNATURE
    yield "RSA signature beyond the modulus", replaced_signature(b"\xff" * 256), INVALID, Cause.SIGNATURE
    yield "Ed25519 signature zero", replaced_signature(bytes(64), alg="EdDSA", kid="ed"), INVALID, Cause.SIGNATURE
    yield "Ed25519 signature short", replaced_signature(bytes(63), alg="Ed25519", kid="ed"), INVALID, Cause.SIGNATURE

    for value in ("soon", True, [1], {"a": 1}, "1900000000", 2**63):
        yield f"exp is {value}", with_claims(exp=value), INVALID, Cause.CLAIM_TYPE
        yield f"nbf is {value}", with_claims(nbf=value), INVALID, Cause.CLAIM_TYPE
        yield f"iat is {value}", with_claims(iat=value), INVALID, Cause.CLAIM_TYPE
    yield "iat is null", with_claims(iat=None), INVALID, Cause.CLAIM_TYPE
    yield "exp missing", with_claims(exp=...), INVALID, Cause.EXPIRY_MISSING
    yield "exp is null", with_claims(exp=None), INVALID, Cause.EXPIRY_MISSING
    yield "exp negative", with_claims(exp=-1), EXPIRED, Cause.EXPIRED
    yield "exp reached", with_claims(exp=NOW - 30), EXPIRED, Cause.EXPIRED
    yield "nbf ahead", with_claims(nbf=NOW + 30.5), EARLY, Cause.NOT_YET_VALID
    yield "iat ahead", with_claims(iat=NOW + 31), EARLY, Cause.ISSUED_IN_FUTURE
    for value in (5, None, True, {}, {"meta": 1}, [5], ["meta", 5], [["meta"]]):
        yield f"aud is {value}", with_claims(aud=value), INVALID, Cause.CLAIM_TYPE
    for value in ("met", "metaa", "META", "meta/", "meta other", "", [], ["other"], ...):
        yield f"aud is {value!r}", with_claims(aud=value), INVALID, Cause.AUDIENCE
    for value in (5, None, [forge.ISSUER], {"a": 1}, True):
        yield f"iss is {value}", with_claims(iss=value), INVALID, Cause.CLAIM_TYPE
        yield f"sub is {value}", with_claims(sub=value), INVALID, Cause.CLAIM_TYPE
        yield f"jti is {value}", with_claims(jti=value), INVALID, Cause.CLAIM_TYPE
        yield f"azp is {value}", with_claims(azp=value), INVALID, Cause.CLAIM_TYPE
    for value in (forge.ISSUER + "/", forge.ISSUER.upper(), "", ...):
        yield f"iss is {value!r}", with_claims(iss=value), INVALID, Cause.ISSUER
    for value in ({"jkt": "x"}, None, {}, ""):
        yield f"bound to a proof: {value}", with_claims(cnf=value), INVALID, Cause.PROOF_OF_POSSESSION
    for value in ({"http://schemas.openid.net/event/backchannel-logout": {}}, {}, None):
        yield f"a logout or security event: {value}", with_claims(events=value), INVALID, Cause.TOKEN_TYPE
    for value in ("upstream", ["upstream"], None):
        yield f"upstream credential: {value}", with_claims(auth_sidecar=value), INVALID, Cause.UPSTREAM_ONLY


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return value


TABLE = list(hostile())


@pytest.mark.parametrize(("text", "reason", "cause"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE])
def test_hostile_token_is_refused(text: Any, reason: Reason, cause: Cause | None) -> None:
    with pytest.raises(Refused) as refusal:
        judge(text)
    assert refusal.value.reason is reason
    assert cause is None or refusal.value.cause is cause


def test_no_detail_repeats_a_name_or_the_token() -> None:
    """Details go to the log: what was compared, escaped and bounded, and no name, address or part of the token."""
    for _, text, _, _ in TABLE:
        with pytest.raises(Refused) as refusal:
            judge(text)
        detail = refusal.value.detail
        assert "sam" not in detail
        assert not (isinstance(text, str) and len(text) > 40 and text[:40] in detail)
        assert detail.isascii()
        assert detail.isprintable()
        assert len(detail) < 1024


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        (
            {"iss": f"{forge.ISSUER}/"},
            f'iss is "{forge.ISSUER}/"; expected: "{forge.ISSUER}"',
        ),
        ({"aud": ["a", "b"]}, 'aud is "a", "b"; expected: "meta"'),
        ({"aud": "\x1b[31m\u202e" + "x" * 500}, 'aud is "\\u001b[31m\\u202e'),
        ({"aud": [str(number) for number in range(400)]}, '"3", "4" and 395 more; expected'),
        ({"exp": int(forge.NOW) - 90}, "exp was 90 s ago; tolerance"),
        ({"nbf": int(forge.NOW) + 900}, "nbf is 900 s ahead; tolerance"),
        ({"iat": int(forge.NOW) + 900}, "iat is 900 s ahead; tolerance"),
    ],
)
def test_detail_has_both_values_that_were_compared(changed: dict[str, Any], detail: str) -> None:
    with pytest.raises(Refused) as refusal:
        judge(forge.token(forge.claims(**changed)))
    assert detail in refusal.value.detail


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({"alg": "RS512"}, 'alg is "RS512"; allowed: '),
        ({"kid": "k2"}, 'kid is "k2"; '),
    ],
)
def test_detail_has_what_the_header_names(changed: dict[str, Any], detail: str) -> None:
    with pytest.raises(Refused) as refusal:
        judge(forge.token(forge.claims(), forge.header(**changed)))
    assert detail in refusal.value.detail


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD, id="RS256"),
        pytest.param(token(header_=header(alg="ES256", kid="ec"), key=EC, algorithm="ES256"), id="ES256"),
        pytest.param(token(header_=header(alg="EdDSA", kid="ed"), key=ED, algorithm="Ed25519"), id="EdDSA"),
        pytest.param(token(header_=header(alg="Ed25519", kid="ed"), key=ED, algorithm="Ed25519"), id="Ed25519"),
        pytest.param(token(header_=header(kid=...)), id="no kid"),
        pytest.param(token(header_=header(typ=...)), id="no typ"),
        pytest.param(token(header_=header(typ="jwt")), id="typ in small letters"),
        pytest.param(token(header_=header(typ="AT+JWT")), id="access token"),
        pytest.param(token(header_=header(typ="application/at+jwt")), id="access token, in full"),
        pytest.param(token(header_=header(nonce="x", x5t="y", private={"a": [1]})), id="unknown header members"),
        pytest.param(token(header_=header(x5c=["A" * 3000])), id="long header"),
        pytest.param(token(header_=header(jku="https://evil/jwks", jwk=jwk_of_attacker())), id="ignored keys"),
        pytest.param(token(claims(aud=["other", "meta"])), id="one audience of several"),
        pytest.param(token(claims(exp=NOW - 29.5)), id="exp within the skew"),
        pytest.param(token(claims(exp=NOW + 0.5)), id="fraction of a second"),
        pytest.param(token(claims(exp=1e15)), id="exp far away"),
        pytest.param(token(claims(nbf=NOW + 29)), id="nbf within the skew"),
        pytest.param(token(claims(iat=NOW + 29)), id="iat within the skew"),
        pytest.param(token(claims(iat=...)), id="no iat"),
        pytest.param(token(claims(name="J\u00fcrgen \U0001f600")), id="any character"),
        pytest.param(token(claims(a=_nested(MAX_DEPTH - 1))), id="as deep as allowed"),
    ],
)
def test_sound_token_is_accepted(text: str) -> None:
    verified = judge(text)
    assert (verified.issuer, verified.subject) == (forge.ISSUER, "sam")
    assert verified.key in KEYS


@given(st.one_of(st.text(), st.binary().map(b64), st.tuples(*[st.binary()] * 3).map(lambda p: ".".join(map(b64, p)))))
@example("..")
def test_parse_raises_nothing_but_refused(text: str) -> None:
    with suppress(Refused):
        parse(text, 16_384)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("alg", "kid", "typ", "crit", "b64", "cty"), _JSON)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(("iss", "sub", "aud", "exp", "nbf", "iat", "jti"), _JSON)),
)
def test_verification_raises_nothing_but_refused(header_: dict[str, Any], claims_: dict[str, Any]) -> None:
    """True signatures over anything: only the checks of header and claims stand between this and an exception."""
    text = token(json.dumps(claims(**claims_)), json.dumps(header(**header_)))
    with suppress(Refused):
        judge(text)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="ascii"))
def test_no_changed_character_is_accepted(position: int, character: str) -> None:
    changed = GOOD[:position] + character + GOOD[position + 1 :]
    if changed != GOOD:
        with pytest.raises(Refused):
            judge(changed)


def test_signature_covers_the_text_as_received() -> None:
    """RFC 7515 5.2 step 8: white space in the JSON is the issuer's business."""
    spaced = token(json.dumps(claims(), indent=4), json.dumps(header(), indent=2))
    assert judge(spaced).subject == "sam"


@pytest.mark.parametrize("algorithm", ["none", "NONE"])
def test_unsigned_token_is_rejected_before_keys_are_looked_up(algorithm: str) -> None:
    with pytest.raises(Refused) as refusal:
        parse(with_header(alg=algorithm), 16_384)
    assert refusal.value.cause is Cause.ALGORITHM


def test_times_hold_from_and_to_the_very_second() -> None:
    """RFC 7519 4.1.4, 4.1.5: before ``exp``, not before ``nbf``; leeway 30."""
    assert judge(token(claims(nbf=NOW + 30, iat=NOW + 30, exp=NOW - 29.999))).subject == "sam"


def test_size_counts_before_anything_is_read() -> None:
    assert parse(GOOD, len(GOOD)).text == GOOD
    with pytest.raises(Refused) as refusal:
        parse(GOOD, len(GOOD) - 1)
    assert refusal.value.cause is Cause.TOKEN_SIZE


def test_base64_is_decoded_exactly() -> None:
    body = base64.urlsafe_b64decode(BODY + "==")
    assert parse(GOOD, 16_384).claims == json.loads(body)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(_VALUES, st.booleans(), st.binary(max_size=3), st.integers(0, 200))
def test_the_faster_reader_of_json_is_as_strict(value: object, ascii_only: bool, noise: bytes, place: int) -> None:
    """What it does not leave to the slower one is the same value, of the same types, and refused by neither."""
    document = json.dumps(value, separators=(",", ":"), ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for raw in (document, document[:place] + noise + document[place:], document.replace(b'"a"', b'"b"')):
        found = compact._compact_json(raw)
        if found is not None:
            slowly = compact._DECODER.decode(raw.decode())
            assert repr(found) == repr(slowly)


@pytest.mark.parametrize(
    "members", [b'"a":1,"a":1', b'"a":1,"a":2', b'"a":1e400', b'"a":NaN', b'"a":"\\ud800"', b'"a":1' + b"0" * 40]
)
def test_compact_documents_are_refused_as_others_are(members: bytes) -> None:
    with pytest.raises(Refused):
        compact.json_object(b"{" + members + b"}", Cause.ENCODING)
