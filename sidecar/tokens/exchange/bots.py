"""Which bots the token endpoint issues tokens for."""

from collections.abc import Callable

from sidecar.errors import Cause, Refused
from sidecar.identity.claims import actor_name
from sidecar.identity.names import folded
from sidecar.tokens.exchange.refusal import bad_grant


class RegisteredBots:
    """Registered bots whose names are not ``forbidden``: reserved ones, and admins."""

    def __init__(self, is_registered: Callable[[str], bool], forbidden: frozenset[str]) -> None:
        self._is_registered = is_registered
        self._forbidden = frozenset(map(folded, forbidden))

    def actor_id(self, name: str, client: str) -> str:
        """The Actor id of the bot ``name``. Raises GrantRefused(invalid_grant)."""
        try:
            actor_id = actor_name(name)
        except Refused as refusal:
            raise bad_grant(refusal.cause, refusal.detail, client=client) from refusal
        if folded(actor_id) in self._forbidden:
            raise bad_grant(Cause.RESERVED_NAME, "the bot is reserved or an admin", client=client)
        if not self._is_registered(folded(actor_id)):
            detail = f"no bot {actor_id} is registered; register it with sidecar bots register"
            raise bad_grant(Cause.BOT_UNREGISTERED, detail, client=client)
        return actor_id
