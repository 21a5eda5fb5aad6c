"""What readiness is made of."""

from collections.abc import Callable
from functools import partial

from sidecar.admin.health import Condition, Health, PartStatus
from sidecar.app.trust import Trust
from sidecar.authn.base import Member
from sidecar.authn.datahub_token import DATAHUB
from sidecar.authn.members import Members
from sidecar.authn.system import SYSTEM
from sidecar.config.settings import Settings
from sidecar.keys.jwks_cache import ProviderKeys
from sidecar.store.mirror import Mirror


def health_of(trust: Trust, members: Members, settings: Settings) -> Health:
    credentials: list[Callable[[], PartStatus]] = [partial(_provider_status, keys) for keys in trust.provider_keys]
    names = {authenticator.name for authenticator in members.authenticators}
    if names & {DATAHUB, SYSTEM}:
        credentials.append(lambda: PartStatus("shared secrets of DataHub", Condition.USABLE))
    if trust.own_keys is not None:
        credentials.append(lambda: PartStatus("own keys", Condition.USABLE))
    credentials += [partial(_member_status, member) for member in members.started]
    return Health(credentials, [partial(_mirror_status, trust.mirror, settings), partial(_clock_status, trust.mirror)])


def _provider_status(keys: ProviderKeys) -> PartStatus:
    status = keys.status()
    name = f"provider {status.provider}"
    if status.usable:
        return PartStatus(name, Condition.DEGRADED if status.problem else Condition.USABLE, status.problem)
    return PartStatus(name, Condition.UNUSABLE if status.tried else Condition.PENDING, status.problem)


def _member_status(member: Member) -> PartStatus:
    name = f"authenticator {member.name}"
    if problem := member.problem:
        return PartStatus(name, Condition.UNUSABLE, problem)
    outdated = member.outdated
    return PartStatus(name, Condition.DEGRADED if outdated else Condition.USABLE, outdated)


def _clock_status(mirror: Mirror) -> PartStatus:
    problem = mirror.clock_problem
    return PartStatus("clock", Condition.DEGRADED if problem else Condition.USABLE, problem)


def _mirror_status(mirror: Mirror, settings: Settings) -> PartStatus:
    name, revocation = "revocation state", settings.revocation
    if not mirror.is_loaded:
        return PartStatus(name, Condition.PENDING, "the store has not been read yet")
    if mirror.age <= revocation.max_staleness:
        return PartStatus(name, Condition.USABLE)
    denied = revocation.on_stale == "deny"
    return PartStatus(name, Condition.UNUSABLE if denied else Condition.DEGRADED, "the store does not answer")
