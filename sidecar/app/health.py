"""Collects the parts that decide readiness."""

from collections.abc import Callable
from functools import partial

from sidecar.admin.health import Condition, Health, PartStatus
from sidecar.app.issuers import IssuerRegistry
from sidecar.authn.authenticators.datahub_system import SYSTEM
from sidecar.authn.authenticators.datahub_token import DATAHUB
from sidecar.authn.base import Authenticator
from sidecar.authn.lifecycle import AuthenticatorSet
from sidecar.config.settings import Settings
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.store.replica.mirror import Mirror
from sidecar.store.sqlite.store import SqliteStore


def health_of(
    registry: IssuerRegistry,
    authenticators: AuthenticatorSet,
    settings: Settings,
    upstream: Callable[[], PartStatus] | None = None,
) -> Health:
    credentials: list[Callable[[], PartStatus]] = [partial(_provider_status, keys) for keys in registry.provider_keys]
    names = {authenticator.name for authenticator in authenticators.authenticators}
    if names & {DATAHUB, SYSTEM}:
        credentials.append(lambda: PartStatus("DataHub secrets", Condition.USABLE))
    if registry.own_keys is not None:
        credentials.append(lambda: PartStatus("own keys", Condition.USABLE))
    credentials += [partial(_authenticator_status, member) for member in authenticators.started]
    required: list[Callable[[], PartStatus]] = [
        partial(_mirror_status, registry, settings),
        partial(_clock_status, registry.mirror),
    ]
    if upstream is not None:
        required.append(upstream)
    return Health(credentials, required)


def _provider_status(keys: ProviderKeys) -> PartStatus:
    status = keys.status()
    name = f"provider {status.provider}"
    if status.usable:
        return PartStatus(name, Condition.DEGRADED if status.problem else Condition.USABLE, status.problem)
    return PartStatus(name, Condition.UNUSABLE if status.attempted else Condition.PENDING, status.problem)


def _authenticator_status(authenticator: Authenticator) -> PartStatus:
    name = f"authenticator {authenticator.name}"
    if problem := authenticator.unavailable_reason:
        return PartStatus(name, Condition.UNUSABLE, problem)
    reason = authenticator.degraded_reason
    return PartStatus(name, Condition.DEGRADED if reason else Condition.USABLE, reason)


def _clock_status(mirror: Mirror) -> PartStatus:
    """One wrong clock must not be used while there are right ones, and must not stop every process."""
    name, problem = "clock", mirror.clock_problem
    if not problem:
        return PartStatus(name, Condition.USABLE)
    if not mirror.is_clock_wrong:
        return PartStatus(name, Condition.DEGRADED, problem)
    others = mirror.right_clocks
    if others is None:
        return PartStatus(name, Condition.PENDING, problem)
    if others:
        why = f"not ready while the clocks of other processes ({others}) agree with the store's"
        return PartStatus(name, Condition.UNUSABLE, f"{problem}; {why}")
    return PartStatus(name, Condition.DEGRADED, f"{problem}; no other process agrees with the store, check its clock")


def _mirror_status(registry: IssuerRegistry, settings: Settings) -> PartStatus:
    mirror, name, revocation = registry.mirror, "revocation state", settings.revocation
    if not mirror.is_loaded:
        return PartStatus(name, Condition.PENDING, "the store has not been loaded yet")
    if mirror.age <= revocation.max_staleness:
        problem = registry.store.problem if isinstance(registry.store, SqliteStore) else ""
        return PartStatus(name, Condition.DEGRADED if problem else Condition.USABLE, problem)
    denied = revocation.on_stale == "deny"
    problem = f"last complete reading of the store {mirror.age:.0f} s ago (maxStaleness {revocation.max_staleness:g} s)"
    return PartStatus(name, Condition.UNUSABLE if denied else Condition.DEGRADED, problem)
