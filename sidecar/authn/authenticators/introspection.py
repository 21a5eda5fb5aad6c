"""Opaque bearer tokens, asked about at the server that issued them (RFC 7662)."""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import quote_plus

import orjson
from authlib.oauth2.client import OAuth2Client
from pydantic import Field

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.bearer import BearerAuthenticator
from sidecar.authn.support.credential_cache import Questions
from sidecar.authn.support.dependency_probe import DependencyProbe
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Model
from sidecar.errors import AFTER_SIGNATURE, Cause, Misconfigured, Problem, Reason, Refused, Unavailable
from sidecar.identity.claims import make_actor
from sidecar.outbound import Answer, ControlClient, OutboundError, check_url
from sidecar.secrets.value import Secret
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import provider_validation
from sidecar.tokens.jwt.verify import check_claims
from sidecar.tokens.submitted import jwt_digest, token_digest

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_MAX_BYTES = 64 * 1024
_REFUSED_FOR = 60.0
_MAX_UNKNOWN_PER_SECOND = 20
# What a server may call an access token; a refresh token or a bound one is none that a caller may present here.
_TOKEN_TYPES = frozenset({"bearer", "access_token", "access token"})


class IntrospectionOptions(Model):
    """Where to ask, and whose tokens they are."""

    provider: Annotated[str, Field(min_length=1)]
    """Name in ``authenticationConfiguration.providers``: its issuer, audiences and mapping hold for these tokens."""
    url: Annotated[str, Field(min_length=1)]
    """The server's introspection endpoint."""
    client_id: Annotated[str, Field(min_length=1)]
    """Who asks."""
    client_secret: Secret
    """The asking client's secret."""
    auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """How the secret is sent."""
    jwts: bool = False
    """Ask about JWTs of this issuer too, instead of verifying them here; list it before ``jwt`` then."""
    cache: Annotated[Duration, Field(ge=0, le=60)] = 60.0
    """How long an active token is remembered, never past its ``exp``."""
    within: Annotated[Duration, Field(gt=0, le=30)] = 3.0
    """Time for one question."""


class _Client(OAuth2Client):  # type: ignore[misc] # authlib has no types
    """authlib's client over the one HTTP client for control traffic; it keeps no token."""

    def __init__(self, control: ControlClient, options: IntrospectionOptions, *, allow_insecure: bool) -> None:
        method = options.auth_method
        super().__init__(None, options.client_id, options.client_secret.reveal(), token_endpoint_auth_method=method)
        if method == "client_secret_basic":
            self.token_endpoint_auth_method = _basic
        self._control = control
        self._within = options.within
        self._allow_insecure = allow_insecure

    async def _http_post(self, url: str, body: str, auth: Any, headers: Mapping[str, str], **_: Any) -> Answer:
        url, sent, body = auth.prepare("POST", url, dict(headers), body)
        return await self._control.post(
            url, body.encode(), sent, within=self._within, max_bytes=_MAX_BYTES, allow_insecure=self._allow_insecure
        )


def _basic(client: Any, method: str, uri: str, headers: dict[str, str], body: str) -> tuple[str, dict[str, str], str]:
    """RFC 6749 section 2.3.1: both parts are form-encoded first, which authlib leaves out."""
    pair = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    return uri, {**headers, "Authorization": f"Basic {b64encode(pair.encode()).decode()}"}, body


class Introspection(BearerAuthenticator):
    """Decides on bearer tokens that the server calls active. Others may know those that it does not."""

    Options = IntrospectionOptions
    options: IntrospectionOptions

    def __init__(self, options: IntrospectionOptions, surroundings: AuthenticatorContext) -> None:
        questions = Questions(surroundings.clock, _MAX_UNKNOWN_PER_SECOND)
        super().__init__(options, surroundings, refused_for=_REFUSED_FOR, questions=questions)
        provider = surroundings.providers.get(options.provider)
        if provider is None or provider.issuer is None:
            known = ", ".join(sorted(surroundings.providers)) or "none"
            raise Misconfigured([self._fault(f"provider {options.provider!r} is not configured; there are: {known}")])
        try:
            check_url(options.url, allow_insecure=provider.allow_insecure_urls)
        except OutboundError as error:
            raise Misconfigured([self._fault(f"url cannot be used: {error.detail}")]) from error
        self._issuers = frozenset({provider.issuer, *provider.issuer_aliases})
        self._issuer = provider.issuer
        self._expected = replace(provider_validation(provider, None), require_expiry=False)
        self._policy = surroundings.policies[options.provider]
        self._client = _Client(surroundings.client, options, allow_insecure=provider.allow_insecure_urls)
        self._recovery = DependencyProbe(self.name, self.check)

    def _fault(self, text: str) -> Problem:
        return Problem(f"authenticator {self.name}", text)

    @classmethod
    def describe(cls, options: IntrospectionOptions) -> str:
        """Which credentials it decides on."""
        jwts = f", and JWTs of {options.provider}" if options.jwts else ""
        return f"opaque Bearer tokens that {options.provider} calls active{jwts}"

    @property
    def unavailable_reason(self) -> str:
        """Why the endpoint does not answer, as the last look at it has shown."""
        return self._recovery.problem

    async def check(self) -> list[str]:
        """Ask about a token that nobody has issued: a server that lets us ask calls it inactive."""
        try:
            answer = await self._introspect("auth-sidecar-check")
        except Unavailable as failure:
            return [failure.detail]
        return ["calls a made-up token active"] if answer["active"] else []

    async def stop(self) -> None:
        """Stop asking."""
        await super().stop()
        await self._recovery.aclose()

    async def verify(self, token: str, digest: bytes) -> Outcome:
        """Ask the server. Raises Unavailable when it gives no answer, or was asked too often about unknown tokens."""
        if len(token) > self.surroundings.max_token_bytes or not _TOKEN.fullmatch(token):
            return Abstained(Refused(Reason.TOKEN_MALFORMED, Cause.ENCODING))
        if not self._is_mine(token):
            return ABSTAINED
        return await self.ask_once(digest, lambda: self._introspect_once(token, digest))

    def _is_mine(self, token: str) -> bool:
        if token.count(".") != 2:
            return True
        try:
            read = parse(token, self.surroundings.max_token_bytes)
        except Refused:
            return not token.startswith("eyJ")  # three parts and no JWT: opaque after all
        return self.options.jwts and read.issuer in self._issuers

    def _jwt(self, token: str) -> Unverified | None:
        try:
            return parse(token, self.surroundings.max_token_bytes)
        except Refused:
            return None

    async def _introspect_once(self, token: str, digest: bytes) -> Outcome:
        jwt = self._jwt(token)
        try:
            answer = await self._introspect(token)
        except Unavailable:
            self._recovery.report_failure()
            raise
        if not answer["active"]:
            inactive = Refused(Reason.TOKEN_INVALID, Cause.INACTIVE)
            # a member after this one would find a revoked JWT's signature good
            return Abstained(inactive) if jwt is None else Rejected(inactive, self.options.provider)
        now = self.surroundings.clock.now()
        claims = {name: value for name, value in answer.items() if name != "active"}
        claims.setdefault("iss", self._issuer)
        if jwt is not None:  # the answer may leave out what the deny list goes by
            claims = {name: jwt.claims[name] for name in ("jti", "iat") if name in jwt.claims} | claims
        try:
            with AFTER_SIGNATURE:  # the server's word stands for one
                _check_token_type(claims)
                check_claims(claims, self._expected, now)
                actor = make_actor(claims, self._policy)
        except Refused as refusal:
            return Rejected(refusal, self.options.provider)
        leeway, starts, ends = self._expected.leeway, claims.get("nbf"), claims.get("exp")
        accepted = Accepted(
            actor,
            not_before=None if starts is None else starts - leeway,
            expires_at=None if ends is None else ends + leeway,
            revocation_keys=revocation_keys(
                replace(actor, subject=_denied_as(claims)), token_digest(token) if jwt is None else jwt_digest(jwt)
            ),
        )
        remaining = self.options.cache if ends is None else min(self.options.cache, ends - now)
        self._memory.put(digest, accepted, remaining)
        return accepted

    async def _introspect(self, token: str) -> Mapping[str, Any]:
        """The server's answer, ``active`` a boolean. Raises Unavailable for anything else."""
        try:
            answer = await self._client.introspect_token(self.options.url, token, "access_token")
            content = orjson.loads(answer.body)
        except OutboundError as error:
            raise _no_answer(error.detail) from error
        except orjson.JSONDecodeError as error:
            raise _no_answer("its answer is not JSON") from error
        if not isinstance(content, dict) or not isinstance(content.get("active"), bool):
            raise _no_answer("its answer does not say whether the token is active")
        return content


def _no_answer(text: str) -> Unavailable:
    return Unavailable(Cause.INTROSPECTION_UNAVAILABLE, f"the introspection endpoint: {text}")


def _denied_as(claims: Mapping[str, Any]) -> str:
    """The subject by which the deny list knows the token: where the answer has no ``sub``, whoever else it is for.

    The Actor has none then: a client may be called as somebody's ``sub``, and would manage his tokens.
    """
    for name in ("sub", "username", "client_id"):
        value = claims.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _check_token_type(claims: Mapping[str, Any]) -> None:
    kind = claims.get("token_type", "Bearer")
    if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
        raise Refused(Reason.TOKEN_INVALID, Cause.TOKEN_TYPE)
