"""Strict parsing of compact JWTs, before anything is trusted or looked up (RFC 7515 5.2, 7.1; RFC 7519 7.2).

JSON and JOSE libraries are more lenient than the standards: they use the last of two equal members, skip invalid base64
characters, guess UTF-16, overflow to infinity. Input that two parsers could read differently is rejected here.
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
# Other types (logout tokens, security events, proofs, assertions) are not access tokens (RFC 8725 3.11).
_TYPES = frozenset({"jwt", "at+jwt"})


class Unverified:
    """A well-formed token, not verified. Its content must not be trusted; it only selects the keys to try.

    ``signing_input`` are the bytes that ``signature`` covers, exactly as received.
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
    """A parsed header, shared by all tokens with the same one. ``rejected``: tokens with it are never accepted."""

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


def parse(token: str, max_bytes: int, *, types: frozenset[str] = _TYPES) -> Unverified:
    """Parse a compact JWS that contains a JWT whose ``typ``, if present, is one of ``types`` (in lower case).

    Raises Refused: ``token_malformed`` if it cannot be parsed, ``token_invalid`` if it contains something that is never
    accepted (``none``, ``crit``, ``b64``, the type of another kind of token, ``iss`` that is not a string).
    """
    segments = split(token, max_bytes)
    header = _read_header(segments[0])
    claims = json_object(decode_segment(segments[1]), Cause.ENCODING)
    signature = decode_segment(segments[2])
    if header.rejected or types is not _TYPES:
        _check_header_values(header.members, types)
    if "iss" in claims and not isinstance(claims["iss"], str):
        raise Refused(Reason.TOKEN_INVALID, Cause.CLAIM_TYPE, "iss is not a string")
    return Unverified(token, header, claims, signature)


@lru_cache(maxsize=64)  # all tokens signed with one key have the same header
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
        raise _malformed(no_jwt_cause(token), "not three base64url parts joined by dots")
    return match[1], match[2], match[3]


def no_jwt_cause(token: str) -> Cause:
    """Why ``token`` is no JWT. OpenMetadata's client sends ``secret:<id>`` if it could not look up its own token."""
    return Cause.UNRESOLVED_REFERENCE if token.startswith("secret:") else Cause.NOT_A_JWT


def decode_segment(segment: str) -> bytes:
    """The bytes of one base64url part: no padding, no spare bits. Raises Refused(TOKEN_MALFORMED)."""
    spare = len(segment) % 4
    if spare == 1 or (spare and segment[-1] not in _CANONICAL_END[spare]):
        raise _malformed(Cause.ENCODING, "not canonical base64url")
    return a2b_base64(segment.encode("ascii").translate(_URLSAFE) + _PADDING[spare])


def json_object(document: bytes, cause: Cause) -> dict[str, Any]:
    """One JSON object in UTF-8: no repeated member, finite numbers only, limited depth.

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
        # A lone surrogate cannot be encoded in UTF-8 later.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _compact_json(document: bytes) -> object:
    """The value, if orjson reproduces the document exactly; None: it needs the slower, strict parser.

    A document that is reproduced byte for byte has no repeated member, no rounded number and no ambiguous escape.
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


def _check_header_values(header: Mapping[str, Any], types: frozenset[str] = _TYPES) -> None:
    if header["alg"].lower() == "none":
        raise Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM, "unsigned")
    if "crit" in header or "b64" in header:
        raise Refused(Reason.TOKEN_INVALID, Cause.CRITICAL_HEADER, "crit and b64 are not supported")
    if _media_type(header.get("typ", "JWT")) not in types or _media_type(header.get("cty", "")) == "jwt":
        raise Refused(Reason.TOKEN_INVALID, Cause.TOKEN_TYPE, "the type of another kind of token")


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
