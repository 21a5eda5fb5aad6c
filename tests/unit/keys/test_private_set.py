"""Own keys as one private JWK set."""

import json
import warnings
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sidecar.config.settings import JwtTokenConfiguration
from sidecar.errors import Misconfigured, Unavailable
from sidecar.keys.key_files import KEY_TYPES, KeyFileError, generate
from sidecar.keys.key_folder import ListedKey
from sidecar.keys.private_set import encode_private_set, parse_private_set
from sidecar.keys.signing import SigningKeys, key_thumbprint
from sidecar.secrets.value import Secret

NOW = datetime(2026, 11, 1, tzinfo=UTC)
EC: dict[str, Any] = {**ECKey.generate_key("P-256").as_dict(private=True), "kid": "a"}
MARK = EC["d"]
with warnings.catch_warnings(action="ignore"):
    WEAK: dict[str, Any] = RSAKey.generate_key(1024).as_dict(private=True)


def written(*keys: dict[str, Any]) -> str:
    """A key set."""
    return json.dumps({"keys": keys})


def test_what_is_written_is_read_again() -> None:
    """Every type of key, state and time; a retired key may have its public half only."""
    private = [generate(kind) for kind in KEY_TYPES]
    keys = [
        ListedKey("one", "active", private[0].public_key(), private[0]),
        ListedKey("two", "next", private[1].public_key(), private[1], since=NOW),
        ListedKey("three", "retired", private[2].public_key(), None, retired_at=NOW),
    ]
    found = parse_private_set(encode_private_set(keys)).keys
    assert [(key.kid, key.state, key.since, key.retired_at) for key in found] == [
        (key.kid, key.state, key.since, key.retired_at) for key in keys
    ]
    assert [key_thumbprint(key.public) for key in found] == [key_thumbprint(key.public) for key in keys]
    assert [key.private is None for key in found] == [False, False, True]
    assert '"d"' not in json.dumps(json.loads(encode_private_set(keys))["keys"][2])


def test_a_key_without_a_state_signs() -> None:
    """A JWK set of any other program."""
    (key,) = parse_private_set(written({name: value for name, value in EC.items() if name != "state"})).keys
    assert key.state == "active"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ("\ud800", "is not a JSON object"),
        ("[" * 100_000, "is not a JSON object"),
        ("{}", "has no list of keys"),
        ('{"keys": 1}', "has no list of keys"),
        ('{"keys": [], "removed": 1}', "removed is not a list of key ids"),
        ('{"keys": [], "disabled": 1}', "disabled is neither true nor false"),
        ('{"keys": [1]}', "is not an object with distinct members"),
        (written({**EC, "kid": ""}), "a kid has"),
        (written({**EC, "kid": "../x"}), "a kid has"),
        (written({**EC, "kid": 1}), "a kid has"),
        (written({**EC, "state": "old"}), "the state of a is not one of active, next, retired"),
        (written({**EC, "kty": "XYZ"}), "is not an RSA, EC or Ed25519 key"),
        (written({"kty": "oct", "k": "QUFBQUFBQUFBQUFBQUFBQQ", "kid": "a"}), "is not an RSA, EC or Ed25519 key"),
        (written({**OKPKey.generate_key("X25519").as_dict(private=True), "kid": "a"}), "is not an RSA, EC or Ed25519"),
        (written({**EC, "x": "AAAA"}), "a is not a valid key"),
        (written({name: value for name, value in EC.items() if name != "x"}), "a is not a valid key"),
        (written({name: value for name, value in EC.items() if name != "d"}), "is active but has no private members"),
        (written({**WEAK, "kid": "a"}), "is too weak"),
        (written(EC, EC), "has a kid twice"),
        (written({**EC, "since": "yesterday"}), "since is not a time"),
    ],
)  # fmt: skip
def test_what_is_no_key_set(text: str, message: str) -> None:
    """One sentence, without anything of a key."""
    with pytest.raises(KeyFileError, match=message) as caught:
        parse_private_set(text)
    assert MARK not in str(caught.value)


def test_signing_keys_come_from_the_secret() -> None:
    """The first active key signs, all verify, and the published set has public members only."""
    other = {**ECKey.generate_key("P-256").as_dict(private=True), "kid": "b", "state": "next"}
    secret = Secret(written(EC, other))
    keys = SigningKeys(JwtTokenConfiguration(key_secret=secret, jwtissuer="ours"))
    assert keys.signing.kid == "a"
    published = json.loads(keys.public_key_set()[0])["keys"]
    assert [key["kid"] for key in published] == ["a", "b"]
    assert not any("d" in key for key in published)
    with pytest.raises(Misconfigured, match=r"jwtTokenConfiguration\.keySecret: no key is active"):
        SigningKeys(JwtTokenConfiguration(key_secret=Secret(written(other)), jwtissuer="ours"))


def of(text: str, earlier: SigningKeys | None = None) -> SigningKeys:
    """Own keys, after ``earlier`` in the same process."""
    configuration = JwtTokenConfiguration(key_secret=Secret(text), jwtissuer="ours")
    return SigningKeys(configuration) if earlier is None else SigningKeys(configuration, earlier=earlier.published)


def kids(keys: SigningKeys) -> list[str]:
    """The published keys."""
    return [key["kid"] for key in json.loads(keys.public_key_set()[0])["keys"]]


def test_a_key_that_disappears_stays_published_and_does_not_sign() -> None:
    """An older set over a newer one invalidates no token; a key that was removed on purpose is gone."""
    new = {**ECKey.generate_key("P-256").as_dict(private=True), "kid": "new"}
    before = of(written(new, EC))
    assert before.signing.kid == "new"
    after = of(written(EC), before)
    assert (after.signing.kid, kids(after)) == ("a", ["a", "new"])
    assert after.candidates("new", "ES256")
    assert kids(of(written(EC), after)) == ["a", "new"]
    removed = of(json.dumps({"keys": [EC], "removed": ["new"]}), after)
    assert kids(removed) == ["a"]
    assert not removed.candidates("new", "ES256")


def test_a_disabled_set_verifies_and_does_not_sign() -> None:
    """Minting is unavailable."""
    keys = of(json.dumps({"keys": [EC], "disabled": True}))
    assert kids(keys) == ["a"]
    assert keys.candidates("a", "ES256")
    with pytest.raises(Unavailable, match="keys_unavailable"):
        _ = keys.signing
    assert keys.signing_rsa is None
