"""The configured chain's members: made, started, guarded, stopped."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.authn.authenticators.guest import Guest
from sidecar.authn.base import Authenticator, AuthenticatorContext, AuthenticatorProtocol
from sidecar.authn.isolation import IsolatedAuthenticator
from sidecar.authn.registry import AuthenticatorSpec
from sidecar.config.reading.tree import dotted
from sidecar.errors import Misconfigured, Problem

_log = logging.getLogger("sidecar.authn")
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class AuthenticatorSet:
    """What the chain is made of. ``started`` are the members that have a state to tell.

    ``challenges`` are schemes besides ``Bearer`` that callers may use.
    """

    authenticators: tuple[AuthenticatorProtocol, ...]
    skippable: frozenset[str] = frozenset()
    headers: tuple[str, ...] = ()
    guest: Guest | None = None
    started: tuple[Authenticator, ...] = ()
    challenges: tuple[str, ...] = ()


async def open_authenticators(
    planned: Sequence[AuthenticatorSpec],
    made: Mapping[str, AuthenticatorProtocol],
    surroundings: Callable[[str], AuthenticatorContext],
    stack: AsyncExitStack,
) -> AuthenticatorSet:
    """Make and start ``planned``; ``stack`` stops them. ``made`` are those that others make, by word.

    Raises Misconfigured when one cannot be made or started.
    """
    authenticators: list[AuthenticatorProtocol] = []
    started: list[Authenticator] = []
    skippable: set[str] = set()
    guest: Guest | None = None
    for plan in planned:
        # of what a plugin remembers nobody can know whether a broken member was passed over
        recalls = not (plan.is_plugin and skippable)
        if plan.configured is not None and plan.configured.settings.on_error == "continue":
            skippable.add(plan.name)
        if plan.factory is None:
            authenticators.append(made[plan.type_name])
            continue
        member = await start_authenticator(plan, surroundings(plan.name), stack)
        started.append(member)
        if isinstance(member, Guest):
            guest = member if member.options.enabled else None
            continue
        authenticators.append(_isolated(member, plan, recalls=recalls))
    return AuthenticatorSet(
        tuple(authenticators),
        frozenset(skippable),
        tuple(dict.fromkeys(name for member in started for name in member.credential_headers)),
        guest,
        tuple(started),
        tuple(dict.fromkeys(member.challenge for member in started if member.challenge)),
    )


def make_authenticator(plan: AuthenticatorSpec, surroundings: AuthenticatorContext) -> Authenticator:
    """The member of ``plan``, not started. Raises Misconfigured."""
    assert plan.factory is not None  # noqa: S101 - the others are made elsewhere
    try:
        return plan.factory(plan.options, surroundings)
    except Misconfigured:
        raise
    except Exception as error:
        raise _cannot_error(plan, "be made", error) from error


async def start_authenticator(
    plan: AuthenticatorSpec, surroundings: AuthenticatorContext, stack: AsyncExitStack
) -> Authenticator:
    """The member of ``plan``, running; ``stack`` stops it. Raises Misconfigured."""
    member = make_authenticator(plan, surroundings)
    stack.push_async_callback(_stop, member)
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            await member.start()
    except Misconfigured:
        raise
    except Exception as error:
        raise _cannot_error(plan, "be started", error) from error
    return member


def _isolated(member: Authenticator, plan: AuthenticatorSpec, *, recalls: bool) -> IsolatedAuthenticator:
    assert plan.configured is not None  # noqa: S101 - only jwt is in the chain unasked
    provider = plan.name if plan.is_plugin else None
    return IsolatedAuthenticator(member, timeout=plan.configured.settings.timeout, provider=provider, recalls=recalls)


async def _stop(member: Authenticator) -> None:
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            await member.stop()
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the others are stopped too
        _log.error(
            "authenticator did not stop",
            extra={
                "event": "authenticator_stop_failed",
                "authenticator": member.name,
                "error": type(error).__name__,
            },
        )


def _cannot_error(plan: AuthenticatorSpec, what: str, error: Exception) -> Misconfigured:
    path = dotted(plan.configured.path) if plan.configured else plan.name
    return Misconfigured([Problem(path, f"{plan.name} cannot {what}: {type(error).__name__}")])
