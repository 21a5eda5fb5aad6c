"""``{prefix}/token`` (RFC 6749 section 3.2), its metadata (RFC 8414), and ``{prefix}/authorize``, which it has not."""

import re
from binascii import Error, a2b_base64
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import web

from sidecar.access.decide import Decider
from sidecar.api.body import BodyReader, bad_request, parse_query
from sidecar.config.settings import ASYMMETRIC_ALGORITHMS
from sidecar.errors import Cause, Failed, MethodNotAllowed, RateLimited, Reason, Refused, Unavailable
from sidecar.identity.request import Scheme, read_credential
from sidecar.logs import current_request
from sidecar.metrics import Metrics
from sidecar.store.record import Owner, TokenRecord
from sidecar.tokens.exchange.issue import Issued
from sidecar.tokens.exchange.refusal import INVALID_CLIENT, INVALID_REQUEST, GrantRefused
from sidecar.tokens.exchange.service import (
    ACCESS_TOKEN_TYPE,
    GRANTS,
    TOKEN_EXCHANGE,
    BasicClient,
    GrantRequest,
    GrantService,
    Subject,
)
from sidecar.tokens.issued.service import Caller, TokenService
from sidecar.tokens.jwt.compact import parse
from sidecar.web.error_responses import ErrorResponses, json_answer
from sidecar.web.request import connection_of, request_id

_ROUTE = "token"
MAX_FORM_BYTES = 64 * 1024
_MAX_BASIC = 8192
_MAX_CLIENT_ID = 256
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class SubjectTokens:
    """Validates tokens with the authentication chain, as if they authenticated a request."""

    def __init__(self, decider: Decider, tokens: TokenService, max_bytes: int) -> None:
        self._decider = decider
        self._tokens = tokens
        self._max_bytes = max_bytes

    async def validate(self, token: str) -> Subject:
        """The accepted ``token``, which must be a JWT. Raises Refused, and Unavailable."""
        jwt = parse(token, self._max_bytes)
        judged = await self._decider.apply_rules(token)
        failure, accepted = judged.failure, judged.accepted
        if failure is not None:
            raise failure
        if accepted is None:
            raise Refused(Reason.TOKEN_INVALID, Cause.ISSUER)
        caller = await self._tokens.caller(accepted.actor, is_own=accepted.is_own, record_id=accepted.record_id)
        return Subject(
            accepted.actor,
            jwt.claims,
            jwt.digest,
            _owner(caller, caller.record),
            accepted.is_own,
            caller.record,
            is_bound=accepted.certificate is not None,
        )


def _owner(caller: Caller, record: TokenRecord | None) -> Owner:
    """Whose token it is: the owner of an issued token, else the subject of its issuer."""
    if record is not None and record.owner.issuer:
        return record.owner
    actor = caller.actor
    return Owner(actor.issuer, actor.provider, actor.subject, actor.id)


class TokenEndpoint:
    """Answers token requests within the limits of ``decider``. ``address_of`` returns the address of the caller."""

    methods = ("POST",)

    def __init__(
        self,
        grants: GrantService,
        decider: Decider,
        bodies: BodyReader,
        error_responses: ErrorResponses,
        address_of: Callable[[web.BaseRequest], str],
        metrics: Metrics,
    ) -> None:
        self._grants = grants
        self._decider = decider
        self._bodies = bodies
        self._error_responses = error_responses
        self._address_of = address_of
        self._metrics = metrics

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """200 with a token, or an error response with the ``error`` of RFC 6749."""
        current_request.set(request_id(request))
        grant = "other"
        try:
            if request.method not in self.methods:
                raise MethodNotAllowed(*self.methods)
            parse_query(request, ())
            fields = {name: value for name, value in (await self._read(request)).items() if value}
            grant = _label(fields.get("grant_type", ""))
            basic = _basic_client(request)
            asked = GrantRequest(fields, basic, self._address_of(request))
            issued = await self._decider.within_limits(self._grants.grant(asked))
        except Failed as failure:
            return self._refuse(request, failure, grant)
        self._count(grant, issued.record.name, "issued")
        return json_answer(200, _answer(issued, fields["grant_type"]))

    async def _read(self, request: web.BaseRequest) -> dict[str, str]:
        return await self._bodies.read_form(request, is_decided=False)

    def _refuse(self, request: web.BaseRequest, failure: Failed, grant: str) -> web.StreamResponse:
        error = _oauth_error(failure)
        self._count(grant, failure.client if isinstance(failure, GrantRefused) else "", error)
        scheme = "Basic" if error == INVALID_CLIENT else ""
        return self._error_responses.refuse(
            request, connection_of(request), failure, route=_ROUTE, oauth_error=error, scheme=scheme
        )

    def _count(self, grant: str, client: str, outcome: str) -> None:
        self._metrics.token_requests.labels(grant, client or "unknown", outcome).inc()


def _answer(issued: Issued, grant: str) -> dict[str, object]:
    answer: dict[str, object] = {
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "scope": issued.scope,
    }
    if grant == TOKEN_EXCHANGE:
        answer["issued_token_type"] = ACCESS_TOKEN_TYPE
    return answer


def _label(grant: str) -> str:
    return grant.rpartition(":")[2] if grant in GRANTS else "other"


def _oauth_error(failure: Failed) -> str:
    if isinstance(failure, GrantRefused):
        return failure.error
    if isinstance(failure, Unavailable):
        return "temporarily_unavailable"
    return "slow_down" if isinstance(failure, RateLimited) else INVALID_REQUEST


def _basic_client(request: web.BaseRequest) -> BasicClient | None:
    """Client id and secret of ``Basic``. Raises Refused for other schemes. Cookies are not looked at.

    Both are form-encoded (RFC 6749 section 2.3.1), but many clients send them as they are: both readings count.
    """
    credential = read_credential(request.headers)
    if credential.scheme is Scheme.NOTHING:
        return None
    if credential.scheme is not Scheme.OTHER or credential.scheme_text.lower() != "basic":
        raise bad_request("Authorization must be Basic with client id and secret, once")
    if len(credential.value) > _MAX_BASIC:
        raise bad_request("The credentials of Basic are too long")
    try:
        text = a2b_base64(credential.value.encode("ascii"), strict_mode=True).decode("utf-8")
    except (Error, ValueError):
        raise bad_request("The credentials of Basic are not base64 of UTF-8") from None
    identifier, _, secret = text.partition(":")
    if not identifier or not secret or len(identifier) > _MAX_CLIENT_ID:
        raise bad_request("The credentials of Basic must hold client id and secret")
    return BasicClient(_form_decoded(identifier), tuple(dict.fromkeys((_form_decoded(secret), secret))))


def _form_decoded(text: str) -> str:
    """``text`` decoded; unchanged if it is not form-encoded."""
    if not text.isascii() or _ESCAPE.search(text):
        return text
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode("utf-8")
    except UnicodeDecodeError:
        return text


class AuthorizeEndpoint:
    """The sidecar issues no authorization codes. Clients require the address of an authorization endpoint to read the
    metadata of a server; a browser that is sent here gets an error and is never redirected.
    """

    async def __call__(self, request: web.BaseRequest, rest: str) -> web.StreamResponse:
        """400, whatever the request is."""
        document = {
            "error": "unsupported_response_type",
            "error_description": "This server only issues tokens at its token endpoint",
        }
        return json_answer(400, document)


def server_metadata(issuer: str, scopes: tuple[str, ...]) -> tuple[bytes, str]:
    """The metadata document of the token endpoint, and its entity tag."""
    algorithms = list(ASYMMETRIC_ALGORITHMS)
    document = orjson.dumps(
        {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "jwks_uri": f"{issuer}/jwks",
            "revocation_endpoint": f"{issuer}/revoke",
            "introspection_endpoint": f"{issuer}/introspect",
            "scopes_supported": list(scopes),
            "response_types_supported": [],
            "grant_types_supported": list(GRANTS),
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": algorithms,
        }
    )
    return document, f'"{sha256(document).hexdigest()[:32]}"'
