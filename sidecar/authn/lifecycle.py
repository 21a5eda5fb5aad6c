"""The configured chain's members: made, started, guarded, stopped."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.authn.authenticators.guest import Guest
from sidecar.authn.base import Authenticator, Member, Surroundings
from sidecar.authn.isolation import Guarded
from sidecar.authn.registry import Planned
from sidecar.config.reading.tree import dotted
from sidecar.errors import Misconfigured, Problem

_log = logging.getLogger("sidecar.authn")
_LONGEST_START = 20.0
_LONGEST_STOP = 5.0


@dataclass(frozen=True, slots=True)
class Members:
    """What the chain is made of. ``started`` are the members that have a state to tell.

    ``challenges`` are schemes besides ``Bearer`` that callers may use.
    """

    authenticators: tuple[Authenticator, ...]
    skippable: frozenset[str] = frozenset()
    headers: tuple[str, ...] = ()
    guest: Guest | None = None
    started: tuple[Member, ...] = ()
    challenges: tuple[str, ...] = ()


async def open_members(
    planned: Sequence[Planned],
    made: Mapping[str, Authenticator],
    surroundings: Callable[[str], Surroundings],
    stack: AsyncExitStack,
) -> Members:
    """Make and start ``planned``; ``stack`` stops them. ``made`` are those that others make, by word.

    Raises Misconfigured when one cannot be made or started.
    """
    authenticators: list[Authenticator] = []
    started: list[Member] = []
    skippable: set[str] = set()
    guest: Guest | None = None
    for plan in planned:
        # of what a plugin remembers nobody can know whether a broken member was passed over
        recalls = not (plan.is_plugin and skippable)
        if plan.written is not None and plan.written.settings.on_error == "continue":
            skippable.add(plan.name)
        if plan.factory is None:
            authenticators.append(made[plan.word])
            continue
        member = await start_member(plan, surroundings(plan.name), stack)
        started.append(member)
        if isinstance(member, Guest):
            guest = member if member.options.enabled else None
            continue
        authenticators.append(_guarded(member, plan, recalls=recalls))
    return Members(
        tuple(authenticators),
        frozenset(skippable),
        tuple(dict.fromkeys(name for member in started for name in member.credential_headers)),
        guest,
        tuple(started),
        tuple(dict.fromkeys(member.challenge for member in started if member.challenge)),
    )


def make_member(plan: Planned, surroundings: Surroundings) -> Member:
    """The member of ``plan``, not started. Raises Misconfigured."""
    assert plan.factory is not None  # noqa: S101 - the others are made elsewhere
    try:
        return plan.factory(plan.options, surroundings)
    except Misconfigured:
        raise
    except Exception as error:
        raise _cannot(plan, "be made", error) from error


async def start_member(plan: Planned, surroundings: Surroundings, stack: AsyncExitStack) -> Member:
    """The member of ``plan``, running; ``stack`` stops it. Raises Misconfigured."""
    member = make_member(plan, surroundings)
    stack.push_async_callback(_stop, member)
    try:
        async with asyncio.timeout(_LONGEST_START):
            await member.start()
    except Misconfigured:
        raise
    except Exception as error:
        raise _cannot(plan, "be started", error) from error
    return member


def _guarded(member: Member, plan: Planned, *, recalls: bool) -> Guarded:
    assert plan.written is not None  # noqa: S101 - only jwt is in the chain unasked
    provider = plan.name if plan.is_plugin else None
    return Guarded(member, timeout=plan.written.settings.timeout, provider=provider, recalls=recalls)


async def _stop(member: Member) -> None:
    try:
        async with asyncio.timeout(_LONGEST_STOP):
            await member.stop()
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises, the others are stopped too
        _log.error("an authenticator did not stop", extra={"authenticator": member.name, "error": type(error).__name__})


def _cannot(plan: Planned, what: str, error: Exception) -> Misconfigured:
    path = dotted(plan.written.path) if plan.written else plan.name
    return Misconfigured([Problem(path, f"{plan.name} cannot {what}: {type(error).__name__}")])
