"""RSA keys whose private half can be computed are used nowhere: key sets, own keys, key files."""

import random
from itertools import count
from math import prod
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from joserfc.jwk import RSAKey

from sidecar.config.settings import JwtTokenConfiguration
from sidecar.errors import Misconfigured
from sidecar.keys.key_files import KeyFileError, encode_private_key, read_private_key, read_public_key
from sidecar.keys.keyset import key_set_from_document
from sidecar.keys.signing import SigningKeys
from sidecar.keys.weak_rsa import rsa_weakness
from tests.support.jwks_server import jwk, rsa_key

Primes = tuple[int, int]


def is_prime(number: int) -> bool:
    """By Fermat's test: no proof, and none is needed of a random number."""
    return all(pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7))


def private_key(primes: Primes) -> rsa.RSAPrivateKey:
    p, q = primes
    modulus, exponent = p * q, pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, modulus)
    numbers = rsa.RSAPrivateNumbers(p, q, exponent, exponent % (p - 1), exponent % (q - 1), pow(q, -1, p), public)
    return numbers.private_key()


def flawed_prime(chance: random.Random) -> int:
    """A prime of 1024 bits as the flawed generator makes them: k * M + (65537^a mod M)."""
    first = [n for n in range(2, 702) if all(n % d for d in range(2, n))]
    assert len(first) == 126
    product = prod(first)
    least, most = (3 << 1022) // product + 1, (1 << 1024) // product - 1
    while True:
        found = chance.randrange(least, most) * product + pow(65537, chance.randrange(1 << 64), product)
        if is_prime(found):
            return found


@pytest.fixture(scope="module")
def roca() -> rsa.RSAPrivateKey:
    chance = random.Random(2017)
    return private_key((flawed_prime(chance), flawed_prime(chance)))


@pytest.fixture(scope="module")
def close() -> rsa.RSAPrivateKey:
    """Two neighbours among the primes."""
    start = random.Random(2022).getrandbits(1024) | 3 << 1022 | 1
    primes = (number for number in count(start, 2) if is_prime(number))
    return private_key((next(primes), next(primes)))


def numbers(key: rsa.RSAPrivateKey | None) -> tuple[int, int]:
    assert key is not None
    public = key.public_key().public_numbers()
    return public.n, public.e


def test_flawed_generator_is_recognised(roca: rsa.RSAPrivateKey) -> None:
    assert "CVE-2017-15361" in rsa_weakness(*numbers(roca))


def test_close_and_equal_primes_are_recognised(close: rsa.RSAPrivateKey) -> None:
    assert "close together" in rsa_weakness(*numbers(close))
    assert "close together" in rsa_weakness((2**1279 - 1) ** 2, 65537)


@pytest.mark.parametrize("factor", [3, 65537 % 1999, 1999])
def test_small_factors_are_recognised(factor: int) -> None:
    modulus, _ = numbers(rsa_key().private_key)
    assert "small factor" in rsa_weakness(modulus * (factor | 1), 65537)


def test_sound_keys_have_no_weakness() -> None:
    assert [rsa_weakness(*numbers(rsa_key(number).private_key)) for number in range(3)] == ["", "", ""]


def test_sizes_and_exponents_are_named() -> None:
    modulus, _ = numbers(rsa_key().private_key)
    assert "has 2047 bits" in rsa_weakness(modulus >> 1, 65537)
    assert "exponent" in rsa_weakness(modulus, 3)


@pytest.mark.parametrize("kind", ["roca", "close"])
def test_weak_key_is_used_nowhere(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Not in a key set, not as a signing key, not as a public half alone; the message has the file and the weakness."""
    key: rsa.RSAPrivateKey = request.getfixturevalue(kind)
    parsed = key_set_from_document({"keys": [jwk(RSAKey.import_key(key), "weak"), jwk(rsa_key(), "good")]})
    assert [found.kid for found in parsed.keys] == ["good"]
    assert parsed.skipped == {"weak": 1}
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(encode_private_key(key))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, spki))
    with pytest.raises(KeyFileError, match=r"private\.pem is too weak: the key .*generate a new key"):
        read_private_key(private)
    with pytest.raises(KeyFileError, match=r"public\.pem is too weak"):
        read_public_key(public)
    names = {"rsaprivateKeyFilePath": str(private), "rsapublicKeyFilePath": str(public), "jwtissuer": "me"}
    with pytest.raises(Misconfigured, match="too weak"):
        SigningKeys(JwtTokenConfiguration.model_validate(names))


def test_public_point_of_small_order_is_no_key_file(tmp_path: Path) -> None:
    """Signatures that verify for many messages can be made for it without a private key."""
    path = tmp_path / "public.pem"
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes(32))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_bytes(serialization.Encoding.PEM, spki))
    with pytest.raises(KeyFileError, match="too weak"):
        read_public_key(path)
