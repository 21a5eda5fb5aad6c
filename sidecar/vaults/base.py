"""What a secrets manager does, and the limits that hold for every call."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from sidecar.errors import SidecarError
from sidecar.outbound import OutboundError, OutboundKind
from sidecar.secrets.ids import VaultKind, id_problem
from sidecar.secrets.resolve import without_final_newline
from sidecar.secrets.value import Secret

T = TypeVar("T")
MAX_VALUE_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 256 * 1024
"""Of one response: the value in JSON or base64, and what surrounds it."""
NEWER_VERSION = "another version was written in the meantime"
"""Detail of a CONFLICT."""
_MAX_CALLS = 8
_RETRY_PAUSE = 0.2
_WRITE_FACTOR = 6.0
"""A write may have to wait until a deleted secret is recovered."""
_MAX_RETRY_AFTER = 300.0
_NOTHING = ("", "null")


class VaultFailure(StrEnum):
    """Why a call failed. A fixed set, so that it can be a metric label."""

    ABSENT = "absent"
    DISABLED = "disabled"
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    CONFLICT = "conflict"
    INVALID = "invalid"
    TLS = "tls"
    THROTTLED = "throttled"
    TIMEOUT = "timeout"
    CONNECT = "connect"
    UNAVAILABLE = "unavailable"


_PASSING = frozenset({VaultFailure.THROTTLED, VaultFailure.TIMEOUT, VaultFailure.CONNECT, VaultFailure.UNAVAILABLE})


class VaultError(SidecarError):
    """A call to a secrets manager failed. ``detail`` is for logs and has no content of a response.

    ``retry_after``: seconds that the secrets manager asks to wait, at most five minutes. ``holds_nothing``: there is a
    secret, and its value is empty, blank or ``null``.
    """

    def __init__(
        self, failure: VaultFailure, detail: str, retry_after: float = 0.0, *, holds_nothing: bool = False
    ) -> None:
        super().__init__(f"{failure.value}: {detail}")
        self.holds_nothing = holds_nothing
        self.failure = failure
        self.detail = detail
        self.retry_after = min(retry_after, _MAX_RETRY_AFTER)

    @property
    def is_passing(self) -> bool:
        """Whether the same call may succeed later without a change by the operator."""
        return self.failure in _PASSING


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """One version of a secret, without its value. Times are seconds since the epoch."""

    version: str
    updated: float | None = None
    not_before: float | None = None
    expires: float | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Held:
    """The value of a secret and its version."""

    value: Secret
    info: VersionInfo


class Vault(Protocol):
    """A secrets manager. Every method raises VaultError; ids have been checked by the caller."""

    kind: VaultKind

    async def get(self, secret_id: str) -> Held:
        """The newest version that is valid now. ABSENT, also after :meth:`delete`; DISABLED; FORBIDDEN; ..."""

    async def set(self, secret_id: str, value: Secret, replaces: str | None = None) -> str:
        """Write a new version and return its name. A deleted secret is recovered or created again.

        ``replaces``: the version that is the newest, empty: there is none; anything else is a CONFLICT. A secrets
        manager without compare-and-set compares before it writes. None: whatever is there.
        """

    async def delete(self, secret_id: str, version: str | None = None) -> None:
        """Delete the secret with all versions. Succeeds if there is none.

        ``version``: delete only if this version is the newest; anything else is a CONFLICT, and what is newer stays. A
        secrets manager without compare-and-delete compares before and after it deletes.
        """

    async def versions(self, secret_id: str) -> tuple[VersionInfo, ...]:
        """The versions, newest first. ABSENT if there is no secret."""

    async def aclose(self) -> None:
        """Close every connection."""


Observe = Callable[[str, str, float], None]
"""Called after each call: operation, outcome (``ok`` or a :class:`VaultFailure`), seconds."""


class BoundedVault:
    """``vault`` with checked ids, at most eight calls at once, a timeout for each, and one retry of calls that read.

    Calls that write have six times the timeout. Only VaultError leaves a call, whatever the library below raises.
    """

    def __init__(self, vault: Vault, timeout: float, observe: Observe | None = None) -> None:
        self.kind = vault.kind
        self._vault = vault
        self._timeout = timeout
        self._observe = observe
        self._slots = asyncio.Semaphore(_MAX_CALLS)

    async def get(self, secret_id: str) -> Held:
        """See :class:`Vault`; the value has been checked."""

        async def call() -> Held:
            held = await self._vault.get(secret_id)
            return Held(checked_value(held.value.reveal()), held.info)

        return await self._call("get", secret_id, call, reads=True)

    async def set(self, secret_id: str, value: Secret, replaces: str | None = None) -> str:
        """See :class:`Vault`."""
        checked_value(value.reveal())
        return await self._call("set", secret_id, lambda: self._vault.set(secret_id, value, replaces))

    async def delete(self, secret_id: str, version: str | None = None) -> None:
        """See :class:`Vault`."""
        await self._call("delete", secret_id, lambda: self._vault.delete(secret_id, version))

    async def versions(self, secret_id: str) -> tuple[VersionInfo, ...]:
        """See :class:`Vault`."""
        return await self._call("versions", secret_id, lambda: self._vault.versions(secret_id), reads=True)

    async def aclose(self) -> None:
        """See :class:`Vault`."""
        await self._vault.aclose()

    async def _call(
        self, operation: str, secret_id: str, call: Callable[[], Awaitable[T]], *, reads: bool = False
    ) -> T:
        if problem := id_problem(self.kind, secret_id):
            raise VaultError(VaultFailure.INVALID, problem)
        started = time.monotonic()
        outcome = "ok"
        try:
            async with self._slots:
                started = time.monotonic()
                return await self._within_timeout(call, reads=reads)
        except VaultError as error:
            outcome = error.failure.value
            raise
        finally:
            if self._observe is not None:
                self._observe(operation, outcome, time.monotonic() - started)

    async def _within_timeout(self, call: Callable[[], Awaitable[T]], *, reads: bool) -> T:
        seconds = self._timeout if reads else self._timeout * _WRITE_FACTOR
        timeout = asyncio.timeout(seconds)
        try:
            async with timeout:
                try:
                    return await call()
                except VaultError as error:
                    if not reads or not error.is_passing or error.retry_after > self._timeout:
                        raise
                    await asyncio.sleep(max(error.retry_after, _RETRY_PAUSE))
                    return await call()
        except TimeoutError:
            if not timeout.expired():
                raise VaultError(VaultFailure.TIMEOUT, "no response in time") from None
            raise VaultError(VaultFailure.TIMEOUT, f"no complete response within {seconds:g} s") from None
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - libraries raise any exception for an invalid response
            # the text of a foreign exception may quote the response, and so a secret
            raise VaultError(VaultFailure.UNAVAILABLE, f"the response is not valid ({type(error).__name__})") from None


def checked_value(text: str) -> Secret:
    """The secret in ``text``, without one final line break. Raises VaultError if it is not usable."""
    value = without_final_newline(text)
    if value.strip() in _NOTHING:
        raise VaultError(VaultFailure.INVALID, "the value is empty, blank or null", holds_nothing=True)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise VaultError(VaultFailure.INVALID, "the value is not UTF-8 text") from None
    if size > MAX_VALUE_BYTES:
        raise VaultError(VaultFailure.INVALID, f"the value has {size} bytes; at most {MAX_VALUE_BYTES} are possible")
    return Secret(value)


def from_outbound(error: OutboundError) -> VaultError:
    """``error`` of the HTTP client as a VaultError."""
    kinds = {
        OutboundKind.TIMEOUT: VaultFailure.TIMEOUT,
        OutboundKind.CONNECT: VaultFailure.CONNECT,
        OutboundKind.PROXY: VaultFailure.CONNECT,
        OutboundKind.TLS: VaultFailure.TLS,
        OutboundKind.STATUS: of_status(error.status),
        OutboundKind.ADDRESS_REFUSED: VaultFailure.INVALID,
        OutboundKind.URL_REFUSED: VaultFailure.INVALID,
    }
    return VaultError(kinds.get(error.kind, VaultFailure.UNAVAILABLE), error.detail, error.retry_after)


def of_status(status: int) -> VaultFailure:
    """The failure that an HTTP status means."""
    known = {
        401: VaultFailure.UNAUTHORIZED,
        403: VaultFailure.FORBIDDEN,
        404: VaultFailure.ABSENT,
        408: VaultFailure.TIMEOUT,
        409: VaultFailure.CONFLICT,
        429: VaultFailure.THROTTLED,
    }
    if status in known:
        return known[status]
    return VaultFailure.INVALID if 400 <= status < 500 else VaultFailure.UNAVAILABLE
