"""RSA public keys whose private key can be computed, or that are too small to be safe.

Only the public numbers are examined. Each test takes well below a millisecond for a 2048-bit modulus.
"""

from math import gcd, isqrt, prod

_MIN_BITS = 2048
_MAX_BITS = 8192
_MAX_EXPONENT_BITS = 32
_ROCA_GENERATOR = 65537
_CLOSE_ROUNDS = 100


def rsa_weakness(modulus: int, exponent: int) -> str:
    """Why the key is unsafe, as the end of a sentence that begins with it; empty: no known weakness.

    Accepted are moduli of 2048 to 8192 bits and odd exponents from 65537 to 32 bits (RFC 7518 3.3), except moduli with
    a small factor, of two close primes, or of the ROCA form.
    """
    if not _MIN_BITS <= modulus.bit_length() <= _MAX_BITS:
        return f"has {modulus.bit_length()} bits; use RSA of {_MIN_BITS} to {_MAX_BITS} bits"
    if exponent < 65537 or exponent % 2 == 0 or exponent.bit_length() > _MAX_EXPONENT_BITS:
        return "has an unsafe exponent; use 65537"
    if gcd(modulus, _SMALL_FACTORS) > 1:
        return "has a small factor, so anyone can compute the private key; generate a new key"
    if _is_roca(modulus):
        return "has the ROCA weakness (CVE-2017-15361): its private key can be computed; generate a new key"
    if _has_close_primes(modulus):
        return "is the product of two primes that lie close together, so anyone can compute them; generate a new key"
    return ""


def _primes_below(bound: int) -> tuple[int, ...]:
    return tuple(n for n in range(2, bound) if all(n % d for d in range(2, isqrt(n) + 1)))


_SMALL_FACTORS = prod(_primes_below(2000))
# The odd primes among the first 39, which are used for weak keys of every length.
_ROCA_PRIMES = _primes_below(168)[1:]
_ROCA_PRODUCT = prod(_ROCA_PRIMES)


def _powers(prime: int) -> frozenset[int]:
    """All powers of the generator modulo ``prime``."""
    found = [1]
    while (power := found[-1] * _ROCA_GENERATOR % prime) != 1:
        found.append(power)
    return frozenset(found)


_ROCA_POWERS = tuple((prime, _powers(prime)) for prime in _ROCA_PRIMES)


def _is_roca(modulus: int) -> bool:
    """Whether ``modulus`` has the fingerprint of the flawed generator in Infineon's library.

    Nemec, Sys, Svenda, Klinec, Matyas: "The Return of Coppersmith's Attack", 2017. That generator makes primes
    k * M + (65537^a mod M), M the product of the first primes. So both primes, and their product, are powers of 65537
    modulo each of these. Fewer than one in a hundred million other moduli match by chance.
    """
    rest = modulus % _ROCA_PRODUCT
    return all(rest % prime in powers for prime, powers in _ROCA_POWERS)


def _has_close_primes(modulus: int) -> bool:
    """Whether Fermat's method finds the two factors in a few rounds (CVE-2022-26320); equal ones at once."""
    middle = isqrt(modulus)
    if middle * middle == modulus:
        return True
    for root in range(middle + 1, middle + 1 + _CLOSE_ROUNDS):
        square = root * root - modulus
        # a square ends in 0, 1, 4 or 9 in base 16: spares most roots
        if square & 15 in {0, 1, 4, 9} and isqrt(square) ** 2 == square:
            return True
    return False
