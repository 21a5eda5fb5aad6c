"""The error family of the package, and the public reason ids with their responses.

A request can fail in three ways, which end differently:

- :class:`Refused`: the credential or the request was evaluated and rejected (4xx),
- :class:`Unavailable`: no decision is possible now: a dependency is down and nothing is cached (503),
- :class:`UpstreamFailed`: the upstream failed (502, 504).

:class:`Misconfigured` ends the start or the command, never a request.
"""

import json
import os
import socket
from dataclasses import dataclass
from enum import StrEnum

_MAX_QUOTED = 5
_MAX_QUOTED_LENGTH = 128


class Reason(StrEnum):
    """Stable public ids of rejections. Deliberately few: they must not disclose which check failed (:class:`Cause`)."""

    TOKEN_MISSING = "token_missing"
    TOKEN_MALFORMED = "token_malformed"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"
    TOKEN_INVALID = "token_invalid"
    TOKEN_REVOKED = "token_revoked"
    PRINCIPAL_INVALID = "principal_invalid"
    PRINCIPAL_RESERVED = "principal_reserved"
    DOMAIN_NOT_ALLOWED = "domain_not_allowed"
    CREDENTIALS_INVALID = "credentials_invalid"
    CREDENTIALS_AMBIGUOUS = "credentials_ambiguous"
    SESSION_ENDED = "session_ended"
    LOGIN_FAILED = "login_failed"
    STEP_UP_REQUIRED = "step_up_required"
    CROSS_SITE = "cross_site"
    FORBIDDEN = "forbidden"
    SCOPE_MISSING = "scope_missing"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limited"
    TOO_LARGE = "too_large"
    REQUEST_INVALID = "request_invalid"
    UNAVAILABLE = "unavailable"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"


class Cause(StrEnum):
    """The exact cause of a :class:`Reason`: for log, metric label and ``token explain``, never for the response."""

    NONE = "none"
    # the request
    CREDENTIALS_ABSENT = "credentials_absent"
    CREDENTIALS_MULTIPLE = "credentials_multiple"
    SCHEME_UNKNOWN = "scheme_unknown"
    CREDENTIALS_MALFORMED = "credentials_malformed"
    CREDENTIALS_WRONG = "credentials_wrong"
    INACTIVE = "inactive"
    PATH_AMBIGUOUS = "path_ambiguous"
    METHOD_AMBIGUOUS = "method_ambiguous"
    RULE = "rule"
    RULE_ADMIN = "rule_admin"
    RULE_GROUPS = "rule_groups"
    RULE_ROLES = "rule_roles"
    RULE_ACTOR_TYPE = "rule_actor_type"
    RULE_PROVIDER = "rule_provider"
    RULE_CLIENT = "rule_client"
    RULE_AGENT = "rule_agent"
    RULE_SCOPE = "rule_scope"
    CONDITION_INVALID = "condition_invalid"
    CONDITION_GROUPS = "condition_groups"
    CONDITION_EMAILS = "condition_emails"
    CONDITION_EMAIL_DOMAINS = "condition_email_domains"
    PEER_UNTRUSTED = "peer_untrusted"
    # the format of the token
    TOKEN_SIZE = "token_size"
    ENCODING = "encoding"
    HEADER = "header"
    CLAIM_TYPE = "claim_type"
    NOT_A_JWT = "not_a_jwt"
    UNRESOLVED_REFERENCE = "unresolved_reference"
    # the verification of the token
    ISSUER = "issuer"
    ALGORITHM = "algorithm"
    TOKEN_TYPE = "token_type"
    CRITICAL_HEADER = "critical_header"
    UNKNOWN_KID = "unknown_kid"
    KEY_UNUSABLE = "key_unusable"
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    RESOURCE_AUDIENCE = "resource_audience"
    REQUIRED_CLAIM = "required_claim"
    EXPIRY_MISSING = "expiry_missing"
    LIFETIME = "lifetime"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    ISSUED_IN_FUTURE = "issued_in_future"
    PROOF_OF_POSSESSION = "proof_of_possession"
    TOKEN_PLACE = "token_place"
    PUBLISHED_SECRET = "published_secret"
    UPSTREAM_ONLY = "upstream_only"
    # the record of a Kafka topic
    RECORD_HEADERS = "record_headers"
    RECORD_SIZE = "record_size"
    # the token record and the revocation list
    DENIED = "denied"
    NOT_ON_RECORD = "not_on_record"
    RECORD_REVOKED = "record_revoked"
    RECORD_MISMATCH = "record_mismatch"
    BOT_TOKEN_REPLACED = "bot_token_replaced"
    # the browser session
    SESSION_UNKNOWN = "session_unknown"
    SESSION_EXPIRED = "session_expired"
    SESSION_IDLE = "session_idle"
    SESSION_REVOKED = "session_revoked"
    SESSION_UNSEALED = "session_unsealed"
    COOKIE_TWICE = "cookie_twice"
    ORIGIN = "origin"
    FORM_TOKEN = "form_token"
    # the login
    STATE_INVALID = "state_invalid"
    STATE_EXPIRED = "state_expired"
    STATE_USED = "state_used"
    BROWSER_MISMATCH = "browser_mismatch"
    PROVIDER_MISMATCH = "provider_mismatch"
    RESPONSE_ISSUER = "response_issuer"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_ANSWER = "provider_answer"
    CODE_REFUSED = "code_refused"
    CLIENT_REFUSED = "client_refused"
    NONCE = "nonce"
    ACCESS_TOKEN_HASH = "access_token_hash"
    AUTHORIZED_PARTY = "authorized_party"
    USERINFO_SUBJECT = "userinfo_subject"
    AUTHENTICATION_AGE = "authentication_age"
    AUTHENTICATION_CLASS = "authentication_class"
    # the token endpoint
    CLIENT_WRONG = "client_wrong"
    CLIENT_GRANT = "client_grant"
    GRANT_UNKNOWN = "grant_unknown"
    ASSERTION_AUDIENCE = "assertion_audience"
    ASSERTION_REPLAYED = "assertion_replayed"
    WORKLOAD_ONLY = "workload_only"
    WORKLOAD_UNKNOWN = "workload_unknown"
    WORKLOAD_SUBJECT = "workload_subject"
    WORKLOAD_CLAIM = "workload_claim"
    SUBJECT_TOKEN = "subject_token"
    BOT_UNREGISTERED = "bot_unregistered"
    TARGET = "target"
    SCOPE = "scope"
    # the principal
    PRINCIPAL_MISSING = "principal_missing"
    PRINCIPAL_MALFORMED = "principal_malformed"
    EMAIL_UNVERIFIED = "email_unverified"
    RESERVED_NAME = "reserved_name"
    SERVER_BOT = "server_bot"
    DOMAIN = "domain"
    NAMESPACE = "namespace"
    # dependencies
    KEYS_UNAVAILABLE = "keys_unavailable"
    INTROSPECTION_UNAVAILABLE = "introspection_unavailable"
    DIRECTORY_UNAVAILABLE = "directory_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    PROVIDER_UNAVAILABLE = "provider_unavailable"
    SECRETS_MANAGER = "secrets_manager"
    MIRROR_STALE = "mirror_stale"
    BOT_CHECK = "bot_check"
    MEMBER_BROKEN = "member_broken"
    THROTTLED = "throttled"
    DEADLINE = "deadline"
    OVERLOAD = "overload"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class ReasonText:
    """The response to a reason: HTTP status, a text that is safe to disclose, the RFC 6750 ``error`` (empty: none)."""

    status: int
    message: str
    bearer_error: str = ""


# No message may contain the letters "code": OpenMetadata's client searches every response for them.
REASONS: dict[Reason, ReasonText] = {
    Reason.TOKEN_MISSING: ReasonText(401, "Not authorized: no credentials were presented"),
    Reason.TOKEN_MALFORMED: ReasonText(401, "Not authorized: the token cannot be parsed", "invalid_token"),
    Reason.TOKEN_EXPIRED: ReasonText(401, "Not authorized: the token has expired", "invalid_token"),
    Reason.TOKEN_NOT_YET_VALID: ReasonText(401, "Not authorized: the token is not valid yet", "invalid_token"),
    Reason.TOKEN_INVALID: ReasonText(401, "Not authorized: the token is not valid here", "invalid_token"),
    Reason.TOKEN_REVOKED: ReasonText(401, "Not authorized: the token has been revoked", "invalid_token"),
    Reason.PRINCIPAL_INVALID: ReasonText(401, "Not authorized: the token names no usable principal", "invalid_token"),
    Reason.PRINCIPAL_RESERVED: ReasonText(401, "Not authorized: the principal's name is reserved", "invalid_token"),
    Reason.DOMAIN_NOT_ALLOWED: ReasonText(
        401, "Not authorized: the principal's domain is not allowed", "invalid_token"
    ),
    Reason.CREDENTIALS_INVALID: ReasonText(401, "Not authorized: the credentials are not valid"),
    Reason.CREDENTIALS_AMBIGUOUS: ReasonText(400, "The request carries more than one credential", "invalid_request"),
    Reason.SESSION_ENDED: ReasonText(401, "Not authorized: the session has ended"),
    Reason.LOGIN_FAILED: ReasonText(400, "The login has failed"),
    Reason.STEP_UP_REQUIRED: ReasonText(
        401, "Not authorized: this requires a more recent or stronger login", "insufficient_user_authentication"
    ),
    Reason.CROSS_SITE: ReasonText(403, "Forbidden: the request comes from a page of another origin"),
    Reason.FORBIDDEN: ReasonText(403, "Forbidden"),
    Reason.SCOPE_MISSING: ReasonText(403, "Forbidden: the token lacks a scope", "insufficient_scope"),
    Reason.NOT_FOUND: ReasonText(404, "Not found"),
    Reason.METHOD_NOT_ALLOWED: ReasonText(405, "Method not allowed"),
    Reason.CONFLICT: ReasonText(409, "Conflict"),
    Reason.RATE_LIMITED: ReasonText(429, "Too many requests"),
    Reason.TOO_LARGE: ReasonText(413, "The request is too large"),
    Reason.REQUEST_INVALID: ReasonText(400, "The request is not valid"),
    Reason.UNAVAILABLE: ReasonText(503, "The request cannot be checked now"),
    Reason.UPSTREAM_UNREACHABLE: ReasonText(502, "The upstream cannot be reached"),
    Reason.UPSTREAM_TIMEOUT: ReasonText(504, "The upstream did not respond in time"),
}


def quoted(*values: object) -> str:
    """``values`` as ASCII JSON for a log line: at most 128 characters each, and not all of very many."""
    texts = [json.dumps(value, default=str) for value in values[:_MAX_QUOTED]]
    shown = ", ".join(text if len(text) <= _MAX_QUOTED_LENGTH else f'{text[:_MAX_QUOTED_LENGTH]}..."' for text in texts)
    rest = len(values) - _MAX_QUOTED
    return f"{shown} and {rest} more" if rest > 0 else shown or "none"


def system_text(error: Exception) -> str:
    """Why a connection failed, in the words of the operating system; those of a library may quote the peer."""
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "no response in time"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    if isinstance(error, OSError):
        return "no address accepts a connection"
    return f"the connection failed ({type(error).__name__})"


class SidecarError(Exception):
    """Base of every error that this package raises deliberately."""


class Failed(SidecarError):
    """The request fails. ``detail`` is for the log only and never holds a token or secret. Of claim values it holds
    ``iss``, ``aud``, ``kid`` and ``alg``, :func:`quoted`, and times; never a name or an address.

    ``ends_connection``: the start of the next request on the connection is uncertain, so it must be closed.
    ``is_signed``: the rejected token has a valid signature of its issuer, see :data:`AFTER_SIGNATURE`.
    """

    def __init__(
        self,
        reason: Reason,
        cause: Cause = Cause.NONE,
        detail: str = "",
        *,
        status: int | None = None,
        message: str | None = None,
        ends_connection: bool = False,
    ) -> None:
        super().__init__(reason.value, cause.value, detail)
        self.reason = reason
        self.cause = cause
        self.detail = detail
        text = REASONS[reason]
        self.status = text.status if status is None else status
        self.message = text.message if message is None else message
        self.bearer_error = text.bearer_error
        self.ends_connection = ends_connection
        self.is_signed = False


class Refused(Failed):
    """Rejected. No later step may change this to an acceptance."""


class MethodNotAllowed(Refused):
    """The path does not support the method (405). ``allowed`` are the methods that it supports."""

    def __init__(self, *allowed: str, ends_connection: bool = False) -> None:
        super().__init__(Reason.METHOD_NOT_ALLOWED, ends_connection=ends_connection)
        self.allowed = allowed


class StepUpRequired(Refused):
    """The authentication of the person is older than ``max_age`` seconds, or of no class in ``acr_values`` (401)."""

    def __init__(self, cause: Cause, detail: str, max_age: float | None, acr_values: tuple[str, ...]) -> None:
        super().__init__(Reason.STEP_UP_REQUIRED, cause, detail)
        self.max_age = max_age
        self.acr_values = acr_values


class _AfterSignature:
    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Failed):
            error.is_signed = True


AFTER_SIGNATURE = _AfterSignature()
"""``with AFTER_SIGNATURE:`` encloses the checks that follow signature verification; it marks their failures."""


class Unavailable(Failed):
    """No decision is possible now (503). ``retry_after`` is in whole seconds."""

    def __init__(self, cause: Cause, detail: str = "", *, retry_after: int = 5) -> None:
        super().__init__(Reason.UNAVAILABLE, cause, detail)
        self.retry_after = retry_after


class RateLimited(Refused):
    """Rejected because of a limit (429). ``retry_after`` is in whole seconds."""

    def __init__(self, cause: Cause = Cause.THROTTLED, detail: str = "", *, retry_after: int = 60) -> None:
        super().__init__(Reason.RATE_LIMITED, cause, detail)
        self.retry_after = retry_after


class UpstreamFailed(Failed):
    """The upstream failed before its response began (502 or 504)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a configuration: its position, what is wrong, what to do. ``id``, if present, is stable."""

    path: str
    message: str
    file: str = ""
    line: int = 0
    fatal: bool = True
    id: str = ""

    def __str__(self) -> str:
        where = ":".join(part for part in (self.file, str(self.line) if self.line else "") if part)
        return ": ".join(part for part in (where, self.path, self.message) if part)


class Misconfigured(SidecarError):
    """The configuration is invalid. Has all problems that were found, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
