"""``X-Auth-Assertion``: a signed statement to the service behind about who is asking, with exact values.

Its own type, its own issuer and its own key keep it apart from every token that a caller may present.
"""

import json
from hashlib import sha256

from joserfc.jwk import ECKey

from sidecar.clock import Clock
from sidecar.identity.actor import Actor
from sidecar.tokens.jwt.jose import sign
from sidecar.tokens.upstream.token_cache import LIFETIME, TokenCache

ASSERTION_TYPE = "auth-assertion+jwt"
_ALGORITHM = "ES256"
AssertionKey = ECKey


def new_assertion_key() -> AssertionKey:
    """A private P-256 key."""
    return ECKey.generate_key("P-256")


class IdentityAssertions:
    """Signs statements about Actors as ``<issuer>/assertion`` for ``audience``.

    :attr:`jwks` publishes the public half of the key, which no file or store ever holds.
    """

    def __init__(self, issuer: str, audience: str, clock: Clock, key: AssertionKey | None = None) -> None:
        """``key``: one that several of these share; absent: one of its own."""
        self._issuer = f"{issuer}/assertion"
        self._audience = audience
        self._clock = clock
        self._key = key or new_assertion_key()
        self._kid = self._key.thumbprint()
        self._tokens = TokenCache()
        public = {**self._key.as_dict(private=False), "kid": self._kid, "use": "sig", "alg": _ALGORITHM}
        self.jwks = json.dumps({"keys": [public]}, separators=(",", ":")).encode()
        """RFC 7517 key set to verify the statements with."""
        self.etag = f'"{sha256(self.jwks).hexdigest()[:32]}"'

    def token_for(self, actor: Actor, *, with_groups: bool = True) -> str:
        """A statement of five minutes about ``actor``, with at least half of them left.

        Without groups it says ``groups_omitted``, and has no member ``groups`` that could be taken for "in none".
        """
        statement = self._statement(actor, with_groups=with_groups)
        # the digest of what is said, because an Actor with many groups would take more memory than its statement
        key = sha256(json.dumps(statement).encode()).digest()
        return self._tokens.get(key, self._clock.now(), lambda issued: self._mint(statement, issued))

    def _mint(self, statement: dict[str, object], issued: int) -> str:
        claims = {"iss": self._issuer, "aud": self._audience, **statement, "iat": issued, "exp": issued + LIFETIME}
        return sign({"alg": _ALGORITHM, "kid": self._kid, "typ": ASSERTION_TYPE}, claims, self._key)

    @staticmethod
    def _statement(actor: Actor, *, with_groups: bool) -> dict[str, object]:
        omitted = {} if with_groups else {"groups_omitted": True}
        return {
            "sub": actor.id,
            "actor": {
                "type": actor.type.value,
                "id": actor.id,
                "urn": actor.urn,
                "issuer": actor.issuer,
                "provider": actor.provider,
                "subject": actor.subject,
                "email": actor.email,
                **({"groups": actor.groups} if with_groups else {}),
                "roles": actor.roles,
                "isBot": actor.is_bot,
                "tokenId": actor.token_id,
            },
            **omitted,
        }
