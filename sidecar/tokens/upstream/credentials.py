"""``upstream.credentials``: a JWT that identifies the Actor to an OpenMetadata or DataHub server.

It carries a claim that marks it as an upstream credential, so this sidecar rejects it from callers.
"""

import logging
from collections.abc import Callable, Sequence
from uuid import uuid4

from sidecar.clock import Clock
from sidecar.identity.actor import Actor
from sidecar.identity.names import folded
from sidecar.keys.signing import SigningKey
from sidecar.secrets.value import Secret
from sidecar.tokens.datahub import DataHubKind, SharedKey, mint_datahub_token
from sidecar.tokens.issued.mint import openmetadata_claims
from sidecar.tokens.jwt.jose import sign
from sidecar.tokens.jwt.verify import UPSTREAM_CLAIM
from sidecar.tokens.upstream.token_cache import LIFETIME, TokenCache

UPSTREAM_PURPOSE = "upstream"
_log = logging.getLogger("sidecar.upstream_credentials")
_WITHHELD = "the Actor has the name of an admin without being one; no upstream credential is sent"


class OpenMetadataCredentials:
    """``openmetadata``: the server accepts the token if its ``publicKeyUrls`` contains the sidecar's JWKS.

    ``signing`` returns the RSA signing key; ``algorithm`` is the server's ``tokenValidationAlgorithm`` (RS256, RS384 or
    RS512). ``principal_claims`` are the claims in which the server looks for the user name; ``admin_names`` are its
    admins, in lower case.
    """

    def __init__(
        self,
        signing: Callable[[], SigningKey],
        clock: Clock,
        *,
        issuer: str,
        algorithm: str,
        principal_domain: str,
        principal_claims: Sequence[str] = (),
        admin_names: frozenset[str] = frozenset(),
    ) -> None:
        self._signing = signing
        self._clock = clock
        self._issuer = issuer
        self._algorithm = algorithm
        self._principal_domain = principal_domain.lower()
        self._principal_claims = tuple(principal_claims)
        self._admin_names = admin_names
        self._tokens = TokenCache()

    def authorization_for(self, actor: Actor) -> str:
        """The value of ``Authorization`` for ``actor``."""
        token = self.token_for(actor)
        return f"Bearer {token}" if token else ""

    def token_for(self, actor: Actor) -> str:
        """A token for ``actor`` with a lifetime of five minutes, at least half of it left.

        Empty for an Actor that has an admin's name without being admin: the upstream recognises admins by name alone.
        """
        # DataHub ids may be addresses; the server uses the part before the first @
        if actor.impersonates_admin(self._admin_names, actor.id.partition("@")[0]):
            _log.warning(_WITHHELD, extra={"event": "upstream_credential_withheld", "provider": actor.provider})
            return ""
        key = self._signing()
        cache_key = (key.kid, actor.id, actor.domain, actor.roles)
        return self._tokens.get(cache_key, self._clock.now(), lambda issued: self._mint(key, actor, issued))

    def _mint(self, key: SigningKey, actor: Actor, issued: int) -> str:
        # OpenMetadata derives the name from the local part, which may differ in the Actor's e-mail address.
        domain = actor.domain or self._principal_domain
        address = f"{actor.id}@{domain}" if domain else ""
        named = openmetadata_claims(actor.id, folded(actor.id) if "@" in actor.id else address, actor.roles)
        claims = {
            **dict.fromkeys(self._principal_claims, actor.id),
            **named,
            "iss": self._issuer,
            "isBot": False,
            "tokenType": "OM_USER",
            UPSTREAM_CLAIM: UPSTREAM_PURPOSE,
            "iat": issued,
            "exp": issued + LIFETIME,
        }
        return sign({"alg": self._algorithm, "kid": key.kid, "typ": "JWT"}, claims, key.key)


class DataHubCredentials:
    """``datahub``: a session token of the Actor, which GMS accepts by the shared ``key`` without a look-up.

    The system credential is sent only for ``system_client`` itself (its id, as an Actor of ``authenticator``, and its
    secret). ``admin_names`` are the server's admins, which it recognises by their urn alone.
    """

    def __init__(
        self,
        key: SharedKey,
        clock: Clock,
        *,
        issuer: str,
        authenticator: str,
        system_client: tuple[str, Secret] | None,
        admin_names: frozenset[str] = frozenset(),
    ) -> None:
        self._key = key
        self._clock = clock
        self._issuer = issuer
        self._authenticator = authenticator
        self._system_client = system_client
        self._admin_names = admin_names
        self._tokens = TokenCache()

    def authorization_for(self, actor: Actor) -> str:
        """The value of ``Authorization``; empty for an Actor that has an admin's name without being admin."""
        if self._system_client is not None and actor.authenticator == self._authenticator:
            client_id, secret = self._system_client
            if actor.id == client_id:  # authenticator names alone do not identify the system client
                return f"Basic {client_id}:{secret.reveal()}"
        if actor.impersonates_admin(self._admin_names):
            _log.warning(_WITHHELD, extra={"event": "upstream_credential_withheld", "provider": actor.provider})
            return ""
        token = self._tokens.get(actor.id, self._clock.now(), lambda issued: self._mint(actor, issued))
        return f"Bearer {token}"

    def _mint(self, actor: Actor, issued: int) -> str:
        return mint_datahub_token(
            self._key,
            actor_id=actor.id,
            kind=DataHubKind.SESSION,
            token_id=str(uuid4()),
            issuer=self._issuer,
            issued_at=issued,
            expires_at=issued + LIFETIME,
            purpose=UPSTREAM_PURPOSE,
        )
