"""Tokens of Kubernetes service accounts, verified with the keys of one cluster.

Clusters may share an issuer name, so the keys come only from the API server of this cluster. Offline verification does
not notice that a pod or a service account was deleted: use short-lived tokens bound to an audience, or let the API
server review every token (TokenReview).
"""

import asyncio
import re
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, Field

from sidecar.authn.base import Abstained, Accepted, AuthenticatorContext, Outcome, Rejected
from sidecar.authn.support.bearer import BearerAuthenticator
from sidecar.clock import earliest_of, latest_of
from sidecar.concurrency import Steps, run_steps
from sidecar.config.providers import OUR_NAMESPACE, Provider
from sidecar.config.reading.units import Duration
from sidecar.config.settings import Model, Names, Text
from sidecar.errors import AFTER_SIGNATURE, Cause, Misconfigured, Problem, Reason, Refused, Unavailable, quoted
from sidecar.identity.actor import ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import make_actor
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient, OutboundError
from sidecar.store.replica.revocation_list import revocation_keys
from sidecar.tokens.exchange.assertions import check_remaining, check_sole_audience
from sidecar.tokens.jwt.compact import Unverified, json_object, parse
from sidecar.tokens.jwt.policy import provider_validation
from sidecar.tokens.jwt.verify import VerifiedClaims, check_algorithm, verify

_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_SUBJECT = re.compile(r"system:serviceaccount:([a-z0-9-]{1,63}):([a-z0-9.-]{1,253})")
_LITERAL = "[A-Za-z0-9:._-]*"
_TEMPLATE = re.compile(rf"{_LITERAL}\{{(namespace|name)\}}({_LITERAL})\{{(?!\1}})(?:namespace|name)\}}{_LITERAL}")
_ALGORITHMS = frozenset({"RS256", "ES256", "ES384", "ES512"})
_CACHE_LIFETIME = 300.0
_REJECTION_LIFETIME = 10.0  # limits the reviews that a token of a deleted account can cause
_MAX_TOKEN_FILE = 64 * 1024
_REVIEW_TIMEOUT = 3.0
_MAX_REVIEW = 256 * 1024


def _validated_template(text: str) -> str:
    """Check that two accounts never map to one Actor: namespaces contain none of ``:._``, so one of these separates the
    parts.
    """
    match = _TEMPLATE.fullmatch(text)
    if match is None:
        raise ValueError("must contain {namespace} and {name} once each, joined by letters, digits and :._-")
    if not re.search("[:._]", match[2]):
        raise ValueError(
            "must contain one of :._ between {namespace} and {name}; otherwise two accounts map to one Actor"
        )
    return text


class KubernetesOptions(Model):
    """The cluster, and which of its tokens are accepted."""

    audiences: Annotated[tuple[str, ...], Field(min_length=1)]
    """Accepted ``aud`` values of projected tokens made for this service; never the API server's own audience."""
    namespaces: Names = ()
    """Namespaces whose service accounts are accepted; empty: all."""
    actor: Annotated[str, AfterValidator(_validated_template)] = "system:serviceaccount:{namespace}:{name}"
    """Id of the Actor."""
    issuer: Text = ""
    """``iss`` of the cluster's tokens; absent: the issuer of the pod's own token."""
    api_server: str = "https://kubernetes.default.svc"
    """URL of the API server; the keys are fetched from ``/openid/v1/jwks`` below it."""
    ca_file: str = f"{_MOUNT}/ca.crt"
    """The cluster's CA bundle."""
    token_file: str = f"{_MOUNT}/token"
    """The pod's own token, sent with requests to the API server; read again for each request."""
    allow_insecure_urls: bool = False
    """Allow ``http`` for an ``apiServer`` that is not on loopback."""
    clock_skew: Duration = 10.0
    """Tolerance for times."""
    review: bool = False
    """Ask the API server about every token (TokenReview), so that deleted pods and accounts are rejected."""
    cache: Annotated[Duration, Field(ge=0, le=60)] = 30.0
    """How long a review result is cached."""


class Kubernetes(BearerAuthenticator):
    """Decides on bearer JWTs of the cluster's issuer. The Actors are of type SERVICE."""

    Options = KubernetesOptions
    options: KubernetesOptions

    def __init__(self, options: KubernetesOptions, surroundings: AuthenticatorContext) -> None:
        super().__init__(options, surroundings, rejection_lifetime=_REJECTION_LIFETIME)
        self._policy = replace(
            surroundings.policy, actor_type=ActorType.SERVICE, principal_claims=(ClaimPath('"actor of the token"'),)
        )
        self._issuers = frozenset({options.issuer} if options.issuer else ())
        self._issuer_problem = self._issuer_conflict(options.issuer) if options.issuer else ""
        if self._issuer_problem:
            raise Misconfigured([Problem(f"authenticator {self.name}", self._issuer_problem)])
        self._pod_token_read_at = float("-inf")
        self._api = options.api_server.rstrip("/")
        self._client: ControlClient | None = None
        self._keys: ProviderKeys | None = None

    @classmethod
    def describe(cls, options: KubernetesOptions) -> str:
        """The credentials that this authenticator decides on."""
        whose = f"of {', '.join(options.namespaces)}" if options.namespaces else "of every namespace"
        return f"Bearer tokens of Kubernetes service accounts {whose} for {', '.join(options.audiences)}"

    @property
    def issuers(self) -> frozenset[str]:
        """The current and former issuer names of the cluster."""
        return self._issuers

    @property
    def unavailable_reason(self) -> str:
        """Why there are no usable keys."""
        if self._keys is None:
            return "not started"
        status = self._keys.status()
        return "" if status.usable else status.problem or "no keys yet"

    @property
    def degraded_reason(self) -> str:
        """Why the last attempt to refresh the keys failed."""
        return "" if self._keys is None else self._keys.status().problem

    async def check(self) -> Sequence[str]:
        """Check that the keys can be fetched and, with ``review``, that TokenReview requests are allowed."""
        await self.start()
        try:
            keys = self._keys
            while keys is not None and not keys.status().attempted:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.02)
            if self.options.review and not self.unavailable_reason:
                await self._request_review({"token": "auth-sidecar-check"})
            return [self.unavailable_reason] if self.unavailable_reason else []
        except Unavailable as failure:
            return [failure.detail]
        finally:
            await self.stop()

    async def start(self) -> None:
        """Start fetching keys in the background; the API server may be down."""
        options = self.options
        if not self._issuers:
            self._discover_issuer()
        if not self._issuers:
            text = (
                self._issuer_problem
                or f"{options.token_file} contains no token of the cluster; mount one, or set issuer"
            )
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
        """Stop fetching keys."""
        await super().stop()
        if self._keys is not None:
            await self._keys.aclose()
        if self._client is not None:
            await self._client.aclose()

    def owns(self, token: Unverified) -> bool:
        """Whether ``token`` claims to be of this cluster."""
        return self._is_issuer(token.issuer)

    def issuer_of(self, token: Unverified) -> str:
        """The issuer of a token of this cluster."""
        return token.issuer or ""

    async def verify_assertion(self, token: Unverified, audience: str) -> VerifiedClaims:
        """The claims of a token whose ``aud`` is ``audience`` alone, for the token endpoint. ``audiences`` and
        ``namespaces`` of the options do not apply.

        Raises Refused, and Unavailable if the keys cannot be fetched or the TokenReview fails.
        """
        keys = self._keys
        assert keys is not None  # noqa: S101 - start() runs before the first request
        expected = replace(
            self._expected, audiences=frozenset(), issuers=self._issuers, leeway=0.0, early=self.options.clock_skew
        )
        check_algorithm(token, expected)
        candidates = keys.candidates(token.kid, token.algorithm)
        if not candidates:
            candidates = await keys.refetch(token.kid, token.algorithm)
        clock = self.surroundings.clock
        now = latest_of(clock)()
        verified = verify(token, candidates, expected, now, earliest_of(clock)())
        check_sole_audience(token, (audience,))
        check_remaining(verified.expires_at, now)
        _account(verified)
        if self.options.review and not await self._is_in_force(token.text, verified.subject, (audience,)):
            raise self._token_gone().failure
        return verified

    def verify(self, token: str, digest: bytes) -> Outcome | Awaitable[Outcome]:
        """Verify the token. Raises Unavailable if the keys cannot be fetched or the TokenReview fails."""
        try:
            parsed = parse(token, self.surroundings.max_token_bytes)
        except Refused as refusal:
            return Abstained(refusal)
        if not self._is_issuer(parsed.issuer):
            detail = f"iss is {quoted(parsed.issuer)}, which is not the cluster's"
            return Abstained(Refused(Reason.TOKEN_INVALID, Cause.ISSUER, detail))
        return run_steps(self._verification(token, parsed, digest))

    def _verification(self, text: str, token: Unverified, digest: bytes) -> Steps[Outcome]:
        keys = self._keys
        assert keys is not None  # noqa: S101 - start() runs before the first request
        try:
            check_algorithm(token, self._expected)
            candidates = keys.candidates(token.kid, token.algorithm)
            if not candidates:
                candidates = yield keys.refetch(token.kid, token.algorithm)
            expected = replace(self._expected, issuers=self._issuers)
            clock = self.surroundings.clock
            verified = verify(token, candidates, expected, latest_of(clock)(), earliest_of(clock)())
            with AFTER_SIGNATURE:
                accepted = self._accepted(token, verified)
        except Refused as refusal:
            return Rejected(refusal, self.name)
        if not self.options.review:
            self._cache.put(digest, accepted, _CACHE_LIFETIME)
            return accepted
        outcome = self.query_once(digest, lambda: self._review(text, digest, accepted))
        if isinstance(outcome, Awaitable):
            outcome = yield outcome
        return outcome

    async def _review(self, token: str, digest: bytes, accepted: Accepted) -> Outcome:
        """Rejected if the account or the object that the token is bound to was deleted. Raises Unavailable without an
        answer.
        """
        if not await self._is_in_force(token, accepted.actor.subject, self.options.audiences):
            return self._token_gone()
        self._cache.put(digest, accepted, self.options.cache)
        return accepted

    async def _is_in_force(self, token: str, subject: str, audiences: Sequence[str]) -> bool:
        """Whether the API server accepts ``token`` for one of ``audiences``. Raises Unavailable without an answer."""
        status = await self._request_review({"token": token, "audiences": audiences})
        if status.get("authenticated") is not True:
            return False
        user, good_for = status.get("user"), status.get("audiences")
        named = user.get("username") if isinstance(user, dict) else None
        ours = isinstance(good_for, list) and any(audience in good_for for audience in audiences)
        if named != subject or not ours:
            raise _review_failed("the response names another user or another audience")
        return True

    def _token_gone(self) -> Rejected:
        failure = Refused(Reason.TOKEN_REVOKED, Cause.INACTIVE)
        failure.is_signed = True  # the signature was verified before the review
        return Rejected(failure, self.name)

    async def _request_review(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The ``status`` of a TokenReview (authentication.k8s.io/v1). Raises Unavailable."""
        assert self._client is not None  # noqa: S101 - start() runs before the first request
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
            raise _review_failed(error.detail) from error
        except Refused as error:
            raise _review_failed("the response is not JSON") from error
        if not isinstance(status, dict):
            raise _review_failed("the response has no status")
        return status

    def _accepted(self, token: Unverified, verified: VerifiedClaims) -> Accepted:
        namespace, name = _account(verified)
        if self.options.namespaces and namespace not in self.options.namespaces:
            raise Refused(Reason.PRINCIPAL_INVALID, Cause.NAMESPACE)
        actor_id = self.options.actor.replace("{namespace}", namespace).replace("{name}", name)
        actor = make_actor({**verified.claims, "actor of the token": actor_id}, self._policy)
        skew, ends = self.options.clock_skew, verified.expires_at
        ends = None if ends is None else ends + skew
        # a token without jti is identified by its digest in the revocation list
        keys = revocation_keys(actor, "" if actor.token_id else token.digest)
        return Accepted(actor, verified.key, expires_at=ends, revocation_keys=keys)

    def _credentials(self) -> Mapping[str, str]:
        """Read for each request: the kubelet renews the file well before the token expires."""
        try:
            return {"Authorization": f"Bearer {self._pod_token()}"}
        except OSError:
            return {}  # some clusters serve their keys without authentication

    def _pod_token(self) -> str:
        with Path(self.options.token_file).open("rb") as stream:
            return stream.read(_MAX_TOKEN_FILE).decode("ascii", "replace").strip()

    def _is_issuer(self, name: str | None) -> bool:
        """Whether ``name`` is an issuer of this cluster.

        A cluster can be given a new issuer name, which appears in the pod's next token; its API server accepts the old
        one too.
        """
        now = self.surroundings.clock.monotonic()
        pause = self.surroundings.keys.unknown_kid_cooldown
        if name not in self._issuers and not self.options.issuer and now - self._pod_token_read_at >= pause:
            self._discover_issuer()
        return name in self._issuers

    def _discover_issuer(self) -> None:
        """Add the issuer of the pod's own token, unless it belongs to another provider (:meth:`_issuer_conflict`)."""
        self._pod_token_read_at = self.surroundings.clock.monotonic()
        with suppress(OSError, Refused):
            issuer = parse(self._pod_token(), _MAX_TOKEN_FILE).issuer
            self._issuer_problem = self._issuer_conflict(issuer) if issuer else ""
            self._issuers |= {issuer} if issuer and not self._issuer_problem else set()

    def _issuer_conflict(self, issuer: str) -> str:
        """Why ``issuer`` cannot be this cluster's: with two owners, the order of the authenticators would decide about
        a token.
        """
        if issuer.lower().startswith(OUR_NAMESPACE):
            return (
                f"issuer {issuer} is in the namespace {OUR_NAMESPACE}, which is reserved for the sidecar; "
                "set issuer to the cluster's own issuer"
            )
        for provider in self.surroundings.providers.values():
            if issuer in (provider.issuer, *provider.issuer_aliases):
                return f"issuer {issuer} is also the issuer of provider {provider.name}; remove one of the two"
        return ""


def _review_failed(text: str) -> Unavailable:
    return Unavailable(Cause.INTROSPECTION_UNAVAILABLE, f"TokenReview: {text}")


def _account(verified: VerifiedClaims) -> tuple[str, str]:
    """Namespace and name of the account; ``sub`` and the claim ``kubernetes.io`` must agree."""
    match = _SUBJECT.fullmatch(verified.subject)
    bound: Any = verified.claims.get("kubernetes.io")
    account = bound.get("serviceaccount") if isinstance(bound, dict) else None
    if match is None or not isinstance(account, dict):
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, "not a bound token of a service account")
    if (bound.get("namespace"), account.get("name")) != match.groups():
        raise Refused(Reason.PRINCIPAL_INVALID, Cause.PRINCIPAL_MALFORMED, "sub and kubernetes.io name two accounts")
    return match[1], match[2]
