"""Presents forged tokens to a SASL/OAUTHBEARER listener of Kafka, which must refuse them."""

import base64
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from sidecar.clock import SystemClock
from sidecar.config.load import Loaded
from sidecar.config.providers import has_own_keys
from sidecar.config.settings import KafkaSettings
from sidecar.errors import Problem
from sidecar.kafka.check import LoginOutcome, present
from sidecar.keys.signing import SigningKey, SigningKeys
from sidecar.tokens.jwt.jose import sign
from sidecar.tokens.upstream.assertion import new_assertion_key

_PATH = "kafka.client"
_SUBJECT = "sidecar-kafka-check"
_LIFETIME = 300


def check_listener(loaded: Loaded, kafka: KafkaSettings, listener: str, audience: str) -> Iterator[Problem]:
    """Present each kind of bad token to ``listener``, and a good one if own keys can sign it.

    Without the good one, a listener that refuses every token would look like one that verifies them.
    """
    settings = loaded.settings
    own: SigningKey | None = None
    issuer = loaded.providers[0].issuer if loaded.providers else None
    if has_own_keys(settings.jwt_token_configuration):
        own = SigningKeys(settings.jwt_token_configuration, allow_published=settings.allow_published_secrets).signing
        issuer = settings.jwt_token_configuration.jwtissuer
    print(f"Tokens presented to the OAUTHBEARER listener {listener}:")
    for kind, token in _forged(issuer or "https://issuer.invalid", audience, own):
        answer = present(kafka, listener, token)
        print(f"  {kind}: {answer.value}")
        if answer is LoginOutcome.ACCEPTED:
            text = f"the listener {listener} accepts a token {kind}: any client can log in with any name"
            advice = "Kafka 4.1.0 and 4.1.1 do by default: upgrade, and set jwks.endpoint.url, issuer and audience"
            yield Problem(_PATH, f"{text}. {advice}")
        elif answer is LoginOutcome.UNKNOWN:
            yield Problem(_PATH, f"the listener {listener} gave no answer to a token {kind}: nothing is known about it")
            return
    if own is None:
        text = "no good token was presented, because there are no own keys: a listener that refuses all tokens passes"
        yield Problem(_PATH, text, fatal=False)
        return
    answer = present(kafka, listener, _signed(own, _claims(issuer or "", audience)))
    print(f"  good: {answer.value}")
    if answer is not LoginOutcome.ACCEPTED:
        text = f"the listener {listener} does not accept a good token of {issuer} with the audience {audience}"
        yield Problem(
            _PATH,
            f"{text}, so the refusals prove little; compare its jwks.endpoint.url, expected.issuer and "
            "expected.audience, or name its audience with --audience",
            fatal=False,
        )


def _claims(issuer: str, audience: str, *, age: int = 0) -> dict[str, Any]:
    now = int(SystemClock.now()) - age
    return {
        "iss": issuer, "aud": audience, "sub": _SUBJECT, "scope": "kafka", "jti": str(uuid4()), "iat": now,
        "exp": now + _LIFETIME,
    }  # fmt: skip


def _forged(issuer: str, audience: str, own: SigningKey | None) -> Iterator[tuple[str, str]]:
    """Bad tokens, each with words that complete "a token ..."."""
    claims = _claims(issuer, audience)
    stranger = SigningKey(own.kid if own else "unknown", "ES256", new_assertion_key())
    signed = _signed(stranger, claims)
    yield "with a broken signature", f"{signed.rpartition('.')[0]}.AAAA"
    yield "signed with another key", signed
    yield "without a signature", f"{_encoded({'alg': 'none'})}.{_encoded(claims)}."
    if own is not None:
        yield "that has expired", _signed(own, _claims(issuer, audience, age=3 * 3600))
        yield "for another audience", _signed(own, _claims(issuer, f"not-{audience}"))
        yield "of another issuer", _signed(own, _claims(f"{issuer}/other", audience))


def _signed(key: SigningKey, claims: dict[str, Any]) -> str:
    return sign({"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}, claims, key.key)


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
