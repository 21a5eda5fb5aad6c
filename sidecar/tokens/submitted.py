"""A token in the body of a request (revocation, introspection), as the revocation list identifies it."""

from dataclasses import dataclass

from sidecar.identity.actor import Actor
from sidecar.store.revocation_entry import Scope
from sidecar.tokens.jwt.compact import Unverified


@dataclass(frozen=True, slots=True)
class SubmittedToken:
    """A token that its issuer has signed, whether or not it is accepted now.

    ``scope`` is TOKEN with the ``jti`` as ``name``, or DIGEST with the digest. ``expires_at`` is its ``exp`` in seconds
    since the epoch; None: it has none. ``provider`` is the provider of its Actor; empty: the token was rejected, and
    its issuer determines the provider.
    """

    scope: Scope
    issuer: str
    name: str
    subject: str = ""
    expires_at: float | None = None
    provider: str = ""

    @property
    def token_id(self) -> str:
        """Its ``jti``; empty if it has none."""
        return self.name if self.scope is Scope.TOKEN else ""


def submitted_from_jwt(token: Unverified) -> SubmittedToken:
    """``token``, whose signature and claim types were verified."""
    claims = token.claims
    scope, name = (Scope.TOKEN, claims["jti"]) if claims.get("jti") else (Scope.DIGEST, token.digest)
    return SubmittedToken(scope, claims.get("iss", ""), name, claims.get("sub", ""), claims.get("exp"))


def submitted_from_actor(actor: Actor, digest: str) -> SubmittedToken:
    """The token that identified ``actor``; ``digest`` identifies it if it has no ``jti``."""
    scope, name = (Scope.TOKEN, actor.token_id) if actor.token_id else (Scope.DIGEST, digest)
    return SubmittedToken(scope, actor.issuer, name, actor.subject, actor.expires_at, actor.provider)
