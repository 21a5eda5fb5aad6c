"""The identity provider of the demo: discovery, key set and token endpoint of each issuer."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sidecar.clock import Clock
from sidecar.demo.issuer import TOKEN_LIFETIME, DemoIssuer


class IdentityProvider:
    """Serves issuers below ``/<name>``. It checks no password: for demos on loopback only."""

    def __init__(self, issuers: Mapping[str, DemoIssuer], clock: Clock) -> None:
        self._issuers = issuers
        self._clock = clock

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=16 * 1024)
        application.router.add_get("/{issuer}/.well-known/openid-configuration", self._discovery)
        application.router.add_get("/{issuer}/jwks", self._jwks)
        application.router.add_post("/{issuer}/token", self._token)
        return application

    async def _discovery(self, request: web.Request) -> web.Response:
        issuer = self._issuers.get(request.match_info["issuer"])
        return web.json_response(issuer.discovery()) if issuer else _not_found()

    async def _jwks(self, request: web.Request) -> web.Response:
        issuer = self._issuers.get(request.match_info["issuer"])
        return web.json_response(issuer.jwks()) if issuer else _not_found()

    async def _token(self, request: web.Request) -> web.Response:
        """RFC 6749 section 4.3, responses by 5.1 and 5.2."""
        issuer = self._issuers.get(request.match_info["issuer"])
        if issuer is None:
            return _not_found()
        form: Mapping[str, Any] = await request.post()
        if form.get("grant_type") != "password":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        username = form.get("username")
        if not isinstance(username, str) or not issuer.has_user(username):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = issuer.mint(username, self._clock.now())
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME}
        return web.json_response(answer, headers={"Cache-Control": "no-store"})


def _not_found() -> web.Response:
    return web.json_response({"error": "not_found"}, status=404)
