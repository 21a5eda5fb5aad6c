"""Tokens that the metadata server signed with a key which the sidecar may have shared with it before.

Own tokens that were minted with that key are on record: their record decides on them, whichever key verifies them now.
"""

import re

from sidecar.authn.authenticators.jwt import IssuedTokenResolver, PrincipalMapper, ProviderPrincipalMapper
from sidecar.authn.base import Accepted
from sidecar.errors import Cause, Reason, Refused
from sidecar.tokens.issued.records import RecordLookup
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.verify import VerifiedClaims

# The form of the ids that own tokens are minted with; the server's tokens have none.
_OWN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class ServerPrincipalMapper(ProviderPrincipalMapper):
    """Accepts the server's tokens, which need no record, and own tokens by theirs.

    ``records`` are asked about every token that has an id. ``own`` judges a token on record.
    """

    def __init__(self, server: ProviderPrincipalMapper, records: RecordLookup, own: IssuedTokenResolver) -> None:
        self._server = server
        self._records = records
        self._own: PrincipalMapper = own

    def accept_at_once(self, token: Unverified, verified: VerifiedClaims) -> Accepted | None:
        """As the server's mapper; None for a token with an id, whose record may have to be looked up."""
        return None if verified.token_id else self._server.accept_at_once(token, verified)

    async def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        """The caller. Raises as :class:`PrincipalMapper` says; also for an id of the own form that is not on record."""
        if verified.token_id:
            if await self._records.lookup(verified.token_id) is not None:
                return await self._own.accept(token, verified)
            if _OWN_ID.fullmatch(verified.token_id):
                raise Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        return await self._server.accept(token, verified)
