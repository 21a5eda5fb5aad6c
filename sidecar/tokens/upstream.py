"""``upstream.credentials: openmetadata``: a JWT that tells an OpenMetadata server who the Actor is.

The server accepts it when its ``publicKeyUrls`` lists our JWKS. It is a bearer token, so it says of itself that it is
meant for the service behind, and callers who present it are refused.
"""

import logging
from collections.abc import Callable, Sequence

from sidecar.clock import Clock
from sidecar.identity.actor import Actor
from sidecar.keys.signing import SigningKey
from sidecar.tokens.jose import sign
from sidecar.tokens.mint import openmetadata_claims
from sidecar.tokens.short_lived import LIFETIME, ShortLived
from sidecar.tokens.verify import UPSTREAM_CLAIM

UPSTREAM_MARK = "upstream"
_log = logging.getLogger("sidecar.upstream_credentials")


class UpstreamCredentials:
    """Mints the ``Authorization`` of forwarded requests.

    ``signing`` gives the own RSA key; ``algorithm`` is the server's ``tokenValidationAlgorithm`` (RS256, RS384 or
    RS512). ``principal_claims`` are the claims that the server asks for the user's name; ``admin_names`` are the names
    of its admins, in lower case.
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
        self._tokens = ShortLived()

    def token_for(self, actor: Actor) -> str:
        """A token of five minutes for ``actor``, with at least half of them left.

        Empty for an Actor who bears an admin's name and is none: the server behind knows its admins by name alone.
        """
        if actor.id in self._admin_names and not actor.is_admin:
            _log.warning("no credential for a name that is an admin's", extra={"provider": actor.provider})
            return ""
        key = self._signing()
        carried = (key.kid, actor.id, actor.domain, actor.roles)
        return self._tokens.get(carried, self._clock.now(), lambda issued: self._mint(key, actor, issued))

    def _mint(self, key: SigningKey, actor: Actor, issued: int) -> str:
        # OpenMetadata makes the name from whatever stands before the @: the Actor's address may have another there.
        domain = actor.domain or self._principal_domain
        named = openmetadata_claims(actor.id, f"{actor.id}@{domain}" if domain else "", actor.roles)
        claims = {
            **dict.fromkeys(self._principal_claims, actor.id),
            **named,
            "iss": self._issuer,
            "isBot": False,
            "tokenType": "OM_USER",
            UPSTREAM_CLAIM: UPSTREAM_MARK,
            "iat": issued,
            "exp": issued + LIFETIME,
        }
        return sign({"alg": self._algorithm, "kid": key.kid, "typ": "JWT"}, claims, key.key)
