"""Collects the parts that decide readiness."""

from collections.abc import Callable
from functools import partial

from sidecar.access.guests import GuestPolicy
from sidecar.admin.health import Health, PartState, PartStatus
from sidecar.app.issuers import IssuerRegistry
from sidecar.authn.authenticators.datahub_system import SYSTEM
from sidecar.authn.authenticators.datahub_token import DATAHUB
from sidecar.authn.base import Authenticator
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.config.settings import Settings
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.store.replica.mirror import Mirror
from sidecar.store.sqlite.store import SqliteStore
from sidecar.tokens.issued.copies import CopyCleaner


def health_of(
    registry: IssuerRegistry,
    authenticators: AuthenticatorSet,
    guests: GuestPolicy | None,
    settings: Settings,
    upstream: Callable[[], PartStatus] | None = None,
    cleaner: CopyCleaner | None = None,
) -> Health:
    credentials: list[Callable[[], PartStatus]] = [partial(_provider_status, keys) for keys in registry.provider_keys]
    names = {authenticator.name for authenticator in authenticators.authenticators}
    if names & {DATAHUB, SYSTEM}:
        credentials.append(lambda: PartStatus("DataHub secrets", PartState.USABLE))
    if registry.own_keys is not None:
        credentials.append(lambda: PartStatus("own keys", PartState.USABLE))
    if guests is not None:
        credentials.append(lambda: PartStatus(f"authenticator {guests.name}", PartState.USABLE))
    credentials += [partial(_authenticator_status, member) for member in authenticators.started]
    required: list[Callable[[], PartStatus]] = [
        partial(_mirror_status, registry, settings),
        partial(_clock_status, registry.mirror),
    ]
    if upstream is not None:
        required.append(upstream)
    if cleaner is not None:
        required.append(partial(_cleaner_status, cleaner))
    return Health(credentials, required)


def _provider_status(keys: ProviderKeys) -> PartStatus:
    status = keys.status()
    name = f"provider {status.provider}"
    if status.usable:
        return PartStatus(name, PartState.DEGRADED if status.problem else PartState.USABLE, status.problem)
    return PartStatus(name, PartState.UNUSABLE if status.attempted else PartState.PENDING, status.problem)


def _authenticator_status(authenticator: Authenticator) -> PartStatus:
    name = f"authenticator {authenticator.name}"
    if problem := authenticator.unavailable_reason:
        return PartStatus(name, PartState.UNUSABLE, problem)
    reason = authenticator.degraded_reason
    return PartStatus(name, PartState.DEGRADED if reason else PartState.USABLE, reason)


def _cleaner_status(cleaner: CopyCleaner) -> PartStatus:
    problem = cleaner.problem
    return PartStatus("bot tokens in secrets manager", PartState.DEGRADED if problem else PartState.USABLE, problem)


def _clock_status(mirror: Mirror) -> PartStatus:
    """One wrong clock must not be used while there are right ones, and must not stop every process."""
    name, problem = "clock", mirror.clock_problem
    if not problem:
        return PartStatus(name, PartState.USABLE)
    if not mirror.is_clock_wrong:
        return PartStatus(name, PartState.DEGRADED, problem)
    others = mirror.right_clocks
    if others is None:
        return PartStatus(name, PartState.PENDING, problem)
    if others:
        why = f"not ready while the clocks of other processes ({others}) agree with the store's"
        return PartStatus(name, PartState.UNUSABLE, f"{problem}; {why}")
    return PartStatus(name, PartState.DEGRADED, f"{problem}; no other process agrees with the store, check its clock")


def _mirror_status(registry: IssuerRegistry, settings: Settings) -> PartStatus:
    mirror, name, revocation = registry.mirror, "revocation state", settings.revocation
    if not mirror.is_loaded:
        return PartStatus(name, PartState.PENDING, "the store has not been loaded yet")
    if mirror.age <= revocation.max_staleness:
        problem = registry.store.problem if isinstance(registry.store, SqliteStore) else ""
        return PartStatus(name, PartState.DEGRADED if problem else PartState.USABLE, problem)
    denied = revocation.on_stale == "deny"
    problem = f"last complete reading of the store {mirror.age:.0f} s ago (maxStaleness {revocation.max_staleness:g} s)"
    return PartStatus(name, PartState.UNUSABLE if denied else PartState.DEGRADED, problem)
