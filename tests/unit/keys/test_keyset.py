"""Which keys of a set are used, for what, and which entries are passed over."""

import base64
import contextlib
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from sidecar.keys import keyset
from sidecar.keys.document import DocumentError, parse_object
from sidecar.keys.keyset import (
    MAX_CANDIDATES,
    MAX_KEYS,
    RSA_ALGORITHMS,
    KeyIndex,
    VerificationKey,
    is_sound_ed25519,
    parse_key_set,
    public_jwk,
    update_keys,
)
from sidecar.keys.weak_rsa import rsa_weakness
from tests.support.certificates import certificate
from tests.support.jwks_server import ec_key, ed_key, jwk, rsa_key


def parse(*entries: Any) -> keyset.ParsedKeys:
    return parse_key_set(json.dumps({"keys": entries}).encode())


def only(*entries: Any) -> VerificationKey:
    (key,) = parse(*entries).keys
    return key


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def rsa_entry(bits: int, exponent: int) -> dict[str, Any]:
    """An entry of this size that was never a real key."""
    modulus = (1 << (bits - 1)) | 1
    return {
        "kty": "RSA",
        "n": encode(modulus.to_bytes((bits + 7) // 8)),
        "e": encode(exponent.to_bytes((exponent.bit_length() + 7) // 8 or 1)),
    }


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (rsa_key(), RSA_ALGORITHMS),
        (ec_key("P-256"), {"ES256"}),
        (ec_key("P-384"), {"ES384"}),
        (ec_key("P-521"), {"ES512"}),
        (ed_key(), {"EdDSA", "Ed25519"}),
    ],
)
def test_key_without_alg_serves_its_family(key: RSAKey | ECKey | OKPKey, algorithms: set[str]) -> None:
    found = only(jwk(key, "a"))
    assert (found.kid, found.algorithms, found.live) == ("a", frozenset(algorithms), True)
    assert found.fingerprint == key.thumbprint()


def test_alg_is_the_only_algorithm_of_its_key() -> None:
    assert only(jwk(rsa_key(), alg="PS384")).algorithms == {"PS384"}
    assert only(jwk(ed_key(), alg="Ed25519")).algorithms == {"EdDSA", "Ed25519"}
    assert only(jwk(ed_key(), alg="EdDSA")).algorithms == {"EdDSA", "Ed25519"}


def test_nothing_but_the_numbers_of_an_entry_goes_on() -> None:
    found = only(jwk(rsa_key(), "a", x5u="https://evil.example", jku="x", nonce=1))
    assert found.key.as_dict().keys() == {"kty", "n", "e"}


SKIPPED = {
    "empty object": ({}, "type"),
    "nulls": ({"kty": None, "n": None, "e": None}, "type"),
    "no object": (5, "malformed"),
    "list": ([], "malformed"),
    "unknown kty": ({"kty": "AKP", "pub": "AA"}, "type"),
    "kty in lower case": (jwk(rsa_key()) | {"kty": "rsa"}, "type"),
    "kty a list": ({"kty": ["RSA"]}, "type"),
    "symmetric": (OctKey.generate_key(256).as_dict(), "symmetric"),
    "private RSA": (rsa_key().as_dict(private=True), "private"),
    "private EC": (ec_key().as_dict(private=True), "private"),
    "private Ed25519": (ed_key().as_dict(private=True), "private"),
    "use enc": (jwk(rsa_key(), use="enc"), "use"),
    "use a list": (jwk(rsa_key(), use=["sig"]), "use"),
    "key_ops without verify": (jwk(rsa_key(), key_ops=["encrypt"]), "use"),
    "key_ops a string": (jwk(rsa_key(), key_ops="verify"), "use"),
    "kid a number": (jwk(rsa_key(), kid=5), "kid"),  # type: ignore[arg-type]
    "kid overlong": (jwk(rsa_key(), kid="k" * 513), "kid"),
    "alg of encryption": (jwk(rsa_key(), alg="RSA-OAEP"), "algorithm"),
    "alg of another family": (jwk(rsa_key(), alg="ES256"), "algorithm"),
    "alg of another curve": (jwk(ec_key("P-256"), alg="ES384"), "algorithm"),
    "alg HMAC": (jwk(rsa_key(), alg="HS256"), "algorithm"),
    "alg none": (jwk(rsa_key(), alg="none"), "algorithm"),
    "alg a list": (jwk(rsa_key(), alg=["RS256"]), "algorithm"),
    "RSA 512": (rsa_entry(512, 65537), "weak"),
    "RSA 1024": (rsa_entry(1024, 65537), "weak"),
    "RSA 2047": (rsa_entry(2047, 65537), "weak"),
    "RSA 8200": (rsa_entry(8200, 65537), "weak"),
    "RSA exponent 1": (rsa_entry(2048, 1), "weak"),
    "RSA exponent 3": (rsa_entry(2048, 3), "weak"),
    "RSA exponent even": (rsa_entry(2048, 65538), "weak"),
    "RSA exponent huge": (rsa_entry(2048, (1 << 64) + 1), "weak"),
    "RSA modulus even": (
        {"kty": "RSA", "e": "AQAB", "n": encode((1 << 2047).to_bytes(256))},
        "weak",
    ),
    "RSA without n": ({"kty": "RSA", "e": "AQAB"}, "malformed"),
    "RSA n a number": ({"kty": "RSA", "e": "AQAB", "n": 5}, "malformed"),
    "RSA n with spaces": (jwk(rsa_key()) | {"n": "AQ AB"}, "malformed"),
    "RSA n with a sign inside": (jwk(rsa_key()) | {"n": "AQ=AB"}, "malformed"),
    "EC unknown curve": (jwk(ec_key()) | {"crv": "secp256k1"}, "curve"),
    "EC curve a list": (jwk(ec_key()) | {"crv": ["P-256"]}, "curve"),
    "EC other curve's point": (jwk(ec_key("P-256")) | {"crv": "P-384"}, "malformed"),
    "EC off the curve": (jwk(ec_key()) | {"x": jwk(ec_key(number=1))["x"]}, "curve"),
    "EC short coordinate": (jwk(ec_key()) | {"x": encode(b"\1" * 31)}, "malformed"),
    "EC infinity": (jwk(ec_key()) | {"x": encode(bytes(32)), "y": encode(bytes(32))}, "curve"),
    "X25519": ({"kty": "OKP", "crv": "X25519", "x": encode(b"\1" * 32)}, "curve"),
    "Ed448": ({"kty": "OKP", "crv": "Ed448", "x": encode(b"\1" * 57)}, "curve"),
    "Ed25519 short": ({"kty": "OKP", "crv": "Ed25519", "x": encode(b"\1" * 31)}, "malformed"),
    "Ed25519 small order": ({"kty": "OKP", "crv": "Ed25519", "x": encode(bytes(32))}, "weak"),
}


@pytest.mark.parametrize(("entry", "word"), SKIPPED.values(), ids=SKIPPED.keys())
def test_bad_entry_is_counted_and_takes_no_other_with_it(entry: Any, word: str) -> None:
    parsed = parse(entry, jwk(rsa_key(), "good"))
    assert [key.kid for key in parsed.keys] == ["good"]
    assert parsed.skipped == {word: 1}


def test_openmetadata_padded_modulus_is_the_same_key() -> None:
    """Java's signed bytes: a leading zero byte, and ``=`` at the end."""
    modulus = rsa_key().public_key.public_numbers().n
    padded = base64.urlsafe_b64encode(b"\0" + modulus.to_bytes(256)).decode()
    assert padded.startswith("A")
    assert padded.endswith("=")
    found = only(jwk(rsa_key(), "om", alg="RS256", use="sig") | {"n": padded})
    assert found.fingerprint == rsa_key().thumbprint()


def test_numbers_in_standard_base64_are_the_same_key() -> None:
    """``+``, ``/`` and padding in ``n`` and ``e``, as some gateways publish them."""
    key = next(key for key in map(rsa_key, count()) if set("-_") & set(jwk(key)["n"]))
    modulus = base64.b64encode(key.public_key.public_numbers().n.to_bytes(256)).decode()
    assert set("+/") & set(modulus)
    found = only(jwk(key, "a") | {"n": modulus, "e": base64.b64encode(b"\0\1\0\1").decode()})
    assert found.fingerprint == key.thumbprint()


def test_byte_order_mark_is_skipped() -> None:
    """RFC 8259 section 8.1."""
    document = b"\xef\xbb\xbf" + json.dumps({"keys": [jwk(rsa_key(), "a")]}).encode()
    assert [key.kid for key in parse_key_set(document).keys] == ["a"]


def test_duplicate_kids_are_all_candidates() -> None:
    keys = parse(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "a"), jwk(ec_key(), "a")).keys
    index = KeyIndex(keys)
    assert index.find("a", "RS256") == keys[:2]
    assert index.find("a", "ES256") == keys[2:]


def test_repeated_entry_is_one_key() -> None:
    assert len(parse(jwk(rsa_key(), "a"), jwk(rsa_key(), "a")).keys) == 1


def test_certificate_of_another_key_makes_an_entry_useless() -> None:
    pem, _ = certificate()
    other = "".join(pem.decode().splitlines()[1:-1])
    parsed = parse(jwk(ec_key(), "a", x5c=[other]), jwk(ec_key(), "b", x5c=["?"]), jwk(ec_key(), "c", x5c="?"))
    assert [key.kid for key in parsed.keys] == ["b", "c"]
    assert parsed.skipped == {"certificate": 1}


def test_published_key_is_passed_over_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyset, "WELL_KNOWN_THUMBPRINTS", {rsa_key().thumbprint()})
    document = json.dumps({"keys": [jwk(rsa_key(), "a")]}).encode()
    assert parse_key_set(document).skipped == {"published": 1}
    assert len(parse_key_set(document, allow_published=True).keys) == 1


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"keys"',
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b'{"keys": []} x',
        b'{"keys": [NaN]}',
        b'{"keys": [], "keys": []}',
        b'\xef\xbb\xbf\xef\xbb\xbf{"keys": []}',
        '{"keys": []}'.encode("utf-16"),
        b'{"keys": ["\xff"]}',
        b'{"keys": ' + b"[" * 100_000,
        b'{"keys": [' + b"9" * 5000 + b"]}",
        json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(),
    ],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_key_set(document)
    assert caught.value.kind in ("not_json", "useless")


def test_entry_with_a_repeated_member_is_lost_alone() -> None:
    good = json.dumps(jwk(rsa_key(), "good"))
    parsed = parse_key_set(f'{{"keys": [{{"kty": "RSA", "kty": "oct"}}, {good}]}}'.encode())
    assert [key.kid for key in parsed.keys] == ["good"]


def test_set_without_keys_is_a_set() -> None:
    assert parse().keys == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)
MEMBERS = ("kty", "kid", "use", "alg", "key_ops", "x5c", "n", "e", "crv", "x", "y")
TEXTS = st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "", "=", "AA", jwk(rsa_key())["n"]])


@given(st.lists(st.dictionaries(st.sampled_from(MEMBERS), TEXTS | JSON) | JSON, max_size=5))
def test_no_entry_breaks_the_reader(entries: list[Any]) -> None:
    parsed = parse(*entries)
    assert len(parsed.keys) + parsed.skipped.total() <= len(entries)


@given(st.binary(max_size=200))
def test_reading_raises_nothing_but_its_own_error(document: bytes) -> None:
    with contextlib.suppress(DocumentError):
        parse_object(document)


def test_ed25519_points_of_small_order_and_outside_the_curve_are_unsound() -> None:
    prime = 2**255 - 19
    eighth = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
    for y in (0, 1, prime - 1, prime, prime + 1, eighth, prime - eighth):
        for sign in (0, 1 << 255):
            assert not is_sound_ed25519((y | sign).to_bytes(32, "little"))
    assert not is_sound_ed25519((2).to_bytes(32, "little"))
    assert not is_sound_ed25519(b"\xff" * 32)


@given(st.integers(min_value=0, max_value=5))
def test_real_ed25519_keys_are_sound(number: int) -> None:
    x = ed_key(number).as_dict(private=False)["x"]
    assert isinstance(x, str)
    assert is_sound_ed25519(base64.urlsafe_b64decode(x + "="))


def test_unchanged_key_stays_the_same_object_and_a_withdrawn_one_dies() -> None:
    first = parse(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "b")).keys
    second = update_keys(first, parse(jwk(rsa_key(0), "a"), jwk(rsa_key(2), "c")).keys)
    assert second[0] is first[0]
    assert [key.live for key in (*first, *second)] == [True, False, True, True]


@pytest.mark.parametrize("changed", [jwk(rsa_key(), "b"), jwk(rsa_key(), "a", alg="RS256"), jwk(rsa_key(1), "a")])
def test_any_change_makes_another_key(changed: dict[str, Any]) -> None:
    (old,) = parse(jwk(rsa_key(), "a")).keys
    (new,) = update_keys([old], parse(changed).keys)
    assert new is not old
    assert not old.live


def test_kid_is_exact_and_absent_kid_means_all_of_the_algorithm() -> None:
    keys = parse(jwk(rsa_key(0), "a"), jwk(rsa_key(1), "b", alg="RS256"), jwk(ec_key(), "c")).keys
    index = KeyIndex(keys)
    assert index.find("a", "PS256") == keys[:1]
    assert index.find("b", "PS256") == index.find("A", "RS256") == index.find("", "RS256") == ()
    assert index.find(None, "RS256") == keys[:2]


def test_set_that_names_no_kid_offers_its_keys_for_every_kid() -> None:
    nameless, named = parse(jwk(rsa_key(0))).keys, parse(jwk(rsa_key(1), "b"), jwk(rsa_key(2))).keys
    index = KeyIndex(nameless, named)
    assert index.find("x", "RS256") == nameless
    assert index.find("b", "RS256") == named[:1]


def test_token_without_kid_costs_a_bounded_number_of_attempts() -> None:
    key = only(jwk(rsa_key()))
    keys = [VerificationKey(str(number), key.algorithms, key.key) for number in range(100)]
    assert len(KeyIndex(keys).find(None, "RS256")) == MAX_CANDIDATES


def test_public_members_are_all_that_is_ever_written() -> None:
    key = VerificationKey("a", frozenset({"RS256"}), rsa_key())
    assert public_jwk(key).keys() == {"kty", "n", "e", "kid", "use", "alg"}
    assert parse(public_jwk(key)).keys[0].identity == key.identity


def test_largest_rsa_key_is_read() -> None:
    modulus = next(n for n in count(2**8191 + 1, 2) if not rsa_weakness(n, 65537))
    entry = {"kty": "RSA", "n": encode(modulus.to_bytes(1024)), "e": "AQAB"}
    assert len(parse(entry).keys) == 1
