"""Tokens of Kubernetes service accounts, verified with the cluster's own keys.

Every cluster may call its issuer the same, so the keys come from the API server of this one and nowhere else. What is
verified offline does not see that a pod or an account is gone: short-lived tokens bound to an audience are the remedy,
or to ask the API server about each one (TokenReview).
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field

from sidecar.authn.base import Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.bearer import BearerAuthenticator
from sidecar.config.providers import OUR_NAMESPACE, Provider
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Model, Names, Text
from sidecar.errors import AFTER_SIGNATURE, Cause, Misconfigured, Problem, Reason, Refused, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import make_actor
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient, OutboundError
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.jwt.compact import Unverified, json_object, parse
from sidecar.tokens.jwt.policy import provider_validation
from sidecar.tokens.jwt.verify import VerifiedClaims, verify
from sidecar.tokens.submitted import jwt_digest

_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_SUBJECT = re.compile(r"system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})")
_AMBIGUOUS = "[A-Za-z0-9:._-]*"
_TEMPLATE = re.compile(rf"{_AMBIGUOUS}\{{(namespace|name)\}}({_AMBIGUOUS})\{{(?!\1}})(?:namespace|name)\}}{_AMBIGUOUS}")
_ALGORITHMS = frozenset({"RS256", "ES256", "ES384", "ES512"})
_MAX_CACHED = 300.0
_REFUSED_FOR = 10.0  # whoever holds a token of an account that is gone could keep the API server busy
_MAX_TOKEN_FILE = 64 * 1024
_REVIEW_TIMEOUT = 3.0
_MAX_REVIEW = 256 * 1024


def _template(text: str) -> str:
    """Two accounts never make one Actor: no namespace holds any of ``:._``, so one of them ends it or begins it."""
    match = _TEMPLATE.fullmatch(text)
    if match is None:
        raise ValueError("must hold {namespace} and {name} once, joined by letters, digits and :._-")
    if not re.search("[:._]", match[2]):
        raise ValueError("must hold one of :._ between {namespace} and {name}, or two accounts make one Actor")
    return text


class KubernetesOptions(Model):
    """Which cluster, and which of its tokens."""

    audiences: Annotated[tuple[str, ...], Field(min_length=1)]
    """Accepted ``aud`` values, of projected tokens made for this service; never the API server's own."""
    namespaces: Names = ()
    """Namespaces whose accounts may come in; empty: all."""
    actor: Annotated[str, AfterValidator(_template)] = "system:serviceaccount:{namespace}:{name}"
    """Id of the Actor."""
    issuer: Text = ""
    """``iss`` of the cluster's tokens; absent: that of the pod's own token."""
    api_server: str = "https://kubernetes.default.svc"
    """Where the keys are, below ``/openid/v1/jwks``."""
    ca_file: str = f"{_MOUNT}/ca.crt"
    """The cluster's CA."""
    token_file: str = f"{_MOUNT}/token"
    """The pod's own token, presented for the keys; read anew each time."""
    allow_insecure_urls: bool = False
    """Accept ``http`` for an ``apiServer`` that is not on loopback."""
    clock_skew: Duration = 10.0
    """Tolerance for times."""
    review: bool = False
    """Ask the API server about every token (TokenReview), which knows what is gone."""
    cache: Annotated[Duration, Field(ge=0, le=60)] = 30.0
    """How long its word is believed."""


class Kubernetes(BearerAuthenticator):
    """Decides on Bearer JWTs of the cluster's issuer. Their Actors are of type SERVICE."""

    Options = KubernetesOptions
    options: KubernetesOptions

    def __init__(self, options: KubernetesOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings, refused_for=_REFUSED_FOR)
        self._policy = replace(
            surroundings.policy, actor_type=ActorType.SERVICE, principal_claims=(ClaimPath('"actor of the token"'),)
        )
        self._issuers = frozenset({options.issuer} if options.issuer else ())
        self._fault = self._foreign(options.issuer) if options.issuer else ""
        if self._fault:
            raise Misconfigured([Problem(f"authenticator {self.name}", self._fault)])
        self._own_token_read = float("-inf")
        self._api = options.api_server.rstrip("/")
        self._client: ControlClient | None = None
        self._keys: ProviderKeys | None = None

    @classmethod
    def describe(cls, options: KubernetesOptions) -> str:
        """Which credentials it decides on."""
        whose = f"of {', '.join(options.namespaces)}" if options.namespaces else "of every namespace"
        return f"Bearer tokens of Kubernetes service accounts {whose} for {', '.join(options.audiences)}"

    @property
    def issuers(self) -> frozenset[str]:
        """What the cluster calls itself, and has called itself."""
        return self._issuers

    @property
    def unavailable_reason(self) -> str:
        """Why there are no keys."""
        if self._keys is None:
            return "not started"
        status = self._keys.status()
        return "" if status.usable else status.problem or "no keys yet"

    @property
    def degraded_reason(self) -> str:
        """Why the keys are not fetched anew."""
        return "" if self._keys is None else self._keys.status().problem

    async def check(self) -> Sequence[str]:
        """Whether the cluster's keys can be had, and its word on a token: here on none, to see whether we may ask."""
        await self.start()
        try:
            keys = self._keys
            while keys is not None and not keys.status().tried:  # noqa: ASYNC110 - keys tell no event
                await asyncio.sleep(0.02)
            if self.options.review and not self.unavailable_reason:
                await self._request_review({"token": "auth-sidecar-check"})
            return [self.unavailable_reason] if self.unavailable_reason else []
        except Unavailable as failure:
            return [failure.detail]
        finally:
            await self.stop()

    async def start(self) -> None:
        """Begin to fetch keys; the API server may be away."""
        options = self.options
        if not self._issuers:
            self._discover_issuer()
        if not self._issuers:
            text = self._fault or f"{options.token_file} holds no token of the cluster; mount one, or set issuer"
            raise Misconfigured([Problem(f"authenticator {self.name}", text)])
        self._client = ControlClient(options.ca_file, headers=self._credentials)
        provider = Provider(
            self.name,
            None,  # may change: see _verified
            key_urls=(f"{self._api}/openid/v1/jwks",),
            audiences=frozenset(options.audiences),
            algorithms=_ALGORITHMS,
            clock_skew=options.clock_skew,
            allow_insecure_urls=options.allow_insecure_urls,
        )
        self._expected = provider_validation(provider, None)
        surroundings = self.surroundings
        metrics = surroundings.metrics or Metrics()
        self._keys = ProviderKeys(provider, surroundings.keys, self._client, metrics, surroundings.clock, None)
        await self._keys.start()

    async def stop(self) -> None:
        """Stop fetching."""
        await super().stop()
        if self._keys is not None:
            await self._keys.aclose()
        if self._client is not None:
            await self._client.aclose()

    async def verify(self, token: str, digest: bytes) -> Outcome:
        """Verify the token. Raises Unavailable when the keys cannot be had, or the API server's word."""
        try:
            parsed = parse(token, self.surroundings.max_token_bytes)
        except Refused as refusal:
            return Abstained(refusal)
        if not self._is_issuer(parsed.issuer):
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ISSUER))
        try:
            verified = await self._verified(parsed)
            with AFTER_SIGNATURE:
                accepted = self._accepted(parsed, verified)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if self.options.review:
            return await self.ask_once(digest, lambda: self._reviewed(token, digest, accepted))
        self._memory.put(digest, accepted, _MAX_CACHED)
        return accepted

    async def _verified(self, token: Unverified) -> VerifiedClaims:
        keys = self._keys
        assert keys is not None  # noqa: S101 - started before it is asked
        if token.algorithm not in self._expected.algorithms:
            raise Refused(Reason.TOKEN_INVALID, Cause.ALGORITHM)
        candidates = keys.candidates(token.kid, token.algorithm) or await keys.refetch(token.kid, token.algorithm)
        expected = replace(self._expected, issuers=self._issuers)
        return verify(token, candidates, expected, self.surroundings.clock.now())

    async def _reviewed(self, token: str, digest: bytes, accepted: Accepted) -> Outcome:
        """Rejected when the account is gone, or what the token is bound to. Raises Unavailable without an answer."""
        audiences = self.options.audiences
        status = await self._request_review({"token": token, "audiences": audiences})
        if status.get("authenticated") is not True:
            return self._gone()
        user, good_for = status.get("user"), status.get("audiences")
        named = user.get("username") if isinstance(user, dict) else None
        ours = isinstance(good_for, list) and any(audience in good_for for audience in audiences)
        if named != accepted.actor.subject or not ours:
            raise _no_review("the answer is about somebody else, or about another audience")
        self._memory.put(digest, accepted, self.options.cache)
        return accepted

    def _gone(self) -> Rejected:
        failure = Refused(Reason.TOKEN_REVOKED, Cause.INACTIVE)
        failure.is_signed = True  # its signature was found good before the API server was asked
        return Rejected(failure, self.name)

    async def _request_review(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The ``status`` of a TokenReview (authentication.k8s.io/v1). Raises Unavailable."""
        assert self._client is not None  # noqa: S101 - started before it is asked
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        try:
            answer = await self._client.post(
                f"{self._api}/apis/authentication.k8s.io/v1/tokenreviews",
                orjson.dumps(review),
                {"Content-Type": "application/json"},
                within=_REVIEW_TIMEOUT,
                max_bytes=_MAX_REVIEW,
                allow_insecure=self.options.allow_insecure_urls,
            )
            status = json_object(answer.body, Cause.ENCODING).get("status")
        except OutboundError as error:
            raise _no_review(error.detail) from error
        except Refused as error:
            raise _no_review("the answer is not JSON") from error
        if not isinstance(status, dict):
            raise _no_review("the answer has no status")
        return status

    def _accepted(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        namespace, name = _account(verified)
        if self.options.namespaces and namespace not in self.options.namespaces:
            raise Refused(Reason.PRINCIPAL_INVALID, Cause.NAMESPACE)
        actor_id = self.options.actor.replace("{namespace}", namespace).replace("{name}", name)
        actor = make_actor({**verified.claims, "actor of the token": actor_id}, self._policy)
        skew, ends = self.options.clock_skew, verified.expires_at
        ends = None if ends is None else ends + skew
        # without jti the deny list knows a token by the digest of what was signed
        facts = revocation_keys(actor, "" if actor.token_id else jwt_digest(token))
        return Accepted(actor, verified.key, expires_at=ends, revocation_keys=facts)

    def _credentials(self) -> Mapping[str, str]:
        """The kubelet renews the file well before the token's end."""
        try:
            return {"Authorization": f"Bearer {self._own_token()}"}
        except OSError:
            return {}  # clusters may let anybody read their keys

    def _own_token(self) -> str:
        with Path(self.options.token_file).open("rb") as stream:
            return stream.read(_MAX_TOKEN_FILE).decode("ascii", "replace").strip()

    def _is_issuer(self, name: str | None) -> bool:
        """A cluster may get another name, which the pod's next token tells; its API server takes the old one too."""
        now = self.surroundings.clock.monotonic()
        pause = self.surroundings.keys.unknown_kid_cooldown
        if name not in self._issuers and not self.options.issuer and now - self._own_token_read >= pause:
            self._discover_issuer()
        return name in self._issuers

    def _discover_issuer(self) -> None:
        """Take up the issuer of the pod's own token, unless it is another's: see :meth:`_foreign`."""
        self._own_token_read = self.surroundings.clock.monotonic()
        with suppress(OSError, Refused):
            issuer = parse(self._own_token(), _MAX_TOKEN_FILE).issuer
            self._fault = self._foreign(issuer) if issuer else ""
            self._issuers |= {issuer} if issuer and not self._fault else set()

    def _foreign(self, issuer: str) -> str:
        """Why ``issuer`` cannot be the cluster's: whose tokens they are would hang on the order of the chain."""
        if issuer.lower().startswith(OUR_NAMESPACE):
            return (
                f"its issuer {issuer} is a name below {OUR_NAMESPACE}, which are the sidecar's own; write the cluster's"
            )
        for provider in self.surroundings.providers.values():
            if issuer in (provider.issuer, *provider.issuer_aliases):
                return f"its issuer {issuer} is that of the provider {provider.name} too; remove one of the two"
        return ""


def _no_review(text: str) -> Unavailable:
    return Unavailable(Cause.INTROSPECTION_UNAVAILABLE, f"TokenReview: {text}")


def _account(verified: VerifiedClaims) -> tuple[str, str]:
    """Namespace and name: ``sub`` and the claim ``kubernetes.io`` must agree on them."""
    match = _SUBJECT.fullmatch(verified.subject)
    bound: Any = verified.claims.get("kubernetes.io")
    account = bound.get("serviceaccount") if isinstance(bound, dict) else None
    if match is None or not isinstance(account, dict):
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, "not a bound token of a service account")
    if (bound.get("namespace"), account.get("name")) != match.groups():
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, "sub and kubernetes.io name two accounts")
    return match[1], match[2]
