"""An identity provider of one issuer: discovery, JWKS, and tokens with whatever claims a test asks for."""

import json
import time
from collections.abc import Mapping
from itertools import count
from typing import Any, Self

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.loopback_server import LoopbackServer

AUDIENCE = "metadata"
_numbers = count(1)


class IdentityProvider:
    """Signs with the first of its keys, publishes all. A context manager; needs no network but loopback."""

    def __init__(self) -> None:
        self.keys = [_new_key()]
        self.published = True
        self.fetches = 0
        self._server = LoopbackServer(self._answer)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def issuer(self) -> str:
        """The exact ``iss`` of its tokens."""
        return self._server.url

    def rotate(self) -> None:
        """Sign with a new key from now on; the old ones stay published."""
        self.keys = [_new_key(), *self.keys]

    def withdraw(self) -> None:
        """Stop publishing all keys but the signing one."""
        self.keys = self.keys[:1]

    def mint(self, *, lifetime: float = 600.0, key: RSAKey | None = None, **claims: Any) -> str:
        """A signed token; ``claims`` replace the usual ones, those that are None are left out."""
        now = int(time.time())
        usual: Mapping[str, Any] = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "0b1c",
            "preferred_username": "alice",
            "email": "alice@example.com",
            "email_verified": True,
            "groups": ["readers"],
            "jti": f"token-{next(_numbers)}",
            "iat": now + int(min(lifetime, 0)) - 60,
            "exp": now + int(lifetime),
        }
        signer = key or self.keys[0]
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode({"alg": "RS256", "typ": "JWT", "kid": signer.kid}, payload, signer, algorithms=["RS256"])

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.fetches += 1
        if not self.published:
            return web.Response(status=503)
        if request.path == "/.well-known/openid-configuration":
            return _json({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"})
        if request.path == "/jwks":
            return _json({"keys": [{**key.as_dict(private=False), "use": "sig"} for key in self.keys]})
        return web.Response(status=404)


def _new_key() -> RSAKey:
    return RSAKey.generate_key(2048, auto_kid=True)


def _json(document: object) -> web.Response:
    return web.Response(text=json.dumps(document), content_type="application/json")
