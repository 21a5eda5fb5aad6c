"""The form of a token, checked before anything is believed or looked up (RFC 7515 5.2, 7.1; RFC 7519 7.2).

JSON libraries and JOSE libraries are both more generous than the standards: they take the last of two members, skip
junk in base64, guess UTF-16, overflow to infinity. Whatever two readers could read differently is refused here.
"""

import json
import re
from binascii import a2b_base64
from typing import Any, Never

from sidecar.errors import Cause, Reason, Refused

MAX_DEPTH = 32
_MAX_INTEGER_DIGITS = 40

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)", re.ASCII)
_URLSAFE = bytes.maketrans(b"-_", b"+/")
# By length modulo 4: the padding to add, and the last characters whose unused bits are zero (RFC 4648 3.5).
_PADDING = {0: b"", 2: b"==", 3: b"="}
_CANONICAL_END = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}
# Whose type is another kind of token (logout, security event, proof, assertion) is not an access token (RFC 8725 3.11).
_TYPES = frozenset({"jwt", "at+jwt"})


class Unverified:
    """A token whose form is sound. Nothing in it is to be believed: it only says whose keys to try."""

    __slots__ = ("algorithm", "claims", "header", "issuer", "kid", "segments", "text")

    def __init__(
        self, text: str, segments: tuple[str, str, str], header: dict[str, Any], claims: dict[str, Any]
    ) -> None:
        self.text = text
        self.segments = segments
        self.header = header
        self.claims = claims
        self.algorithm: str = header["alg"]
        self.kid: str | None = header.get("kid")
        self.issuer: str | None = claims.get("iss")

    @property
    def signing_input(self) -> bytes:
        """The octets that the signature covers, exactly as received."""
        return f"{self.segments[0]}.{self.segments[1]}".encode("ascii")


def parse(token: str, max_bytes: int) -> Unverified:
    """Read a compact JWS that holds a JWT.

    Raises Refused: ``token_malformed`` for what cannot be read as one, ``token_invalid`` for what can but says
    something that is never accepted (``none``, ``crit``, ``b64``, a type of other tokens, ``iss`` that is no text).
    """
    segments = split(token, max_bytes)
    header = json_object(decode_segment(segments[0]), Cause.HEADER)
    _check_header_types(header)
    claims = json_object(decode_segment(segments[1]), Cause.ENCODING)
    decode_segment(segments[2])
    _check_header_demands(header)
    if "iss" in claims and not isinstance(claims["iss"], str):
        raise Refused(Reason.TOKEN_INVALID, Cause.CLAIM_TYPE, "iss is not a string")
    return Unverified(token, segments, header, claims)


def split(token: str, max_bytes: int) -> tuple[str, str, str]:
    """The three parts of a compact JWS of at most ``max_bytes``. Raises Refused(TOKEN_MALFORMED)."""
    if not isinstance(token, str):
        raise _malformed(Cause.ENCODING, "not text")
    if len(token) > max_bytes:
        raise _malformed(Cause.TOKEN_SIZE, f"longer than {max_bytes} bytes")
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise _malformed(Cause.NOT_A_JWT, "not three base64url parts joined by dots")
    return match[1], match[2], match[3]


def decode_segment(segment: str) -> bytes:
    """Octets of one base64url part: no padding, no spare bits. Raises Refused(TOKEN_MALFORMED)."""
    spare = len(segment) % 4
    if spare == 1 or (spare and segment[-1] not in _CANONICAL_END[spare]):
        raise _malformed(Cause.ENCODING, "not canonical base64url")
    return a2b_base64(segment.encode("ascii").translate(_URLSAFE) + _PADDING[spare])


def json_object(document: bytes, cause: Cause) -> dict[str, Any]:
    """One JSON object in UTF-8: no repeated member, only finite numbers, bounded depth.

    Raises Refused(TOKEN_MALFORMED, ``cause``).
    """
    try:
        value = strict_json(document)
    except ValueError as error:
        raise _malformed(cause, "not one strict JSON object in UTF-8") from error
    if not isinstance(value, dict):
        raise _malformed(cause, "not a JSON object")
    return value


def strict_json(document: bytes) -> object:
    """One JSON value, as strict as :func:`json_object`. Raises ValueError."""
    text = document.decode("utf-8")
    try:
        value: object = _DECODER.decode(text)
        if text.count("{") + text.count("[") > MAX_DEPTH:
            _check_depth(value, MAX_DEPTH)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if "\\u" in text:
        # A lone surrogate is no character: it would break every later encoding.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _check_header_types(header: dict[str, Any]) -> None:
    if not isinstance(header.get("alg"), str):
        raise _malformed(Cause.HEADER, "alg is not a string")
    for name in ("kid", "typ", "cty"):
        if name in header and not isinstance(header[name], str):
            raise _malformed(Cause.HEADER, f"{name} is not a string")


def _check_header_demands(header: dict[str, Any]) -> None:
    if header["alg"].lower() == "none":
        raise Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM, "unsigned")
    if "crit" in header or "b64" in header:
        raise Refused(Reason.TOKEN_INVALID, Cause.CRITICAL_HEADER, "crit and b64 are not supported")
    if _media_type(header.get("typ", "JWT")) not in _TYPES or _media_type(header.get("cty", "")) == "jwt":
        raise Refused(Reason.TOKEN_INVALID, Cause.TOKEN_TYPE, "a type of other tokens")


def _media_type(value: str) -> str:
    """RFC 7515 4.1.9: compared without case, and a value without ``/`` stands for ``application/`` plus value."""
    return value.lower().removeprefix("application/")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated member")
    return members


def _integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_DIGITS:
        raise ValueError("number too long")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return number


def _no_constant(_name: str) -> Never:
    raise ValueError("NaN and Infinity are not JSON")


def _check_depth(value: object, left: int) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise ValueError("too deep")
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, left - 1)


def _malformed(cause: Cause, detail: str) -> Refused:
    return Refused(Reason.TOKEN_MALFORMED, cause, detail)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_finite, parse_constant=_no_constant
)
