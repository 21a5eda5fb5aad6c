"""Record headers: the credential in them, what must be removed, and the headers of the Actor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from multidict import CIMultiDict

from sidecar.dataplane.identity_headers import encode_value, normal_name
from sidecar.errors import Cause, Failed, Reason, Refused
from sidecar.identity.actor import Actor
from sidecar.identity.request import Credential, read_credential

Header = tuple[str, bytes | None]

_ALWAYS_STRIPPED = frozenset({"authorization", "proxy-authorization", "cookie", "x-datahub-actor"})
_STRIPPED_PREFIX = "x-auth-"
_MAX_NAMES = 1000
# of the format of records: per record and per header, rounded up
_RECORD_BYTES = 64
_HEADER_BYTES = 10


@dataclass(frozen=True, slots=True)
class RecordOrigin:
    """Where a record is in the inbound topic."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(slots=True)
class Record:
    """One record without its credential and without headers that claim an identity.

    ``timestamp`` is in milliseconds. ``is_broker_time``: the broker set it when the record was appended.
    ``unreadable``: why its headers cannot be read; None: they can.
    """

    origin: RecordOrigin
    key: bytes | None
    value: bytes | None
    timestamp: int
    is_broker_time: bool
    headers: list[Header]
    credential: Credential
    unreadable: Refused | None = None


class _Use(Enum):
    KEEP = 0
    STRIP = 1
    CREDENTIAL = 2


class HeaderReader:
    """Splits the headers of records. ``credential`` is the header with the credential; empty: none is read.

    Names are compared in their normal form: consumers may treat all its spellings as one. ``is_stripped`` says which
    further names, in normal form, must not come from a client.
    """

    def __init__(self, credential: str, is_stripped: Callable[[str], bool]) -> None:
        self._credential = normal_name(credential) if credential else None
        self._is_stripped = is_stripped
        self._uses: dict[str, _Use] = {}

    def split(self, headers: Sequence[Header]) -> tuple[Credential, list[Header]]:
        """The credential, and the headers that are kept, in order."""
        lines: list[str] = []
        kept: list[Header] = []
        for header in headers:
            name, value = header
            use = self._uses.get(name) or self._use(name)
            if use is _Use.KEEP:
                kept.append(header)
            elif use is _Use.CREDENTIAL:
                lines.append("" if value is None else value.decode("latin-1"))
        return read_credential(CIMultiDict([("Authorization", line) for line in lines])), kept

    def _use(self, name: str) -> _Use:
        normal = normal_name(name)
        if normal == self._credential:
            use = _Use.CREDENTIAL
        elif normal in _ALWAYS_STRIPPED or normal.startswith(_STRIPPED_PREFIX) or self._is_stripped(normal):
            use = _Use.STRIP
        else:
            use = _Use.KEEP
        if len(self._uses) >= _MAX_NAMES:  # clients choose the names
            self._uses.clear()
        self._uses[name] = use
        return use


def actor_headers(actor: Actor) -> list[Header]:
    """The headers that name ``actor``. Values are visible ASCII, as the identity headers of HTTP requests."""
    values = {
        "X-Auth-Actor-Urn": actor.urn,
        "X-Auth-Actor-Type": actor.type.value,
        "X-Auth-Issuer": actor.issuer,
        "X-Auth-Token-Id": actor.token_id,
    }
    return [(name, encode_value(value).encode("ascii")) for name, value in values.items()]


def origin_header(origin: RecordOrigin) -> Header:
    """The header that says where the record was read."""
    return "X-Auth-Origin", str(origin).encode("ascii")


def size_of(record: Record, headers: Sequence[Header]) -> int:
    """Size of the record with these headers, not less than what a broker counts."""
    size = _RECORD_BYTES + len(record.key or b"") + len(record.value or b"")
    return size + sum(_HEADER_BYTES + 4 * len(name) + len(value or b"") for name, value in headers)


def dead_letter_headers(
    origin: RecordOrigin, failure: Failed, request_id: str, at: str, token_id: str = ""
) -> list[Header]:
    """The headers of a refused record: nothing of the record itself. ``token_id`` is that of an accepted token."""
    values = {
        "reason": failure.reason.value,
        "cause": failure.cause.value,
        "requestId": request_id,
        "origin": str(origin),
        "at": at,
        **({"tokenId": encode_value(token_id)} if token_id else {}),
    }
    return [(name, value.encode("ascii")) for name, value in values.items()]


def headers_unreadable() -> Refused:
    """The refusal of a record whose header names are no UTF-8."""
    return Refused(Reason.REQUEST_INVALID, Cause.RECORD_HEADERS)


def too_large(size: int, limit: int) -> Refused:
    """The refusal of a record that does not fit into the protected topic."""
    return Refused(Reason.TOO_LARGE, Cause.RECORD_SIZE, f"{size} bytes with the headers of the Actor; limit {limit}")
