"""A token in the body of a request, to be revoked or introspected, as the deny list identifies it."""

from dataclasses import dataclass

from sidecar.identity.actor import Actor
from sidecar.store.revocation_entry import Scope
from sidecar.tokens.jwt.compact import Unverified


@dataclass(frozen=True, slots=True)
class SubmittedToken:
    """A token that its issuer has made, whether or not it may pass now.

    ``scope`` is TOKEN with the ``jti`` as ``name``, or DIGEST with the digest. ``ends`` is its ``exp``, in seconds
    since the epoch; None: it has none. ``provider``
    is where its Actor comes from; empty: it was refused, and its issuer decides.
    """

    scope: Scope
    issuer: str
    name: str
    subject: str = ""
    expires_at: float | None = None
    provider: str = ""

    @property
    def token_id(self) -> str:
        """Its ``jti``; empty: it has none."""
        return self.name if self.scope is Scope.TOKEN else ""


def submitted_from_jwt(token: Unverified) -> SubmittedToken:
    """``token``, whose signature and the types of whose claims were found good."""
    claims = token.claims
    scope, name = (Scope.TOKEN, claims["jti"]) if claims.get("jti") else (Scope.DIGEST, token.digest)
    return SubmittedToken(scope, claims.get("iss", ""), name, claims.get("sub", ""), claims.get("exp"))


def submitted_from_actor(actor: Actor, digest: str) -> SubmittedToken:
    """The token that made ``actor``; ``digest`` stands for it where it has no id."""
    scope, name = (Scope.TOKEN, actor.token_id) if actor.token_id else (Scope.DIGEST, digest)
    return SubmittedToken(scope, actor.issuer, name, actor.subject, actor.expires_at, actor.provider)
