"""An OpenID provider with a login form, that answers rightly or, on demand, breaks one rule; and a browser."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode, urljoin, urlsplit

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.http_client import Reply, request
from tests.support.identity_provider import IdentityProvider

CLIENT_ID = "metadata web"
CLIENT_SECRET = "s3cret/with:odd characters"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
NAVIGATION = (
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Sec-Fetch-Site", "none"),
    ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8"),
)


class LoginProvider(IdentityProvider):
    """``user`` logs in at every authorization request. ``wrong``: the rule that its answers break."""

    def __init__(self) -> None:
        super().__init__()
        self.user = "alice"
        self.wrong = ""
        self.redeemed = 0
        self.pushed = 0
        self.requests: list[dict[str, str]] = []
        self.logouts: list[dict[str, str]] = []
        self.token_requests: list[tuple[dict[str, str], str]] = []
        self.requires_pushed = False
        self.groups: list[str] | None = ["readers"]
        self.instead: dict[str, tuple[int, bytes, Mapping[str, str]]] = {}
        """Whole responses by path: status, body, headers."""
        self.gives_refresh_tokens = False
        self.authenticated_ago = 0
        self.acr = ""
        self.refreshes = 0
        self.reused = 0
        self.revoked: list[str] = []
        self._refresh: dict[str, dict[str, str]] = {}
        self._ended: set[str] = set()
        self.extra: dict[str, Any] = {}
        self.more_userinfo: dict[str, Any] = {}
        self._codes: dict[str, dict[str, str]] = {}
        self._pushed: dict[str, dict[str, str]] = {}
        self._access: dict[str, str] = {}

    def logout_token(self, *, key: RSAKey | None = None, header: Mapping[str, str] | None = None, **claims: Any) -> str:
        """A logout token; ``claims`` replace the usual ones, those that are None are left out."""
        now = int(time.time())
        usual = {
            "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 120, "jti": f"logout-{now}",
            "sid": f"sid-{self.user}", "sub": f"sub-{self.user}", "events": {LOGOUT_EVENT: {}},
        }  # fmt: skip
        payload = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        signer = key or self.keys[0]
        head = {"alg": "RS256", "typ": "logout+jwt", "kid": signer.kid, **(header or {})}
        return jwt.encode(head, payload, signer, algorithms=["RS256"])

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self.published:
            return web.Response(status=503)
        handlers = {
            "/.well-known/openid-configuration": self._discovery,
            "/authorize": self._authorize,
            "/par": self._push,
            "/token": self._token,
            "/userinfo": self._userinfo,
            "/logout": self._logout,
            "/revoke": self._revoke,
        }
        if request.path in self.instead:
            status, body, headers = self.instead[request.path]
            return web.Response(status=status, body=body, headers=dict(headers))
        if self.wrong == "slow keys" and request.path == "/jwks":
            await asyncio.sleep(2)
        handler = handlers.get(request.path)
        return await super()._answer(request) if handler is None else await handler(request)

    async def _discovery(self, _: web.BaseRequest) -> web.StreamResponse:
        url = self.issuer
        document: dict[str, Any] = {
            "issuer": url,
            "jwks_uri": f"{url}/jwks",
            "authorization_endpoint": f"{url}/authorize?tenant=a",
            "token_endpoint": f"{url}/token",
            "userinfo_endpoint": f"{url}/userinfo",
            "end_session_endpoint": f"{url}/logout",
            "revocation_endpoint": f"{url}/revoke",
            "pushed_authorization_request_endpoint": f"{url}/par",
            "require_pushed_authorization_requests": self.requires_pushed,
            "authorization_response_iss_parameter_supported": True,
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
        }
        if self.wrong == "issuer of the document":
            document["issuer"] = "https://other.example.com"
        return _json(200, document)

    async def _authorize(self, request: web.BaseRequest) -> web.StreamResponse:
        given = dict(request.query)
        if "request_uri" in given:
            given = self._pushed.pop(given["request_uri"])
        self.requests.append(given)
        if self.wrong.startswith("error "):
            answer = {"error": self.wrong.removeprefix("error "), "error_description": "<script>alert(1)</script>"}
        else:
            code = f"code-{len(self._codes)}"
            self._codes[code] = {**given, "user": self.user}
            answer = {"code": code}
        answer |= {"state": given["state"], "iss": self.issuer}
        if self.wrong == "iss of another":
            answer["iss"] = "https://other.example.com"
        if self.wrong == "no iss":
            del answer["iss"]
        location = f"{given['redirect_uri']}?{urlencode(answer)}"
        return web.Response(status=302, headers={"Location": location})

    async def _push(self, request: web.BaseRequest) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if not self._is_client(request, form):
            return _json(401, {"error": "invalid_client"})
        if not form["redirect_uri"].endswith(("/callback/corp", "/callback/other")):
            return _json(400, {"error": "invalid_request"})
        self.pushed += 1
        if self.wrong == "slow":
            await asyncio.sleep(2)
        uri = f"urn:ietf:params:oauth:request_uri:{self.pushed}"
        self._pushed[uri] = form
        return _json(201, {"request_uri": uri, "expires_in": 60})

    async def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        self.token_requests.append((form, request.headers.get("Authorization", "")))
        if self.wrong == "client refused" or not self._is_client(request, form):
            return _json(401, {"error": "invalid_client"})
        if form.get("grant_type") == "refresh_token":
            return await self._answer_refresh(form)
        begun = self._codes.pop(form.get("code", ""), None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            begun is None
            or form.get("redirect_uri") != begun["redirect_uri"]
            or challenge.rstrip(b"=").decode() != begun["code_challenge"]
        ):
            return _json(400, {"error": "invalid_grant"})
        self.redeemed += 1
        if self.wrong == "token endpoint down":
            return web.Response(status=503)
        if self.wrong == "no json":
            return web.Response(text="<html>", content_type="text/html")
        access = f"access-{self.redeemed}"
        self._access[access] = begun["user"]
        answer = {"access_token": access, "token_type": "bearer", "id_token": self._id_token(begun, access)}
        if self.gives_refresh_tokens:
            answer["refresh_token"] = self._new_refresh_token({**begun, "auth_time": str(int(time.time()))})
        if self.wrong == "no id token":
            del answer["id_token"]
        if self.wrong == "token type":
            answer["token_type"] = "mac"
        return _json(200, answer)

    def end(self, user: str) -> None:
        """Disable ``user``: no refresh token of theirs is good any more."""
        self._ended.add(user)

    def _new_refresh_token(self, begun: dict[str, str]) -> str:
        token = f"refresh-{begun['user']}-{len(self._refresh)}"
        self._refresh[token] = begun
        return token

    async def _answer_refresh(self, form: Mapping[str, str]) -> web.StreamResponse:
        """Refresh tokens are good once; one that comes twice ends the session, as Keycloak does."""
        wrong = self.wrong.removeprefix("refresh: ") if self.wrong.startswith("refresh: ") else ""
        if wrong == "slow":
            await asyncio.sleep(1)
        if wrong == "down":
            return web.Response(status=503)
        if wrong == "temporarily":
            return _json(400, {"error": "temporarily_unavailable"})
        if wrong == "client":
            return _json(400, {"error": "unauthorized_client"})
        begun = self._refresh.get(form["refresh_token"])
        if begun is None or begun.get("used") or begun["user"] in self._ended:
            self.reused += bool(begun and begun.get("used"))
            return _json(400, {"error": "invalid_grant"})
        self.refreshes += 1
        access = f"access-r{self.refreshes}"
        self._access[access] = begun["user"]
        answer: dict[str, Any] = {"access_token": access, "token_type": "Bearer"}
        again = {name: value for name, value in begun.items() if name != "nonce"}
        answer["refresh_token"] = self._new_refresh_token(again)
        begun["used"] = "yes"
        changes: dict[str, dict[str, Any]] = {
            "subject": {"sub": "sub-mallory"},
            "issuer": {"iss": "https://other.example.com"},
            "audience": {"aud": "another"},
            "nonce": {"nonce": "another"},
            "auth_time": {"auth_time": int(time.time()) + 5},
            "name": {"preferred_username": "mallory", "email": "mallory@example.com"},
        }
        if wrong != "no id token":
            changed = {"auth_time": int(begun["auth_time"]), **changes.get(wrong, {})}
            answer["id_token"] = self._id_token(again, access, **changed)
        if wrong == "token type":
            answer["token_type"] = "mac"
        return _json(200, answer)

    async def _revoke(self, request: web.BaseRequest) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        assert self._is_client(request, form)
        self.revoked.append(form["token"])
        return web.Response(status=200)

    def _id_token(self, begun: Mapping[str, str], access: str, **changed: Any) -> str:
        user, now = begun["user"], int(time.time())
        ago = self.authenticated_ago
        if self.wrong != "max_age is ignored" and ago > int(begun.get("max_age", ago)):
            ago = 0  # has asked the person again
        wanted = begun.get("acr_values", "").split(" ")[0]
        if wanted and self.wrong != "acr is ignored":
            self.acr = wanted
        half = hashlib.sha256(access.encode()).digest()[:16]
        claims: dict[str, Any] = {
            "sub": f"sub-{user}", "preferred_username": user, "email": f"{user}@example.com", "aud": CLIENT_ID,
            "groups": self.groups, "nonce": begun.get("nonce"), "iat": now, "exp": now + 300, "sid": f"sid-{user}",
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(), "auth_time": now - ago, "jti": None,
            "acr": self.acr or None,
            **self.extra, **changed,
        }  # fmt: skip
        broken: dict[str, dict[str, Any]] = {
            "nonce": {"nonce": "another"},
            "no nonce": {"nonce": None},
            "audience": {"aud": "another"},
            "two audiences": {"aud": [CLIENT_ID, "another"]},
            "azp": {"azp": "another"},
            "issuer": {"iss": "https://other.example.com"},
            "expired": {"exp": now - 600, "iat": now - 900},
            "old": {"iat": now - 3600},
            "future": {"iat": now + 3600},
            "no iat": {"iat": None},
            "no sub": {"sub": None},
            "long sub": {"sub": "s" * 256},
            "at_hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
            "events": {"events": {LOGOUT_EVENT: {}}},
        }
        stranger = RSAKey.generate_key(2048, auto_kid=True) if self.wrong == "signature" else None
        token = self.mint(key=stranger, **{**claims, **broken.get(self.wrong, {})})
        if self.wrong == "unsigned":
            head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
            token = f"{head}.{token.split('.')[1]}."
        return token

    async def _userinfo(self, request: web.BaseRequest) -> web.StreamResponse:
        user = self._access[request.headers["Authorization"].removeprefix("Bearer ")]
        if self.wrong == "userinfo is a list":
            return _json(200, ["sub"])
        subject = "sub-mallory" if self.wrong == "sub of userinfo" else f"sub-{user}"
        return _json(200, {"sub": subject, "groups": ["from-userinfo"], **self.more_userinfo})

    async def _logout(self, request: web.BaseRequest) -> web.StreamResponse:
        self.logouts.append(dict(request.query))
        return web.Response(status=302, headers={"Location": request.query["post_logout_redirect_uri"]})

    @staticmethod
    def _is_client(request: web.BaseRequest, form: Mapping[str, str]) -> bool:
        sent = request.headers.get("Authorization", "")
        if sent.startswith("Basic "):
            user, _, password = base64.b64decode(sent[6:]).decode().partition(":")
            return (unquote_plus(user), unquote_plus(password)) == (CLIENT_ID, CLIENT_SECRET)
        if "client_assertion" in form:
            return True
        return form.get("client_id") == CLIENT_ID and form.get("client_secret") == CLIENT_SECRET


@dataclass
class Browser:
    """Keeps cookies as browsers do, by host without its port, and follows redirects with a navigation's headers."""

    cookies: dict[str, str] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    async def get(self, url: str, *, headers: Sequence[tuple[str, str]] = NAVIGATION, follow: bool = True) -> Reply:
        """Navigate. ``seen`` has the URL of every step."""
        self.seen = []
        while True:
            reply = await self.send(url, headers=headers)
            location = reply.all("Location")
            if not follow or not location:
                return reply
            url = urljoin(url, location[0])
            assert len(self.seen) < 10, self.seen

    async def send(
        self, url: str, method: str = "GET", *, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
    ) -> Reply:
        """One request with our cookies."""
        self.seen.append(url)
        sent = [*headers]
        if self.cookies:
            sent.append(("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items())))
        reply = await asyncio.to_thread(request, url, method, headers=sent, body=body)
        for line in reply.all("Set-Cookie"):
            pair, *attributes = [part.strip() for part in line.split(";")]
            name, _, value = pair.partition("=")
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return reply


def query_of(url: str) -> dict[str, str]:
    """The query of ``url``."""
    return dict(parse_qsl(urlsplit(url).query))


def _json(status: int, document: object) -> web.Response:
    return web.Response(status=status, text=json.dumps(document), content_type="application/json")
