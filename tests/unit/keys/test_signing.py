"""Our own keys: made with openssl as OpenMetadata documents it, loaded, published, changed without a restart."""

import asyncio
import json
import logging
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from sidecar.config.settings import JwtTokenConfiguration
from sidecar.errors import Misconfigured
from sidecar.keys import signing
from sidecar.keys.signing import SigningKeys
from sidecar.keys.well_known import OPENMETADATA_DEFAULT_KID, WELL_KNOWN_THUMBPRINTS
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import ec_key, ed_key, eventually, rsa_key

PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth", "k"}


def openssl(folder: Path, *lines: str) -> None:
    for line in lines:
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)


def configuration(private: Path, public: Path | None = None, **members: Any) -> JwtTokenConfiguration:
    return JwtTokenConfiguration(
        rsaprivate_key_file_path=str(private),
        rsapublic_key_file_path=str(public or ""),
        jwtissuer="open-metadata.org",
        **members,
    )


def write_key(path: Path, key: RSAKey | ECKey | OKPKey, *, private: bool = True) -> Path:
    path.write_bytes(key.as_pem(private=private))
    return path


def own_keys(folder: Path, key: RSAKey | ECKey | OKPKey, **members: Any) -> SigningKeys:
    return SigningKeys(configuration(write_key(folder / "private.pem", key), **members))


def problem(configured: JwtTokenConfiguration) -> str:
    with pytest.raises(Misconfigured) as caught:
        SigningKeys(configured)
    (found,) = caught.value.problems
    assert found.path.startswith("jwtTokenConfiguration.")
    return found.message


def assert_signs_and_verifies(keys: SigningKeys) -> None:
    """What the signing key signs verifies with the candidate of that name, and with what is published."""
    signer = keys.signing
    token = jws.serialize_compact(
        {"alg": signer.algorithm, "kid": signer.kid}, b"x", signer.key, algorithms=[signer.algorithm]
    )
    (candidate,) = keys.candidates(signer.kid, signer.algorithm)
    published = KeySet.import_key_set(json.loads(keys.public_key_set()[0]))
    for key in (candidate.key, published):
        assert jws.deserialize_compact(token, key, algorithms=[signer.algorithm]).payload == b"x"


# --- one pair


def test_pair_made_as_openmetadata_documents_it(tmp_path: Path) -> None:
    openssl(
        tmp_path,
        "genrsa -out private_key.pem 2048",
        "pkcs8 -topk8 -inform PEM -outform DER -in private_key.pem -out private_key.der -nocrypt",
        "rsa -in private_key.pem -pubout -outform DER -out public_key.der",
    )
    for private in ("private_key.der", "private_key.pem"):
        keys = SigningKeys(configuration(tmp_path / private, tmp_path / "public_key.der", key_id="own"))
        assert (keys.signing.kid, keys.signing.algorithm, keys.issuer) == ("own", "RS256", "open-metadata.org")
        assert_signs_and_verifies(keys)


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        ("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072", "RS256"),
        ("genrsa -traditional 2048", "RS256"),
        ("ecparam -name prime256v1 -genkey -noout", "ES256"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", "ES384"),
        ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521", "ES512"),
        ("genpkey -algorithm ED25519", "Ed25519"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*EdDSA.*")
def test_every_kind_of_key_that_openssl_makes(tmp_path: Path, make: str, algorithm: str) -> None:
    command, *rest = make.split()
    openssl(
        tmp_path,
        " ".join([command, "-out", "private.pem", *rest]),
        "pkey -in private.pem -pubout -out public.pem",
        "pkey -in private.pem -pubout -outform DER -out public.der",
    )
    for public in ("public.pem", "public.der"):
        keys = SigningKeys(configuration(tmp_path / "private.pem", tmp_path / public))
        assert keys.signing.algorithm == algorithm
        assert_signs_and_verifies(keys)


def test_kid_is_the_thumbprint_unless_given(tmp_path: Path) -> None:
    assert own_keys(tmp_path, rsa_key()).signing.kid == rsa_key().thumbprint()
    assert own_keys(tmp_path, rsa_key(), key_id="k").signing.kid == "k"


def test_halves_that_do_not_match_are_refused(tmp_path: Path) -> None:
    private = write_key(tmp_path / "private.pem", rsa_key(0))
    public = write_key(tmp_path / "public.pem", rsa_key(1), private=False)
    assert "not the public half" in problem(configuration(private, public))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("genrsa -out key 1024", "weak"),
        ("genrsa -3 -out key 2048", "weak"),
        ("genrsa -aes128 -passout pass:secret -out key 2048", "encrypted"),
        ("ecparam -name secp256k1 -genkey -noout -out key", "secp256k1"),
        ("genpkey -algorithm X25519 -out key", "cannot sign"),
        ("rand -out key 1000", "no PKCS#8"),
        ("rand -out key 70000", "too large"),
    ],
)
def test_unusable_private_key_is_rejected_with_the_fix(tmp_path: Path, make: str, words: str) -> None:
    openssl(tmp_path, make)
    assert words in problem(configuration(tmp_path / "key"))


def test_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    """Reading it would block the event loop with all requests."""
    os.mkfifo(tmp_path / "key")
    assert "is a pipe" in problem(configuration(tmp_path / "key"))
    os.mkfifo(tmp_path / "keys.yaml")
    assert "is a pipe" in problem(JwtTokenConfiguration(key_dir=str(tmp_path)))


def test_missing_and_public_only_files_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in problem(configuration(tmp_path / "absent"))
    public = write_key(tmp_path / "public.pem", rsa_key(), private=False)
    assert "no PKCS#8 private key" in problem(configuration(public))
    assert "cannot sign" in problem(JwtTokenConfiguration(rsapublic_key_file_path=str(public)))
    private = write_key(tmp_path / "private.pem", rsa_key())
    assert "no X.509 public key" in problem(configuration(private, private))


def test_published_key_and_published_name_are_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "WELL_KNOWN_THUMBPRINTS", {rsa_key(1).thumbprint()})
    published = configuration(write_key(tmp_path / "published.pem", rsa_key(1)))
    named = configuration(write_key(tmp_path / "named.pem", rsa_key(0)), key_id=OPENMETADATA_DEFAULT_KID)
    assert "published" in problem(published)
    assert "published" in problem(named)
    for configured in (published, named):
        assert_signs_and_verifies(SigningKeys(configured, allow_published=True))


def test_openmetadatas_default_key_is_on_the_list() -> None:
    """By the thumbprint of conf/public_key.der."""
    assert "Db0dhKG2UYMwVssQYb4_2XxUSyB2gmaXm-nOhX2Hvug" in WELL_KNOWN_THUMBPRINTS


# --- what is published


@pytest.mark.parametrize("key", [rsa_key(), ec_key("P-256"), ec_key("P-521"), ed_key()])
def test_published_set_is_strict_and_public(tmp_path: Path, key: RSAKey | ECKey | OKPKey) -> None:
    keys = own_keys(tmp_path, key, key_id="k")
    document, etag = keys.public_key_set()
    (entry,) = json.loads(document)["keys"]
    required = {"RSA": {"n", "e"}, "EC": {"crv", "x", "y"}, "OKP": {"crv", "x"}}[entry["kty"]]
    assert entry.keys() == {"kty", "kid", "use", "alg"} | required
    assert PRIVATE_MEMBERS.isdisjoint(entry)
    assert entry["use"] == "sig"
    assert entry["alg"] == keys.signing.algorithm
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", entry[name]) for name in required - {"crv"})
    assert re.fullmatch(r'"[0-9a-f]{32}"', etag)


def test_published_modulus_has_no_leading_zero(tmp_path: Path) -> None:
    (entry,) = json.loads(own_keys(tmp_path, rsa_key()).public_key_set()[0])["keys"]
    assert len(entry["n"]) == 342


def test_own_rsa_key_verifies_every_rs_algorithm_and_no_other(tmp_path: Path) -> None:
    """A server that shares the key may be set to RS384 or RS512."""
    keys = own_keys(tmp_path, rsa_key(), key_id="k")
    assert all(keys.candidates("k", name) for name in ("RS256", "RS384", "RS512"))
    assert not any(keys.candidates("k", name) for name in ("PS256", "ES256", "HS256", "none"))


async def test_unknown_kid_is_definitely_unknown(tmp_path: Path) -> None:
    keys = own_keys(tmp_path, rsa_key(), key_id="k")
    assert await keys.refetch("other", "RS256") == ()


# --- several keys


def write_folder(folder: Path, *entries: tuple[str, str, RSAKey | ECKey | OKPKey]) -> JwtTokenConfiguration:
    """A folder of keys (kid, state, key); those that do not sign with their public half only."""
    folder.mkdir(exist_ok=True)
    lines = ["keys:"]
    for kid, state, key in entries:
        write_key(folder / f"{kid}.pem", key, private=state != "retired")
        since = ", retiredAt: 2026-11-01T00:00:00Z" if state == "retired" else ""
        lines.append(f"  - {{kid: {kid}, state: {state}{since}}}")
    (folder / "keys.yaml").write_text("\n".join(lines))
    return JwtTokenConfiguration(key_dir=str(folder), jwtissuer="own")


def test_first_active_key_signs_and_all_verify(tmp_path: Path) -> None:
    keys = SigningKeys(
        write_folder(
            tmp_path / "keys",
            ("old", "retired", rsa_key(0)),
            ("now", "active", ec_key()),
            ("also", "active", rsa_key(1)),
            ("soon", "next", ed_key()),
        )
    )
    assert keys.signing.kid == "now"
    assert keys.signing_rsa is not None
    assert keys.signing_rsa.kid == "also"
    assert [entry["kid"] for entry in json.loads(keys.public_key_set()[0])["keys"]] == ["old", "now", "also", "soon"]
    assert keys.candidates("old", "RS256")
    assert keys.candidates("soon", "Ed25519")
    assert_signs_and_verifies(keys)


def test_kid_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    keys = SigningKeys(write_folder(tmp_path / "keys", ("2026", "active", rsa_key())))
    assert keys.signing.kid == "2026"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no list"),
        ("keys: 5", "no list"),
        ("keys: [", "not YAML"),
        ("keys: []", "no key is active"),
        ("keys: [5]", "an entry has"),
        ("keys: [{kid: a}]", "an entry has"),
        ("keys: [{kid: a, state: active, other: 1}]", "an entry has"),
        ("keys: [{kid: a, state: sleeping}]", "state of a"),
        ("keys: [{kid: a, state: [active]}]", "state of a"),
        ("keys: [{kid: ../a, state: active}]", "a kid has"),
        ("keys: [{kid: '', state: active}]", "a kid has"),
        ("keys: [{kid: a, state: retired, retiredAt: yesterday}]", "retiredAt of a"),
        ("keys: [{kid: a, state: active}, {kid: a, state: next}]", "twice"),
        ("keys: [{kid: a, state: next}]", "no key is active"),
        ("keys: [{kid: absent, state: active}]", "cannot be read"),
        ("keys: !!python/object/apply:os.system [x]", "not YAML"),
        ("x" * 70_000, "no list"),
    ],
)
def test_bad_list_is_rejected_with_the_fix(tmp_path: Path, text: str, words: str) -> None:
    configured = write_folder(tmp_path / "keys", ("a", "active", rsa_key()))
    (tmp_path / "keys" / "keys.yaml").write_text(text)
    assert words in problem(configured)


def test_missing_list_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in problem(JwtTokenConfiguration(key_dir=str(tmp_path)))


# --- changes without a restart


def test_reload_takes_up_a_rotation_and_keeps_unchanged_keys(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    keys = SigningKeys(write_folder(folder, ("one", "active", rsa_key(0)), ("gone", "retired", rsa_key(2))))
    (one,), (gone,) = keys.candidates("one", "RS256"), keys.candidates("gone", "RS256")
    before = keys.public_key_set()
    write_folder(folder, ("two", "active", rsa_key(1)), ("one", "retired", rsa_key(0)))
    keys.reload()
    assert keys.signing.kid == "two"
    assert keys.candidates("one", "RS256") == (one,)
    assert one.live
    assert not gone.live
    assert keys.public_key_set()[1] != before[1]


def test_failed_reload_keeps_everything(tmp_path: Path) -> None:
    keys = own_keys(tmp_path, rsa_key(), key_id="k")
    before = keys.public_key_set()
    (tmp_path / "private.pem").write_text("rubbish")
    with pytest.raises(Misconfigured):
        keys.reload()
    assert keys.public_key_set() == before
    assert keys.candidates("k", "RS256")[0].live
    assert_signs_and_verifies(keys)


async def test_changed_files_are_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sidecar.keys.signing")
    clock = HandClock()
    keys = own_keys(tmp_path, rsa_key(0))
    await keys.start(clock.wait)
    await asyncio.sleep(0)
    (tmp_path / "private.pem").write_text("rubbish")
    clock.advance(5)
    await eventually(lambda: "unusable" in caplog.text)
    assert keys.signing.kid == rsa_key(0).thumbprint()
    write_key(tmp_path / "new.pem", rsa_key(1))
    os.replace(tmp_path / "new.pem", tmp_path / "private.pem")
    clock.advance(5)
    await eventually(lambda: keys.signing.kid == rsa_key(1).thumbprint())
    await keys.aclose()
