"""Opaque bearer tokens, validated by the introspection endpoint of their issuer (RFC 7662)."""

import re
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import orjson
from authlib.oauth2.client import OAuth2Client
from pydantic import Field

from sidecar.authn.base import ABSTAINED, Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.bearer import BearerAuthenticator
from sidecar.authn.support.credential_cache import QueryRateLimiter
from sidecar.authn.support.dependency_probe import DependencyProbe
from sidecar.client_authentication import encode_basic
from sidecar.clock import earliest_of, latest_of
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Model
from sidecar.errors import AFTER_SIGNATURE, Cause, Misconfigured, Problem, Reason, Refused, Unavailable
from sidecar.identity.claims import make_actor
from sidecar.outbound import Answer, ControlClient, OutboundError, check_url
from sidecar.secrets.value import Secret
from sidecar.store.record import hash_token
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.jwt.compact import Unverified, parse
from sidecar.tokens.jwt.policy import provider_validation
from sidecar.tokens.jwt.verify import check_claims

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_MAX_BYTES = 64 * 1024
_REJECTION_LIFETIME = 60.0
_MAX_UNKNOWN_QUERIES_PER_SECOND = 20
# Accepted token_type values: refresh tokens and sender-constrained tokens are rejected.
_TOKEN_TYPES = frozenset({"bearer", "access_token", "access token"})


class IntrospectionOptions(Model):
    """The introspection endpoint, and the provider whose tokens it validates."""

    provider: Annotated[str, Field(min_length=1)]
    """Name in ``authenticationConfiguration.providers``: its issuer, audiences and mapping apply to these tokens."""
    url: Annotated[str, Field(min_length=1)]
    """URL of the introspection endpoint."""
    client_id: Annotated[str, Field(min_length=1)]
    """Client id of the sidecar at that endpoint."""
    client_secret: Secret
    """Client secret of the sidecar."""
    auth_method: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """How the client secret is sent."""
    jwts: bool = False
    """Introspect JWTs of this issuer too, instead of verifying them locally; requires a position before ``jwt``."""
    cache: Annotated[Duration, Field(ge=0, le=60)] = 60.0
    """How long an active token is cached, at most until its ``exp``."""
    within: Annotated[Duration, Field(gt=0, le=30)] = 3.0
    """Time limit of one introspection request."""


class _Client(OAuth2Client):  # type: ignore[misc] # authlib has no types
    """authlib's OAuth 2.0 client on top of the shared HTTP client for control traffic. It stores no token."""

    def __init__(self, control: ControlClient, options: IntrospectionOptions, *, allow_insecure: bool) -> None:
        method = options.auth_method
        super().__init__(None, options.client_id, options.client_secret.reveal(), token_endpoint_auth_method=method)
        if method == "client_secret_basic":
            self.token_endpoint_auth_method = encode_basic
        self._control = control
        self._within = options.within
        self._allow_insecure = allow_insecure

    async def _http_post(self, url: str, body: str, auth: Any, headers: Mapping[str, str], **_: Any) -> Answer:
        url, sent, body = auth.prepare("POST", url, dict(headers), body)
        return await self._control.post(
            url, body.encode(), sent, within=self._within, max_bytes=_MAX_BYTES, allow_insecure=self._allow_insecure
        )


class Introspection(BearerAuthenticator):
    """Decides on bearer tokens that the endpoint reports as active. Abstains from inactive opaque tokens."""

    Options = IntrospectionOptions
    options: IntrospectionOptions

    def __init__(self, options: IntrospectionOptions, surroundings: AuthenticatorContext) -> None:
        questions = QueryRateLimiter(surroundings.clock, _MAX_UNKNOWN_QUERIES_PER_SECOND)
        super().__init__(options, surroundings, rejection_lifetime=_REJECTION_LIFETIME, query_limiter=questions)
        provider = surroundings.providers.get(options.provider)
        if provider is None or provider.issuer is None:
            known = ", ".join(sorted(surroundings.providers)) or "none"
            raise Misconfigured([self._problem(f"provider {options.provider!r} is not configured; known: {known}")])
        try:
            check_url(options.url, allow_insecure=provider.allow_insecure_urls)
        except OutboundError as error:
            raise Misconfigured([self._problem(f"url cannot be used: {error.detail}")]) from error
        self._issuers = frozenset({provider.issuer, *provider.issuer_aliases})
        self._issuer = provider.issuer
        self._expected = replace(provider_validation(provider, None), require_expiry=False)
        self._policy = surroundings.policies[options.provider]
        self._client = _Client(surroundings.client, options, allow_insecure=provider.allow_insecure_urls)
        self._probe = DependencyProbe(self.name, self.check)

    def _problem(self, text: str) -> Problem:
        return Problem(f"authenticator {self.name}", text)

    @classmethod
    def describe(cls, options: IntrospectionOptions) -> str:
        """The credentials that this authenticator decides on."""
        jwts = f", and JWTs of {options.provider}" if options.jwts else ""
        return f"opaque Bearer tokens that {options.provider} reports as active{jwts}"

    @property
    def unavailable_reason(self) -> str:
        """Why the endpoint could not be reached by the last probe."""
        return self._probe.problem

    async def check(self) -> list[str]:
        """Introspect a token that does not exist: the server accepts the client if it answers "inactive"."""
        try:
            answer = await self._introspect("auth-sidecar-check")
        except Unavailable as failure:
            return [failure.detail]
        return ["reports a token as active that does not exist"] if answer["active"] else []

    async def stop(self) -> None:
        """Cancel introspection requests and the dependency probe."""
        await super().stop()
        await self._probe.aclose()

    def verify(self, token: str, digest: bytes) -> Outcome | Awaitable[Outcome]:
        """Introspect the token. Raises Unavailable if the endpoint does not answer or the limit of unknown tokens is
        reached.
        """
        if len(token) > self.surroundings.max_token_bytes or not _TOKEN.fullmatch(token):
            return Abstained(Refused(Reason.TOKEN_MALFORMED, Cause.ENCODING))
        if not self._is_handled(token):
            return ABSTAINED
        return self.query_once(digest, lambda: self._validate(token, digest))

    def _is_handled(self, token: str) -> bool:
        if token.count(".") != 2:
            return True
        try:
            read = parse(token, self.surroundings.max_token_bytes)
        except Refused:
            return not token.startswith("eyJ")  # three parts and no JWT: opaque after all
        return self.options.jwts and read.issuer in self._issuers

    def _parsed_jwt(self, token: str) -> Unverified | None:
        try:
            return parse(token, self.surroundings.max_token_bytes)
        except Refused:
            return None

    async def _validate(self, token: str, digest: bytes) -> Outcome:
        jwt = self._parsed_jwt(token)
        try:
            answer = await self._introspect(token)
        except Unavailable:
            self._probe.report_failure()
            raise
        if not answer["active"]:
            inactive = Refused(Reason.TOKEN_INVALID, Cause.INACTIVE)
            # a later authenticator would accept a revoked JWT by its signature
            return Abstained(inactive) if jwt is None else Rejected(inactive, self.options.provider)
        now, earliest = latest_of(self.surroundings.clock)(), earliest_of(self.surroundings.clock)()
        claims = {name: value for name, value in answer.items() if name != "active"}
        claims.setdefault("iss", self._issuer)
        if jwt is not None:  # the answer may omit the claims that revocation entries refer to
            claims = {name: jwt.claims[name] for name in ("jti", "iat") if name in jwt.claims} | claims
        try:
            with AFTER_SIGNATURE:  # the endpoint's answer replaces the signature
                _check_token_type(claims)
                check_claims(claims, self._expected, now, earliest)
                actor = make_actor(claims, self._policy)
        except Refused as refusal:
            return Rejected(refusal, self.options.provider)
        leeway, not_before, expires_at = self._expected.leeway, claims.get("nbf"), claims.get("exp")
        accepted = Accepted(
            actor,
            not_before=None if not_before is None else not_before - leeway,
            expires_at=None if expires_at is None else expires_at + leeway,
            revocation_keys=revocation_keys(
                replace(actor, subject=_revocation_subject(claims)),
                hash_token(token) if jwt is None else jwt.digest,
            ),
        )
        remaining = self.options.cache if expires_at is None else min(self.options.cache, expires_at - now)
        self._cache.put(digest, accepted, remaining)
        return accepted

    async def _introspect(self, token: str) -> Mapping[str, Any]:
        """The endpoint's answer, whose ``active`` is a boolean. Raises Unavailable for any other answer."""
        try:
            answer = await self._client.introspect_token(self.options.url, token, "access_token")
            content = orjson.loads(answer.body)
        except OutboundError as error:
            raise _unavailable(error.detail) from error
        except orjson.JSONDecodeError as error:
            raise _unavailable("the response is not JSON") from error
        if not isinstance(content, dict) or not isinstance(content.get("active"), bool):
            raise _unavailable("the response has no boolean member active")
        return content


def _unavailable(text: str) -> Unavailable:
    return Unavailable(Cause.INTROSPECTION_UNAVAILABLE, f"the introspection endpoint: {text}")


def _revocation_subject(claims: Mapping[str, Any]) -> str:
    """The subject for look-ups in the revocation list: without ``sub``, the user name or client id of the answer.

    The Actor itself has no subject then: a client id may equal another user's ``sub`` and would manage that user's
    tokens.
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
