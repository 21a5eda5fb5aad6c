"""The form of a token, checked before anything is believed or looked up (RFC 7515 5.2, 7.1; RFC 7519 7.2).

JSON libraries and JOSE libraries are both more generous than the standards: they take the last of two members, skip
junk in base64, guess UTF-16, overflow to infinity. Whatever two readers could read differently is refused here.
"""

import json
import re
from binascii import a2b_base64
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Never

import orjson

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
    """A token whose form is sound. Nothing in it is to be believed: it only says whose keys to try.

    ``signing_input`` are the octets that ``signature`` covers, exactly as received.
    """

    __slots__ = ("algorithm", "claims", "header", "issuer", "kid", "signature", "signing_input", "text")

    def __init__(self, text: str, header: "_Header", claims: dict[str, Any], signature: bytes) -> None:
        self.text = text
        self.header = header.members
        self.claims = claims
        self.signature = signature
        self.signing_input = text[: text.rindex(".")].encode("ascii")
        self.algorithm = header.algorithm
        self.kid = header.kid
        self.issuer: str | None = claims.get("iss")

    @property
    def digest(self) -> str:
        """SHA-256 of the signing input in lower-case hex: identifies a token without ``jti`` in the revocation list."""
        return sha256(self.signing_input).hexdigest()


class _Header:
    """What a header says, shared by all tokens that have it. ``refused``: nothing under it is accepted."""

    __slots__ = ("algorithm", "kid", "members", "rejected")

    def __init__(self, members: Mapping[str, Any]) -> None:
        self.algorithm: str = members["alg"]
        self.kid: str | None = members.get("kid")
        self.members = MappingProxyType(members)
        try:
            _check_header_values(members)
        except Refused:
            self.rejected = True
        else:
            self.rejected = False


def parse(token: str, max_bytes: int) -> Unverified:
    """Read a compact JWS that holds a JWT.

    Raises Refused: ``token_malformed`` for what cannot be read as one, ``token_invalid`` for what can but says
    something that is never accepted (``none``, ``crit``, ``b64``, a type of other tokens, ``iss`` that is no text).
    """
    segments = split(token, max_bytes)
    header = _read_header(segments[0])
    claims = json_object(decode_segment(segments[1]), Cause.ENCODING)
    signature = decode_segment(segments[2])
    if header.rejected:
        _check_header_values(header.members)
    if "iss" in claims and not isinstance(claims["iss"], str):
        raise Refused(Reason.TOKEN_INVALID, Cause.CLAIM_TYPE, "iss is not a string")
    return Unverified(token, header, claims, signature)


@lru_cache(maxsize=64)  # an issuer writes the same header into all tokens that one key signs
def _read_header(segment: str) -> _Header:
    members = json_object(decode_segment(segment), Cause.HEADER)
    _check_header_types(members)
    return _Header(members)


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
    if (value := _compact_json(document)) is not None:
        return value
    text = document.decode("utf-8")
    try:
        value = _DECODER.decode(text)
        if text.count("{") + text.count("[") > MAX_DEPTH:
            _check_depth(value, MAX_DEPTH)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if "\\u" in text:
        # A lone surrogate is no character: it would break every later encoding.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _compact_json(document: bytes) -> object:
    """The value of a document that this faster reader would write just so; None: it has to be read with more care.

    What comes out of it byte for byte as it went in has no second member of a name, no number that was rounded and no
    escape that another reader could take for something else.
    """
    if document.count(b"{") + document.count(b"[") > MAX_DEPTH:
        return None
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    return value if orjson.dumps(value) == document else None


def _check_header_types(header: dict[str, Any]) -> None:
    if not isinstance(header.get("alg"), str):
        raise _malformed(Cause.HEADER, "alg is not a string")
    for name in ("kid", "typ", "cty"):
        if name in header and not isinstance(header[name], str):
            raise _malformed(Cause.HEADER, f"{name} is not a string")


def _check_header_values(header: Mapping[str, Any]) -> None:
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
