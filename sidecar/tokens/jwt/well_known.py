"""Tokens printed in a product's documentation, and tokens signed under its default key id.

The key or the token is public, so they are always rejected. Only digests are stored here.
"""

from sidecar.errors import Cause, Reason, Refused
from sidecar.keys.well_known import WELL_KNOWN_KIDS
from sidecar.tokens.jwt.compact import Unverified

# SHA-256 of the signing input (header, dot, claims).
WELL_KNOWN_TOKENS = frozenset(
    {
        "c61425d1935d79f000a44b80d32e648726918267e6bbefc38c4be8c2ba8ce2da",  # OpenMetadata's endless admin sample
    }
)


def reject_well_known(token: Unverified) -> None:
    """Raise Refused(TOKEN_INVALID, PUBLISHED_SECRET) for a well-known token or a token under a well-known key id."""
    if token.kid in WELL_KNOWN_KIDS or token.digest in WELL_KNOWN_TOKENS:
        raise Refused(Reason.TOKEN_INVALID, Cause.PUBLISHED_SECRET)
