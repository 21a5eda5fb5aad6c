"""``X-Auth-Assertion``: a signed statement of the caller's identity for the upstream, with exact values.

A separate token type, issuer and key distinguish it from every token that a caller may present.
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
    """Signs assertions about Actors as ``<issuer>/assertion`` for ``audience``.

    :attr:`jwks` publishes the public key. The private key is never written to a file or store.
    """

    def __init__(self, issuer: str, audience: str, clock: Clock, key: AssertionKey | None = None) -> None:
        """``key``: a key shared by several instances; absent: a new key."""
        self._issuer = f"{issuer}/assertion"
        self._audience = audience
        self._clock = clock
        self._key = key or new_assertion_key()
        self._kid = self._key.thumbprint()
        self._tokens = TokenCache()
        public = {**self._key.as_dict(private=False), "kid": self._kid, "use": "sig", "alg": _ALGORITHM}
        self.jwks = json.dumps({"keys": [public]}, separators=(",", ":")).encode()
        """RFC 7517 key set that verifies the assertions."""
        self.etag = f'"{sha256(self.jwks).hexdigest()[:32]}"'

    def token_for(self, actor: Actor, *, with_groups: bool = True) -> str:
        """An assertion about ``actor`` with a lifetime of five minutes, at least half of it left.

        Without groups it contains ``groups_omitted`` and no member ``groups``, which could be read as "no groups".
        """
        statement = self._statement(actor, with_groups=with_groups)
        # keyed by digest: an Actor with many groups needs more memory than its assertion
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
            **({"client_id": actor.client} if actor.client else {}),
            **({"scope": " ".join(actor.scopes)} if actor.scopes else {}),
            **({"act": {"sub": actor.acting}} if actor.acting else {}),
            **omitted,
        }
