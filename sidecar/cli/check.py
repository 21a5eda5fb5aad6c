"""``sidecar check``: is the configuration sound, and is everything it names there? Changes nothing."""

import argparse
import asyncio
import logging
from collections.abc import Sequence

from sidecar import environment
from sidecar.app.authentication import server_names
from sidecar.app.datahub import datahub_setup
from sidecar.app.egress_report import routes
from sidecar.app.naming import EXAMPLE, reading
from sidecar.authn.registry import AuthenticatorSpec, build_specs
from sidecar.cli.options import add_config_option, load_settings
from sidecar.cli.probes import Probe, probes_for
from sidecar.cli.problems import report
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider
from sidecar.config.reading.tree import printable
from sidecar.config.reading.urls import upstream_base_path
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.identity.server_names import ServerNames

_PROBE_TIMEOUT = 60.0


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="check the configuration and what it depends on",
        description="Exit code 0: fine (warnings aside), 1: something named is unreachable or useless, "
        "2: the configuration is wrong.",
    )
    add_config_option(parser)
    parser.add_argument("--offline", action="store_true", help="read the configuration only, ask nobody")
    parser.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Print every problem and return the exit code."""
    logging.getLogger("sidecar").addHandler(logging.NullHandler())  # what a probe finds is printed once, as a problem
    try:
        loaded = load_settings(options)
        planned = build_specs(loaded.authenticators)
        _print_chain(planned, has_system_client=datahub_setup(loaded.settings, planned).system_client is not None)
        _print_base_paths(loaded.settings)
        _print_names(loaded)
        _print_server_names(server_names(loaded.settings))
        _print_egress(loaded, planned)
        found = [] if options.offline else asyncio.run(run_probes(probes_for(loaded)))
    except Misconfigured as error:
        report(error.problems)
        return 2
    about = [Problem("", finding, fatal=False) for finding in environment.findings]
    report([*loaded.warnings, *about, *found])
    failed = any(problem.fatal for problem in found)
    if not failed:
        print("The configuration is sound." if options.offline else "The configuration is sound and all is there.")
    return 1 if failed else 0


def _print_chain(planned: Sequence[AuthenticatorSpec], *, has_system_client: bool) -> None:
    """The chain in the order in which it is asked."""
    print("Who is asked, in this order, and decides on:")
    if has_system_client:
        print("  1. system: DataHub's system client, Basic id:secret")
    for number, member in enumerate(planned, 2 if has_system_client else 1):
        kind = "" if member.name == member.type_name else f" ({member.type_name})"
        skipped = member.configured is not None and member.configured.settings.on_error == "continue"
        print(
            printable(f"  {number}. {member.name}{kind}: {member.describe}{'; skipped when broken' if skipped else ''}")
        )


def _print_base_paths(settings: Settings) -> None:
    """Which paths are below another one, and which is put in front."""
    for rule in settings.rules:
        if rule.base_path:
            print(f"Preset {rule.preset}: its paths are below {rule.base_path}, and nothing outside it is public.")
    path = upstream_base_path(settings.upstream.url) if settings.upstream is not None else ""
    if path:
        print(f"Forwarded to the upstream: {path} and behind it the path that was asked for; rules judge the latter.")


def _print_names(loaded: Loaded) -> None:
    """How each provider's callers are named, with an example."""
    if loaded.providers:
        print("How callers are named:")
    for provider in loaded.providers:
        print(printable(f"  {provider.name}: {_naming(provider)}"))


def _naming(provider: Provider) -> str:
    namespace = f"{provider.name}/" if provider.namespaced else ""
    origin = "" if provider.is_principal_written else " (default with these upstream.credentials)"
    if provider.username_claim:
        named = f"by {provider.username_claim}; e-mail address in {provider.email_claim}"
    else:
        named = f"by the first present of {', '.join(provider.principal_claims)}; e-mail address in "
        named += provider.address_claim
    verified = "required" if provider.needs_verified else "absentIsVerified"
    return (
        f"principal: {provider.principal}{origin}: {EXAMPLE} is {namespace}{reading(provider.principal)}; "
        f"{named}, emailVerified: {verified}"
    )


def _print_server_names(names: ServerNames) -> None:
    """Whom the server behind would take for its own bots."""
    if names.described:
        print(printable(f"Refused to all issuers but the own, as names of the server: {', '.join(names.described)}"))


def _print_egress(loaded: Loaded, planned: Sequence[AuthenticatorSpec]) -> None:
    """Through which proxy each host is asked; nothing where there is no proxy."""
    proxy = loaded.egress.proxy
    if proxy is None:
        return
    print(printable(f"Outgoing calls use the proxy {proxy}, which {proxy.origin} names:"))
    for host, way in routes(loaded, planned).items():
        print(printable(f"  {host}: {way}"))


async def run_probes(probes: Sequence[Probe]) -> list[Problem]:
    """All probes at once; their problems in order. Raises Misconfigured with all faults of the configuration."""
    results = await asyncio.gather(*map(_bounded, probes), return_exceptions=True)
    faults: list[Problem] = []
    problems: list[Problem] = []
    for result in results:
        if isinstance(result, Misconfigured):
            faults.extend(result.problems)
        elif isinstance(result, BaseException):
            raise result
        else:
            problems.extend(result)
    if faults:
        raise Misconfigured([*faults, *problems])
    return problems


async def _bounded(probe: Probe) -> list[Problem]:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            return await probe.run()
    except TimeoutError:
        return [Problem(probe.name, f"gave no answer within {_PROBE_TIMEOUT:g} s")]
