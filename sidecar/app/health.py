"""What readiness is made of."""

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
    trust: IssuerRegistry,
    members: AuthenticatorSet,
    settings: Settings,
    upstream: Callable[[], PartStatus] | None = None,
) -> Health:
    credentials: list[Callable[[], PartStatus]] = [partial(_provider_status, keys) for keys in trust.provider_keys]
    names = {authenticator.name for authenticator in members.authenticators}
    if names & {DATAHUB, SYSTEM}:
        credentials.append(lambda: PartStatus("shared secrets of DataHub", Condition.USABLE))
    if trust.own_keys is not None:
        credentials.append(lambda: PartStatus("own keys", Condition.USABLE))
    credentials += [partial(_member_status, member) for member in members.started]
    required: list[Callable[[], PartStatus]] = [
        partial(_mirror_status, trust, settings),
        partial(_clock_status, trust.mirror),
    ]
    if upstream is not None:
        required.append(upstream)
    return Health(credentials, required)


def _provider_status(keys: ProviderKeys) -> PartStatus:
    status = keys.status()
    name = f"provider {status.provider}"
    if status.usable:
        return PartStatus(name, Condition.DEGRADED if status.problem else Condition.USABLE, status.problem)
    return PartStatus(name, Condition.UNUSABLE if status.tried else Condition.PENDING, status.problem)


def _member_status(member: Authenticator) -> PartStatus:
    name = f"authenticator {member.name}"
    if problem := member.unavailable_reason:
        return PartStatus(name, Condition.UNUSABLE, problem)
    outdated = member.degraded_reason
    return PartStatus(name, Condition.DEGRADED if outdated else Condition.USABLE, outdated)


def _clock_status(mirror: Mirror) -> PartStatus:
    problem = mirror.clock_problem
    return PartStatus("clock", Condition.DEGRADED if problem else Condition.USABLE, problem)


def _mirror_status(trust: IssuerRegistry, settings: Settings) -> PartStatus:
    mirror, name, revocation = trust.mirror, "revocation state", settings.revocation
    if not mirror.is_loaded:
        return PartStatus(name, Condition.PENDING, "the store has not been read yet")
    if mirror.age <= revocation.max_staleness:
        problem = trust.store.problem if isinstance(trust.store, SqliteStore) else ""
        return PartStatus(name, Condition.DEGRADED if problem else Condition.USABLE, problem)
    denied = revocation.on_stale == "deny"
    return PartStatus(name, Condition.UNUSABLE if denied else Condition.DEGRADED, "the store does not answer")
