"""The identity provider of the demo: discovery, key set, login form and token endpoint of each issuer."""

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from secrets import compare_digest, token_urlsafe
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from sidecar.clock import Clock
from sidecar.demo.issuer import TOKEN_LIFETIME, DemoIssuer

CLIENT_ID = "sidecar-demo"
_MAX_CODES = 100
_LOGIN_LIFETIME = 300
_FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{issuer}</title></head>
<body><main><h1>{issuer}</h1><p>The identity provider of the demo. It asks for no password.</p>
<form method="post">{buttons}</form></main></body></html>
"""


class IdentityProvider:
    """Serves issuers below ``/<name>``. It checks no password: for demos on loopback only.

    ``redirect_base``: the start of every redirect URI that it accepts, before the name of the issuer.
    """

    def __init__(self, issuers: Mapping[str, DemoIssuer], clock: Clock, redirect_base: str = "") -> None:
        self._issuers = issuers
        self._clock = clock
        self._redirect_base = redirect_base
        self._codes: dict[str, tuple[str, str, Mapping[str, str]]] = {}

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=16 * 1024)
        application.router.add_get("/{issuer}/.well-known/openid-configuration", self._discovery)
        application.router.add_get("/{issuer}/jwks", self._jwks)
        application.router.add_post("/{issuer}/token", self._token)
        application.router.add_get("/{issuer}/authorize", self._form)
        application.router.add_post("/{issuer}/authorize", self._login)
        application.router.add_get("/{issuer}/logout", self._logout)
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
        if form.get("grant_type") == "authorization_code":
            return self._redeem(request.match_info["issuer"], issuer, form)
        if form.get("grant_type") != "password":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        username = form.get("username")
        if not isinstance(username, str) or not issuer.has_user(username):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = issuer.mint(username, self._clock.now())
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": TOKEN_LIFETIME}
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _form(self, request: web.Request) -> web.Response:
        """The login form: a button for each user."""
        name = request.match_info["issuer"]
        issuer = self._issuers.get(name)
        if issuer is None or not self._is_request(name, request.query):
            return _not_found()
        buttons = " ".join(
            f'<button name="user" value="{escape(user)}">{escape(user)}</button>' for user in issuer.users
        )
        text = _FORM.format(issuer=escape(name), buttons=buttons)
        return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _login(self, request: web.Request) -> web.Response:
        """RFC 6749 section 4.1.2: lead the browser back with a code."""
        name = request.match_info["issuer"]
        issuer = self._issuers.get(name)
        user = (await request.post()).get("user")
        if issuer is None or not self._is_request(name, request.query) or not isinstance(user, str):
            return _not_found()
        if not issuer.has_user(user):
            return _not_found()
        if len(self._codes) >= _MAX_CODES:
            self._codes.clear()
        code = token_urlsafe(24)
        self._codes[code] = (name, user, dict(request.query))
        answer = {"code": code, "state": request.query["state"], "iss": issuer.url}
        return _redirect(f"{request.query['redirect_uri']}?{urlencode(answer)}")

    def _redeem(self, name: str, issuer: DemoIssuer, form: Mapping[str, Any]) -> web.Response:
        """RFC 6749 section 4.1.3 with RFC 7636: a code is good once, for the browser that began."""
        begun = self._codes.pop(str(form.get("code")), None)
        digest = sha256(str(form.get("code_verifier")).encode()).digest()
        challenge = urlsafe_b64encode(digest).rstrip(b"=").decode()
        if begun is None or begun[0] != name or form.get("redirect_uri") != begun[2]["redirect_uri"]:
            return web.json_response({"error": "invalid_grant"}, status=400)
        if not compare_digest(challenge, begun[2]["code_challenge"]):
            return web.json_response({"error": "invalid_grant"}, status=400)
        _, user, asked = begun
        now = self._clock.now()
        answer = {
            "access_token": issuer.mint(user, now),
            "token_type": "Bearer",
            "expires_in": TOKEN_LIFETIME,
            "id_token": issuer.mint(user, now, _LOGIN_LIFETIME, aud=CLIENT_ID, nonce=asked["nonce"]),
        }
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _logout(self, request: web.Request) -> web.Response:
        """There is no session here to end: lead the browser back."""
        target = request.query.get("post_logout_redirect_uri", "")
        is_ours = bool(self._redirect_base) and target == f"{self._redirect_base}/signed_out"
        return _redirect(target) if is_ours else _not_found()

    def _is_request(self, name: str, query: Mapping[str, str]) -> bool:
        """Whether this is a request of the sidecar of the demo."""
        is_ours = bool(self._redirect_base) and query.get("redirect_uri") == f"{self._redirect_base}/callback/{name}"
        has_all = all(query.get(field) for field in ("state", "nonce", "code_challenge"))
        return is_ours and has_all and query.get("client_id") == CLIENT_ID


def _redirect(location: str) -> web.Response:
    return web.Response(status=303, headers={"Location": location, "Cache-Control": "no-store"})


def _not_found() -> web.Response:
    return web.json_response({"error": "not_found"}, status=404)
