"""Claims about the use of a token: its client, scopes and audiences, and who acts for the subject."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.identity.claim_path import ABSENT, ClaimPath

MAX_SCOPES = 1000
"""Maximum number of scopes or audiences read from one token."""
MAX_NAME_LENGTH = 256
"""Maximum length of the name of a client or an acting party."""

_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3


@dataclass(frozen=True, slots=True)
class DelegationPolicy:
    """``client_claims`` may name the client; the first that is present decides.

    ``trusts_act``: the issuer may say who acts for the subject.
    """

    client_claims: tuple[ClaimPath, ...] = (ClaimPath("client_id"),)
    trusts_act: bool = False


OWN_CLIENTS = DelegationPolicy()


@dataclass(slots=True)  # not frozen: made for every token
class Delegation:
    """The members of the same names in :class:`sidecar.identity.actor.Actor`."""

    client: str = ""
    scopes: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    acting: str = ""
    is_delegated: bool = False


def read_delegation(claims: Mapping[str, Any], policy: DelegationPolicy) -> Delegation:
    """What verified ``claims`` say. A claim of another form gives no client, scope, audience or acting party.

    ``scope`` and ``scp`` in one token: only scopes that both have count.
    """
    audience, act = claims.get("aud"), claims.get("act")
    return Delegation(
        _client(claims, policy.client_claims),
        _scopes(claims),
        _audiences(audience),
        _name(act.get("sub")) if policy.trusts_act and isinstance(act, Mapping) else "",
        is_delegated=act is not None,
    )


def is_scope(text: str) -> bool:
    """Whether ``text`` is one scope (RFC 6749 section 3.3)."""
    return _SCOPE_TOKEN.fullmatch(text) is not None


def _audiences(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    return _distinct(value) if isinstance(value, list) else ()


def _client(claims: Mapping[str, Any], paths: Iterable[ClaimPath]) -> str:
    for path in paths:
        value = path.find(claims)
        if value is not ABSENT:
            return _name(value)
    return ""


def _scopes(claims: Mapping[str, Any]) -> tuple[str, ...]:
    scope, scp = claims.get("scope"), claims.get("scp")
    if scp is None and scope is None:
        return ()
    if scp is None:
        return _scope_members(scope)
    listed = tuple(filter(is_scope, _distinct(scp))) if isinstance(scp, list) else _scope_members(scp)
    if scope is None:
        return listed
    both = frozenset(_scope_members(scope))
    return tuple(name for name in listed if name in both)


def _scope_members(value: object) -> tuple[str, ...]:
    return tuple(filter(is_scope, _distinct(value.split(" ")))) if isinstance(value, str) else ()


def _distinct(values: Iterable[object]) -> tuple[str, ...]:
    known = dict.fromkeys(value for value in values if isinstance(value, str) and value)
    return tuple(known)[:MAX_SCOPES]


def _name(value: object) -> str:
    is_usable = isinstance(value, str) and len(value) <= MAX_NAME_LENGTH and value.isprintable()
    return value if is_usable and isinstance(value, str) else ""
