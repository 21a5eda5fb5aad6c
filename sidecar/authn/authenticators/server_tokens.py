"""Tokens that the metadata server signed with a key that it may have shared with the sidecar before.

Issued tokens that were minted with that key have a record, which decides on them whatever key verifies them now.
"""

import re
from collections.abc import Awaitable

from sidecar.authn.authenticators.jwt import IssuedTokenResolver, PrincipalMapper, ProviderPrincipalMapper
from sidecar.authn.base import Accepted
from sidecar.concurrency import settled
from sidecar.errors import Cause, Reason, Refused
from sidecar.tokens.issued.records import RecordLookup
from sidecar.tokens.jwt.compact import Unverified
from sidecar.tokens.jwt.verify import VerifiedClaims

# Form of the ids of issued tokens; tokens of the server have no id of this form.
_OWN_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class ServerPrincipalMapper(ProviderPrincipalMapper):
    """Maps tokens of the server, which need no record, and issued tokens by their record.

    ``records`` looks up every token that has an id. ``own`` decides on a token with a record.
    """

    def __init__(self, server: ProviderPrincipalMapper, records: RecordLookup, own: IssuedTokenResolver) -> None:
        self._server = server
        self._records = records
        self._own: PrincipalMapper = own

    def accept(self, token: Unverified, verified: VerifiedClaims) -> Accepted | Awaitable[Accepted]:
        """The caller. Raises as :class:`PrincipalMapper` says, also for an id of the own form that is not on record."""
        return self._look_up(token, verified) if verified.token_id else self._server.accept(token, verified)

    async def _look_up(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        if await self._records.lookup(verified.token_id) is not None:
            return await settled(self._own.accept(token, verified))
        if _OWN_ID.fullmatch(verified.token_id):
            raise Refused(Reason.TOKEN_INVALID, Cause.NOT_ON_RECORD)
        return await settled(self._server.accept(token, verified))
