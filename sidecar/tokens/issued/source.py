"""The claim ``src`` of an exchanged token: the credential that it was issued for."""

from collections.abc import Mapping
from typing import Any

from sidecar.errors import Cause, Reason, Refused
from sidecar.store.replica.revocation_list import Source

SOURCE_CLAIM = "src"


def source_claim(source: Source) -> dict[str, Any]:
    """``source`` as a claim."""
    claim: dict[str, Any] = {"iss": source.issuer, "sub": source.subject}
    claim["digest" if source.is_digest else "jti"] = source.token_id
    if source.session:
        claim["sid"] = source.session
    if source.issued_at is not None:
        claim["iat"] = source.issued_at
    return claim


def read_source(claims: Mapping[str, Any]) -> Source | None:
    """The source of a token that this sidecar has signed; None: a client got it with its secret.

    Raises Refused(TOKEN_INVALID) for a claim that is none.
    """
    found: Any = claims.get(SOURCE_CLAIM, ...)
    if found is ...:
        return None
    try:
        issued_at = found.get("iat")
        is_digest = "digest" in found
        token_id = found["digest"] if is_digest else found["jti"]
        return Source(found["iss"], found["sub"], token_id, is_digest, found.get("sid", ""), issued_at)
    except (AttributeError, KeyError, TypeError) as error:
        raise Refused(Reason.TOKEN_INVALID, Cause.CLAIM_TYPE, "src is not a source") from error
