"""The revocations that events ask for (CAEP 1.0, RISC 1.0), by their short names."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

_CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
_RISC = "https://schemas.openid.net/secevent/risc/event-type/"
_OAUTH = "https://schemas.openid.net/secevent/oauth/event-type/"
_SSF = "https://schemas.openid.net/secevent/ssf/event-type/"
VERIFICATION: Final = "verification"
STREAM_UPDATED: Final = "stream-updated"
OTHER: Final = "other"
"""Short name of every event that is only counted."""
_KNOWN: Mapping[str, tuple[str, ...]] = {
    _CAEP: ("session-revoked", "credential-change", "token-claims-change"),
    _RISC: (
        "account-disabled", "account-purged", "credential-compromise", "identifier-recycled", "sessions-revoked",
        "tokens-revoked",
    ),
    _OAUTH: ("tokens-revoked",),
    _SSF: (VERIFICATION, STREAM_UPDATED),
}  # fmt: skip
_NAMES: Mapping[str, str] = {f"{prefix}{name}": name for prefix, names in _KNOWN.items() for name in names}
# tuples, because a transmitter may send values that cannot be hashed
_SECRETS_OF_PERSONS = ("password", "pin")
_WITHDRAWN = ("revoke", "delete")


class Effect(Enum):
    """What an event ends."""

    NOTHING = auto()
    SESSIONS = auto()
    """The provider's sessions and tokens of the subject so far; tokens issued by the sidecar remain valid."""
    TOKENS = auto()
    """All tokens of the subject so far, also those that the sidecar issued."""
    ACCOUNT = auto()
    """All tokens of the subject, also later ones, until an admin removes the entry."""


_EFFECTS: Mapping[str, Effect] = {
    "session-revoked": Effect.SESSIONS,
    "sessions-revoked": Effect.SESSIONS,
    "tokens-revoked": Effect.SESSIONS,
    "token-claims-change": Effect.SESSIONS,
    "credential-compromise": Effect.TOKENS,
    "identifier-recycled": Effect.TOKENS,
    "account-disabled": Effect.ACCOUNT,
    "account-purged": Effect.ACCOUNT,
}


def short_name(event_type: str) -> str:
    """The short name of an event type; :data:`OTHER` for unknown ones."""
    return _NAMES.get(event_type, OTHER)


def effect_of(name: str, content: Mapping[str, Any]) -> Effect:
    """What the event with this short name ends."""
    if name != "credential-change":
        return _EFFECTS.get(name, Effect.NOTHING)
    change, kind = content.get("change_type"), content.get("credential_type")
    ends = change in _WITHDRAWN or (change == "update" and kind in _SECRETS_OF_PERSONS)
    return Effect.SESSIONS if ends else Effect.NOTHING
