"""Builds, starts, isolates and stops the configured authenticators."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from sidecar.authn.base import Authenticator, AuthenticatorContext, AuthenticatorProtocol
from sidecar.authn.isolation import IsolatedAuthenticator
from sidecar.authn.registry import AuthenticatorSpec
from sidecar.clock import Clock
from sidecar.config.reading.tree import dotted
from sidecar.errors import Misconfigured, Problem

_log = logging.getLogger("sidecar.authn")
_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class AuthenticatorSet:
    """The running authenticators. ``started`` are those with a state for the health report.

    ``challenges`` are the authentication schemes besides ``Bearer``.
    """

    authenticators: tuple[AuthenticatorProtocol, ...]
    skippable: frozenset[str] = frozenset()
    headers: tuple[str, ...] = ()
    started: tuple[Authenticator, ...] = ()
    challenges: tuple[str, ...] = ()


async def open_authenticators(
    specs: Sequence[AuthenticatorSpec],
    built_by_app: Mapping[str, AuthenticatorProtocol],
    surroundings: Callable[[str], AuthenticatorContext],
    stack: AsyncExitStack,
) -> AuthenticatorSet:
    """Build and start ``specs``; ``stack`` stops them.

    ``built_by_app`` are the authenticators that the composition root has built, by type; the guest is none of them.
    Raises Misconfigured if one cannot be built or started.
    """
    authenticators: list[AuthenticatorProtocol] = []
    started: list[Authenticator] = []
    skippable: set[str] = set()
    for spec in specs:
        # a plugin may have cached an outcome from when a skippable authenticator was broken: do not recall it
        recalls = not (spec.is_plugin and skippable)
        if spec.configured is not None and spec.configured.settings.on_error == "continue":
            skippable.add(spec.name)
        if spec.factory is None:
            if spec.type_name in built_by_app:
                authenticators.append(built_by_app[spec.type_name])
            continue
        context = surroundings(spec.name)
        authenticator = await start_authenticator(spec, context, stack)
        started.append(authenticator)
        authenticators.append(_isolated(authenticator, spec, context.clock, recalls=recalls))
    return AuthenticatorSet(
        tuple(authenticators),
        frozenset(skippable),
        tuple(dict.fromkeys(name for authenticator in started for name in authenticator.credential_headers)),
        tuple(started),
        tuple(dict.fromkeys(authenticator.challenge for authenticator in started if authenticator.challenge)),
    )


def build_authenticator(spec: AuthenticatorSpec, surroundings: AuthenticatorContext) -> Authenticator:
    """The authenticator of ``spec``, not started. Raises Misconfigured."""
    assert spec.factory is not None  # noqa: S101 - the others are built by the composition root
    try:
        return spec.factory(spec.options, surroundings)
    except Misconfigured:
        raise
    except Exception as error:
        raise _failed_to(spec, "be built", error) from error


async def start_authenticator(
    spec: AuthenticatorSpec, surroundings: AuthenticatorContext, stack: AsyncExitStack
) -> Authenticator:
    """The authenticator of ``spec``, started; ``stack`` stops it. Raises Misconfigured."""
    authenticator = build_authenticator(spec, surroundings)
    stack.push_async_callback(_stop, authenticator)
    try:
        async with asyncio.timeout(_START_TIMEOUT):
            await authenticator.start()
    except Misconfigured:
        raise
    except Exception as error:
        raise _failed_to(spec, "be started", error) from error
    return authenticator


def _isolated(
    authenticator: Authenticator, spec: AuthenticatorSpec, clock: Clock, *, recalls: bool
) -> IsolatedAuthenticator:
    assert spec.configured is not None  # noqa: S101 - only jwt is added by default
    provider = spec.name if spec.is_plugin else None
    return IsolatedAuthenticator(
        authenticator,
        timeout=spec.configured.settings.timeout,
        provider=provider,
        recalls=recalls,
        clock=clock,
    )


async def _stop(authenticator: Authenticator) -> None:
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            await authenticator.stop()
    except Exception as error:  # noqa: BLE001 - plugins can raise anything; stop the others too
        _log.error(
            "authenticator did not stop",
            extra={
                "event": "authenticator_stop_failed",
                "authenticator": authenticator.name,
                "error": type(error).__name__,
            },
        )


def _failed_to(spec: AuthenticatorSpec, action: str, error: Exception) -> Misconfigured:
    path = dotted(spec.configured.path) if spec.configured else spec.name
    return Misconfigured([Problem(path, f"{spec.name} cannot {action}: {type(error).__name__}")])
