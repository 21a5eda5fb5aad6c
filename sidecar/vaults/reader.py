"""Reads the secrets that a configuration refers to: at the start with retries, later to notice changes."""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import orjson

from sidecar.config.settings import SecretsManagerConfiguration
from sidecar.egress import Egress
from sidecar.errors import Problem, SidecarError
from sidecar.logs import AUDIT
from sidecar.secrets.ids import MANAGERS, VaultKind
from sidecar.secrets.resolve import SecretReference
from sidecar.secrets.value import Secret
from sidecar.vaults.base import BoundedVault, Held, Observe, VaultError, VaultFailure
from sidecar.vaults.open import open_vault

T = TypeVar("T")
_log = logging.getLogger("sidecar.secrets")
_audit = logging.getLogger(AUDIT)
KEY_SET = "jwtTokenConfiguration.keySecret"
"""The setting whose secret the sidecar creates itself."""
_BACK_OFF = (1.0, 10.0)
_MAX_PAUSE = 300.0
_JITTER = 0.1
_ROLE: Mapping[VaultKind, str] = {
    VaultKind.AZURE: "grant the identity the role Key Vault Secrets User on the vault or on this secret",
    VaultKind.OPENBAO: "allow read on this path in a policy of the token",
    VaultKind.KUBERNETES: "allow get on this Secret in a Role of the service account",
}
_WRITING_ROLE: Mapping[VaultKind, str] = {
    VaultKind.AZURE: "grant the identity the role Key Vault Secrets Officer on the vault or on this secret",
    VaultKind.OPENBAO: "allow create, read and update on data/, read on metadata/ and update on destroy/ of this path "
    "in a policy of the token",
    VaultKind.KUBERNETES: "allow get, create, update and delete on secrets in a Role of the service account",
}
_CREDENTIAL: Mapping[VaultKind, str] = {
    VaultKind.AZURE: "check tenantId, clientId and clientSecret, or the identity of the pod or machine",
    VaultKind.OPENBAO: "check the settings bao..., and whether the token or secret id has expired",
    VaultKind.KUBERNETES: "check tokenFile, and whether apiServer is the cluster of that token",
}
_WHAT_TO_DO: Mapping[VaultFailure, str] = {
    VaultFailure.ABSENT: "create it, or correct the id",
    VaultFailure.DISABLED: "enable its newest version, or write a new one",
    VaultFailure.CONFLICT: "try again",
    VaultFailure.INVALID: "write a new version with text of at most 64 KiB",
    VaultFailure.TLS: "set caFile to the CA of the secrets manager",
    VaultFailure.THROTTLED: "try again later, or raise refresh",
    VaultFailure.TIMEOUT: "check the network, or raise timeout",
    VaultFailure.CONNECT: "check address, proxy and network policy",
    VaultFailure.UNAVAILABLE: "check the state of the secrets manager, and its address",
}


class SecretsUnreadableError(SidecarError):
    """Secrets that the configuration refers to cannot be read. ``problems`` has one entry for each setting."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(f"error: {problem}" for problem in problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class VaultAccess:
    """What is needed to read the secrets of a configuration."""

    configuration: SecretsManagerConfiguration
    egress: Egress
    references: tuple[SecretReference, ...]

    @property
    def kind(self) -> VaultKind:
        """The kind of the secrets manager."""
        return MANAGERS[self.configuration.secrets_manager].kind

    def with_references(self, references: tuple[SecretReference, ...]) -> "VaultAccess":
        """The same for other references."""
        return VaultAccess(self.configuration, self.egress, references)

    @property
    def place(self) -> tuple[object, ...]:
        """What tells two secrets managers apart."""
        return self.kind, self.configuration.parameters


class SecretsReader:
    """Holds the secrets of one process. Its methods block: call them from a thread without an event loop.

    Each reading opens the secrets manager, reads every secret and closes it again, so that no connection is left idle
    and no access token is kept for longer than it is used.
    """

    def __init__(self, *, serves: bool = False) -> None:
        """``serves``: for ``sidecar serve``. The first reading retries for ``startDeadline``; readings are audited."""
        self._serves = serves
        self._lock = threading.Lock()
        self._access: VaultAccess | None = None
        self._known: dict[str, Held] = {}
        self._failures: dict[str, VaultError] = {}
        self._last_success = 0.0
        self.observe: Observe | None = None
        """Called after each call to the secrets manager, from the thread of the reading."""

    def read(self, access: VaultAccess) -> Mapping[str, Secret]:
        """The secrets of ``access`` by id.

        A secret that cannot be read now but was read before keeps its value, with a warning. Raises
        SecretsUnreadableError for the others, Misconfigured if the secrets manager cannot be opened.
        """
        with self._lock:
            return self._read(access)

    def _read(self, access: VaultAccess) -> Mapping[str, Secret]:
        if self._access is not None and self._access.place != access.place:
            self._known = {}  # another secrets manager: the same id may mean another secret
        is_start = self._serves and self._access is None
        deadline = time.monotonic() + (access.configuration.start_deadline if is_start else 0.0)
        pause = _BACK_OFF[0]
        while True:
            results = asyncio.run(_read_all(access, self.observe))
            missing = {name: error for name, error in results.items() if _is_error(error) and name not in self._known}
            if not missing:
                break
            errors = [error for error in missing.values() if isinstance(error, VaultError)]
            wait = max(pause, *(error.retry_after for error in errors))
            if not all(error.is_passing for error in errors) or time.monotonic() + wait > deadline:
                raise SecretsUnreadableError(problems_of(access, results))
            _log.warning(
                "secrets manager cannot be read; retrying",
                extra={"event": "secrets_read_failed", "detail": errors[0].failure.value, "seconds": round(wait, 1)},
            )
            time.sleep(wait * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311 - jitter
            pause = min(2 * pause, _BACK_OFF[1])
        self._access = access
        self._take(access, results)
        return {name: self._value(access, name) for name in self._known}

    def _value(self, access: VaultAccess, secret_id: str) -> Secret:
        """The value of a secret. A key set that was disabled on purpose is marked, so that its keys do not sign."""
        value = self._known[secret_id].value
        is_key_set = any(one.path == KEY_SET and one.id == secret_id for one in access.references)
        if not is_key_set or not self._is_disabled(secret_id):
            return value
        try:
            document = orjson.loads(value.reveal())
        except orjson.JSONDecodeError:
            document = None
        return Secret(orjson.dumps({**document, "disabled": True}).decode()) if isinstance(document, dict) else value

    def _is_disabled(self, secret_id: str) -> bool:
        failure = self._failures.get(secret_id)
        return failure is not None and failure.failure is VaultFailure.DISABLED

    def refresh(self) -> bool:
        """Read the secrets of the last :meth:`read` again. Whether a value has changed."""
        with self._lock:
            if self._access is None:
                return False
            return self._take(self._access, asyncio.run(_read_all(self._access, self.observe)))

    def forget(self) -> None:
        """Forget every secret: the configuration refers to none any more."""
        with self._lock:
            self._access = None
            self._known, self._failures = {}, {}

    @property
    def references(self) -> int:
        """The number of settings that refer to a secret."""
        return 0 if self._access is None else len(self._access.references)

    @property
    def problem(self) -> str:
        """Why the secrets could not be read the last time; empty: they could."""
        if self._access is None or not self._failures:
            return ""
        secret_id, error = next(iter(self._failures.items()))
        return f"{self._access.kind}: {secret_id}: {error}; the values read before stay in force"

    @property
    def age(self) -> float:
        """Seconds since every secret was read; 0 if they are not read again (``refresh: 0``)."""
        is_refreshed = self._access is not None and self._access.configuration.refresh > 0
        return time.monotonic() - self._last_success if is_refreshed else 0.0

    def expires_in(self, now: float) -> float:
        """Seconds until the first secret expires; infinite if none does."""
        ends = [held.info.expires for held in self._known.values() if held.info.expires is not None]
        return min(ends, default=float("inf")) - now

    def next_pause(self, failures: int) -> float:
        """Seconds until the next refresh, after so many failures in a row; 0: there is none."""
        if self._access is None or not self._access.configuration.refresh:
            return 0.0
        pause = self._access.configuration.refresh
        if failures:
            asked = max((error.retry_after for error in self._failures.values()), default=0.0)
            pause = max(min(pause * 2.0 ** min(failures - 1, 20), _MAX_PAUSE), asked)
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - jitter

    def _take(self, access: VaultAccess, results: Mapping[str, Held | VaultError]) -> bool:
        """Keep what was read. Whether a value has changed."""
        before, was_failing = self._known, bool(self._failures)
        disabled = {name for name in before if self._is_disabled(name)}
        known, self._failures = {}, {}
        for secret_id, result in results.items():
            if isinstance(result, Held):
                known[secret_id] = result
            else:
                self._failures[secret_id] = result
                known[secret_id] = before[secret_id]
        self._known = known
        if not self._failures:
            self._last_success = time.monotonic()
        self._log_outcome(access, was_failing)
        key_sets = {one.id for one in access.references if one.path == KEY_SET}
        switched = {name for name in key_sets if self._is_disabled(name) != (name in disabled)}
        changed = [
            name for name in known if name in before and (name in switched or known[name].value != before[name].value)
        ]
        for reference in access.references:
            if self._serves and (reference.id in changed or reference.id not in before):
                _audit.info(
                    "secret read",
                    extra={
                        "event": "secret_read",
                        "setting": reference.path,
                        "secret": reference.id,
                        "version": known[reference.id].info.version,
                    },
                )
        return bool(changed)

    def _log_outcome(self, access: VaultAccess, was_failing: bool) -> None:
        for secret_id, error in self._failures.items():
            _log.warning(
                "secret cannot be read; the value read before stays in force",
                extra={"event": "secret_unreadable", "secret": secret_id, "detail": str(error)},
            )
        if was_failing and not self._failures:
            _log.info("secrets can be read again", extra={"event": "secrets_readable"})
        now = time.time()
        for reference in access.references:
            expires = self._known[reference.id].info.expires
            if expires is not None and expires <= now:
                _log.warning(
                    "secret has expired according to the secrets manager; its value is used",
                    extra={"event": "secret_expired", "setting": reference.path, "secret": reference.id},
                )


def _is_error(result: Held | VaultError) -> bool:
    return isinstance(result, VaultError)


def problems_of(access: VaultAccess, results: Mapping[str, Held | VaultError]) -> list[Problem]:
    """One problem for each setting whose secret could not be read: the id, the cause, and what to do."""
    found = []
    for reference in access.references:
        result = results[reference.id]
        if isinstance(result, VaultError):
            is_new_key_set = reference.path == KEY_SET and result.failure is VaultFailure.ABSENT
            todo = "create it: sidecar keys rotate" if is_new_key_set else what_to_do(access.kind, result)
            message = f"secret:{reference.id} in {access.kind}: {result}; {todo}"
            found.append(Problem(reference.path, message, reference.file, reference.line))
    return found


def what_to_do(kind: VaultKind, error: VaultError, *, writes: bool = False) -> str:
    """How to fix ``error``; ``writes``: of a call of a program that also writes."""
    if error.failure is VaultFailure.FORBIDDEN:
        return (_WRITING_ROLE if writes else _ROLE)[kind]
    if error.failure is VaultFailure.UNAUTHORIZED:
        return _CREDENTIAL[kind]
    return _WHAT_TO_DO[error.failure]


async def read_references(access: VaultAccess) -> dict[str, Held | VaultError]:
    """Each secret of ``access``, or why it cannot be read. Raises Misconfigured."""
    return await _read_all(access, None)


async def _read_all(access: VaultAccess, observe: Observe | None) -> dict[str, Held | VaultError]:
    names = list(dict.fromkeys(reference.id for reference in access.references))

    async def work(vault: BoundedVault) -> list[Held | VaultError]:
        return list(await asyncio.gather(*(_read(vault, name) for name in names)))

    results = await with_vault(access.configuration, access.egress, work, observe)
    return dict(zip(names, results, strict=True))


async def _read(vault: BoundedVault, secret_id: str) -> Held | VaultError:
    try:
        return await vault.get(secret_id)
    except VaultError as error:
        return error


async def with_vault(
    configuration: SecretsManagerConfiguration,
    egress: Egress,
    work: Callable[[BoundedVault], Awaitable[T]],
    observe: Observe | None = None,
) -> T:
    """The result of ``work`` with an open secrets manager. Raises as it does, and Misconfigured."""
    vault = open_vault(configuration, egress, observe)
    try:
        return await work(vault)
    finally:
        await vault.aclose()
