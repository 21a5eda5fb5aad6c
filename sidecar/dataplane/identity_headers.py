"""The identity headers for the upstream: their names, their encoding, and the headers that must be removed.

Names are compared in a normal form, see :func:`normal_name`.
"""

import logging
import re
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol
from urllib.parse import quote

from sidecar.authn.base import Accepted
from sidecar.errors import Cause, Reason, Refused
from sidecar.identity.actor import Actor
from sidecar.metrics import Metrics

_log = logging.getLogger("sidecar.identity_headers")

NAMES = (
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Auth-Request-Preferred-Username",
    "X-Auth-Request-Groups",
    "X-Auth-Actor-Type",
    "X-Auth-Actor-Urn",
    "X-Auth-Issuer",
    "X-Auth-Token-Id",
    "X-Auth-Client",
    "X-Auth-Scopes",
    "X-Auth-Acting",
)
ASSERTION = "X-Auth-Assertion"
DATAHUB_ACTOR = "X-DataHub-Actor"
_GROUPS = "X-Auth-Request-Groups"
# a DataHub without authentication treats a request without this header, or with an empty one, as its system client
_DATAHUB_ANONYMOUS = {DATAHUB_ACTOR: "urn:li:corpuser:anonymous"}
_IMPERSONATE = "x-impersonate-user"

# Headers that upstreams of other proxies trust; removed from requests whether the sidecar sets them or not.
NEVER_FORWARDED = (
    *NAMES, ASSERTION, "X-Auth-Status",
    "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Preferred-Username", "X-Forwarded-Groups",
    "X-Forwarded-Access-Token", "Remote-User", "Remote-Email", "Remote-Groups", "Remote-Name", "X-Remote-User",
    "X-WEBAUTH-USER", "X-Auth-Params-Email", DATAHUB_ACTOR,
)  # fmt: skip
_ALWAYS_STRIPPED = frozenset(name.lower() for name in NEVER_FORWARDED)
_STRIPPED_PREFIXES = ("x-datahub-delegated-for-", "x-auth-request-", "x-auth-actor-")

# instead of a block over its budget; no block of a caller is empty, because every Actor has a name
_DOES_NOT_FIT = b""
# How long a header block with minted tokens is kept, in seconds: far less than they live.
_KEEP_MINTED = 30.0

# Visible ASCII but the percent sign stands for itself.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")
_SAFE_IN_LIST = _SAFE.replace(",", "")
_NO_ALNUM = re.compile(r"[^0-9a-z]")
_PLAIN = re.compile(r"[\x21-\x24\x26-\x7e]*+").fullmatch


def normal_name(name: str) -> str:
    """``name`` in lower case, with ``-`` for every character that is no ASCII letter or digit.

    CGI and what follows it (RFC 3875 section 4.1.18; lighttpd, Apache httpd, WSGI) make one variable of all names that
    have the same normal form, so ``X-Auth!Request!User`` is ``X-Auth-Request-User`` to them.
    """
    return _NO_ALNUM.sub("-", name.lower())


def encode_value(value: str) -> str:
    """A header value in visible ASCII: all else percent-encoded as UTF-8, the percent sign too."""
    return value if _PLAIN(value) else quote(value, safe=_SAFE, errors="replace")


def encode_list(values: Iterable[str]) -> str:
    """A comma-separated header value; commas inside a member are percent-encoded."""
    return ",".join(
        [
            value if _PLAIN(value) and "," not in value else quote(value, safe=_SAFE_IN_LIST, errors="replace")
            for value in values
        ]
    )


class Statements(Protocol):
    """Creates short-lived signed statements about Actors for the upstream."""

    def token_for(self, actor: Actor, *, with_groups: bool = True) -> str:
        """A statement with minutes left to live, often the same as last time."""


class UpstreamCredentialSource(Protocol):
    """Creates credentials of Actors for the upstream."""

    def authorization_for(self, actor: Actor) -> str:
        """An ``Authorization`` value with minutes left to live; often the same as last time."""


class IdentityHeaders:
    """Encodes the complete header set of an Actor once, and keeps it with the verified token.

    ``max_bytes`` bounds the identity headers, ``max_total_bytes`` these with assertion and credential.
    ``variant`` keeps the blocks of two instances with different budgets apart, for one Actor.
    ``datahub_actor``: ``X-DataHub-Actor`` belongs to the set. It is ``anonymous`` without an Actor, never blank. An
    Actor that has one of ``admin_names`` and is no admin is ``anonymous`` too: that server knows admins by urn alone.
    """

    def __init__(
        self,
        *,
        strip: Iterable[str],
        max_bytes: int,
        max_total_bytes: int,
        assertion: Statements | None,
        credential: UpstreamCredentialSource | None,
        datahub_actor: bool = False,
        admin_names: frozenset[str] = frozenset(),
        now: Callable[[], float] = monotonic,
        metrics: Metrics,
        variant: str = "",
    ) -> None:
        self._stripped = _ALWAYS_STRIPPED | {normal_name(name) for name in strip}
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes
        self._check, self._check_trusted = f"check{variant}", f"check{variant}-trusted"
        self._assertion = assertion
        self._credential = credential
        self._datahub_actor = datahub_actor
        self._admin_names = admin_names
        self._now = now
        self._blanked = metrics.headers_blanked
        names = (*NAMES, ASSERTION) if assertion else NAMES
        anonymous = _DATAHUB_ANONYMOUS if datahub_actor else {}
        self._blank = _encode(dict.fromkeys(names, "") | anonymous)
        # a proxy that copies the minted credential must overwrite that of the caller also without an identity
        self._blank_trusted = self._blank + (_encode({"Authorization": ""}) if credential else b"")
        self._forwarded_blank = _encode(anonymous)
        self.names = (*names, *anonymous)

    def is_stripped(self, name: str) -> bool:
        """Whether a header of this (normalised) name is never taken from a caller."""
        return name in self._stripped or name.startswith(_STRIPPED_PREFIXES)

    @staticmethod
    def may_pass_impersonation(name: str, accepted: Accepted | None) -> bool:
        """Whether ``name`` is not OpenMetadata's impersonation header, or its sender may use it."""
        return name != _IMPERSONATE or (
            accepted is not None and accepted.actor.is_bot and accepted.actor.may_impersonate
        )

    def check_block(self, accepted: Accepted | None, *, trusted: bool) -> bytes:
        """The complete set for a check's 200, blank where there is no value. Bearer tokens go to trusted peers only.

        Raises Refused (503) for what does not fit into its budget.
        """
        if accepted is None:
            return self._blank_trusted if trusted else self._blank
        return self._block(accepted, self._check_trusted if trusted else self._check, self._make_check_block, trusted)

    def forward_block(self, accepted: Accepted | None) -> bytes:
        """The set for the upstream without blank values, with the minted ``Authorization``.

        Raises as :meth:`check_block` does.
        """
        if accepted is None:
            return self._forwarded_blank
        return self._block(accepted, "forward", self._make_forward_block, True)

    def _block(
        self,
        accepted: Accepted,
        kind: str,
        make: Callable[[Accepted, bool], tuple[bytes, float]],
        trusted: bool,
    ) -> bytes:
        kept = accepted.derived.get(kind)
        if kept is None or (kept[1] and self._now() >= kept[1]):
            kept = accepted.derived[kind] = make(accepted, trusted)
        if not kept[0]:  # _DOES_NOT_FIT
            detail = f"identity headers over identityHeaders.maxTotalBytes ({self._max_total_bytes} bytes)"
            message = "The identity headers for this caller are too large"
            raise Refused(Reason.TOO_LARGE, Cause.HEADER, detail, status=503, message=message)
        return kept[0]

    def _make_check_block(self, accepted: Accepted, trusted: bool) -> tuple[bytes, float]:
        values = self._values(accepted.actor)
        if self._assertion:
            values[ASSERTION] = ""
        minted, renew_at = self._minted(accepted) if trusted else ({}, 0.0)
        values |= minted
        return (_encode(values) if self._fits(values, accepted.actor) else _DOES_NOT_FIT), renew_at

    def _make_forward_block(self, accepted: Accepted, trusted: bool) -> tuple[bytes, float]:
        minted, renew_at = self._minted(accepted)
        values = {name: value for name, value in (self._values(accepted.actor) | minted).items() if value}
        return (_encode(values) if self._fits(values, accepted.actor) else _DOES_NOT_FIT), renew_at

    def _fits(self, values: dict[str, str], actor: Actor) -> bool:
        """Whether ``values`` are within the whole budget, once groups are left out where that is necessary.

        A credential is never left out: without one the upstream may treat the caller as its guest.
        """
        if _size(values) <= self._max_total_bytes:
            return True
        if values.get(_GROUPS):
            values[_GROUPS] = ""
            self._note_blanked(actor, "groups left blank: identity headers, assertion and credential too large")
        if _size(values) > self._max_total_bytes and self._assertion and values.get(ASSERTION):
            values[ASSERTION] = self._assertion.token_for(actor, with_groups=False)
            self._note_blanked(actor, "groups left out of the assertion: identity headers too large")
        return _size(values) <= self._max_total_bytes

    def _note_blanked(self, actor: Actor, message: str) -> None:
        self._blanked.inc()
        _log.warning(message, extra={"event": "groups_omitted", "provider": actor.provider})

    def _values(self, actor: Actor) -> dict[str, str]:
        name = encode_value(actor.id)
        values = {
            "X-Auth-Request-User": name,
            "X-Auth-Request-Email": encode_value(actor.email),
            "X-Auth-Request-Preferred-Username": name,
            _GROUPS: encode_list(actor.groups),
            "X-Auth-Actor-Type": actor.type.value,
            "X-Auth-Actor-Urn": encode_value(actor.urn),
            "X-Auth-Issuer": encode_value(actor.issuer),
            "X-Auth-Token-Id": encode_value(actor.token_id),
            "X-Auth-Client": encode_value(actor.client),
            "X-Auth-Scopes": " ".join(map(encode_value, actor.scopes)),
            "X-Auth-Acting": encode_value(actor.acting),
        }
        if self._datahub_actor:
            values[DATAHUB_ACTOR] = encode_value(actor.urn)
            if actor.impersonates_admin(self._admin_names):
                _log.warning(
                    "the Actor has the name of an admin without being one; forwarded as anonymous",
                    extra={"event": "admin_name_anonymized", "provider": actor.provider},
                )
                values |= _DATAHUB_ANONYMOUS
        if _size(values) > self._max_bytes:
            values[_GROUPS] = ""
            self._note_blanked(actor, "groups left blank: identity headers too large")
        return values

    def _minted(self, accepted: Accepted) -> tuple[dict[str, str], float]:
        actor = accepted.actor
        minted: dict[str, str] = {}
        if self._assertion:
            # base64url of their JSON is longer than the groups: what cannot fit is not signed first
            may_fit = sum(map(len, actor.groups)) <= self._max_total_bytes
            if not may_fit:
                self._note_blanked(actor, "groups left out of the assertion: identity headers too large")
            minted[ASSERTION] = self._assertion.token_for(actor, with_groups=may_fit)
        if self._credential:
            minted["Authorization"] = accepted.forwarded_authorization or self._credential.authorization_for(actor)
        return minted, self._now() + _KEEP_MINTED if minted else 0.0


def _encode(values: dict[str, str]) -> bytes:
    return "".join([f"{name}: {value}\r\n" for name, value in values.items()]).encode("ascii")


def _size(values: dict[str, str]) -> int:
    """Length of what :func:`_encode` makes of ``values``."""
    return sum(map(len, values)) + sum(map(len, values.values())) + 4 * len(values)
