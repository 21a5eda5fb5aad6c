"""``sidecar check``: validates the configuration and probes its dependencies. Read-only."""

import argparse
import asyncio
import logging
from collections.abc import Sequence

from sidecar import environment
from sidecar.app.authentication import server_names
from sidecar.app.datahub import datahub_setup
from sidecar.app.egress_report import routes
from sidecar.app.naming import EXAMPLE, example_name
from sidecar.authn.registry import AuthenticatorSpec, build_specs
from sidecar.cli.network_lines import network_lines
from sidecar.cli.options import add_config_option, load_offline, load_settings
from sidecar.cli.probes import Probe, probes_for
from sidecar.cli.problems import report
from sidecar.cli.secrets import secret_lines
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider
from sidecar.config.reading.tree import printable
from sidecar.config.reading.urls import upstream_base_path
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.identity.server_names import ServerNames
from sidecar.vaults.reader import SecretsUnreadableError

_PROBE_TIMEOUT = 60.0


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="check the configuration and its dependencies",
        description="Exit code 0: no errors (there may be warnings). 1: a dependency is unreachable or unusable. "
        "2: the configuration is invalid.",
    )
    add_config_option(parser)
    parser.add_argument("--offline", action="store_true", help="check the configuration only, without network access")
    parser.set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Print every problem and return the exit code."""
    logging.getLogger("sidecar").addHandler(logging.NullHandler())  # results of probes are printed once, as problems
    try:
        loaded = load_offline(options) if options.offline else load_settings(options)
        for line in secret_lines(loaded, offline=options.offline):
            print(printable(line))
        if options.offline and loaded.references:
            return _end_without_secrets(loaded)
        specs = build_specs(loaded.authenticators)
        _print_chain(specs, has_system_client=datahub_setup(loaded.settings, specs).system_client is not None)
        _print_base_paths(loaded.settings)
        _print_names(loaded)
        _print_server_names(server_names(loaded.settings))
        _print_egress(loaded, specs)
        for line in network_lines(loaded.settings):
            print(printable(line))
        found = [] if options.offline else asyncio.run(run_probes(probes_for(loaded)))
    except Misconfigured as error:
        report(error.problems)
        return 2
    except SecretsUnreadableError as error:
        report(error.problems)
        return 1
    about = [Problem("", finding, fatal=False) for finding in environment.findings]
    report([*loaded.warnings, *about, *found])
    failed = any(problem.fatal for problem in found)
    if not failed:
        print("Configuration OK." if options.offline else "Configuration OK; all dependencies reachable.")
    return 1 if failed else 0


def _end_without_secrets(loaded: Loaded) -> int:
    """Report what is known without the secrets. The authenticators may need them, so they are not built."""
    report([*loaded.warnings, *(Problem("", finding, fatal=False) for finding in environment.findings)])
    print("Configuration OK, as far as it can be checked without the secrets manager.")
    return 0


def _print_chain(specs: Sequence[AuthenticatorSpec], *, has_system_client: bool) -> None:
    """The authentication chain, in order."""
    print("Authentication chain (in order):")
    if has_system_client:
        print("  1. system: DataHub's system client, Basic id:secret")
    for number, spec in enumerate(specs, 2 if has_system_client else 1):
        kind = "" if spec.name == spec.type_name else f" ({spec.type_name})"
        skipped = spec.configured is not None and spec.configured.settings.on_error == "continue"
        print(
            printable(f"  {number}. {spec.name}{kind}: {spec.describe}{'; skipped if unavailable' if skipped else ''}")
        )


def _print_base_paths(settings: Settings) -> None:
    """Base paths of presets and of the upstream."""
    for rule in settings.rules:
        if rule.base_path:
            print(f"Preset {rule.preset}: its paths are below {rule.base_path}; nothing outside that is public.")
    path = upstream_base_path(settings.upstream.url) if settings.upstream is not None else ""
    if path:
        print(f"Forwarded to the upstream: {path} followed by the requested path; rules match the requested path.")


def _print_names(loaded: Loaded) -> None:
    """The naming of each provider's callers, with an example."""
    if loaded.providers:
        print("Names of callers:")
    for provider in loaded.providers:
        print(printable(f"  {provider.name}: {_naming(provider)}"))


def _naming(provider: Provider) -> str:
    namespace = f"{provider.name}/" if provider.namespaced else ""
    origin = "" if provider.is_principal_written else " (default for these upstream.credentials)"
    if provider.username_claim:
        named = f"from {provider.username_claim}; e-mail address in {provider.email_claim}"
    else:
        named = f"from the first present of {', '.join(provider.principal_claims)}; e-mail address in "
        named += provider.address_claim
    verified = "required" if provider.needs_verified else "absentIsVerified"
    return (
        f"principal: {provider.principal}{origin}: {EXAMPLE} becomes {namespace}{example_name(provider.principal)}; "
        f"{named}, emailVerified: {verified}"
    )


def _print_server_names(names: ServerNames) -> None:
    """The names that the upstream would treat as its own bots."""
    if names.patterns:
        print(printable(f"Names of the upstream, rejected for all issuers but our own: {', '.join(names.patterns)}"))


def _print_egress(loaded: Loaded, planned: Sequence[AuthenticatorSpec]) -> None:
    """Through which proxy each host is asked; nothing where there is no proxy."""
    proxy = loaded.egress.proxy
    if proxy is None:
        return
    print(printable(f"Outgoing calls use the proxy {proxy}, which {proxy.origin} names:"))
    for host, way in routes(loaded, planned).items():
        print(printable(f"  {host}: {way}"))


async def run_probes(probes: Sequence[Probe]) -> list[Problem]:
    """Run all probes concurrently; returns their problems in order. Raises Misconfigured with all config errors."""
    results = await asyncio.gather(*map(_bounded, probes), return_exceptions=True)
    config_problems: list[Problem] = []
    problems: list[Problem] = []
    for result in results:
        if isinstance(result, Misconfigured):
            config_problems.extend(result.problems)
        elif isinstance(result, BaseException):
            raise result
        else:
            problems.extend(result)
    if config_problems:
        raise Misconfigured([*config_problems, *problems])
    return problems


async def _bounded(probe: Probe) -> list[Problem]:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            return await probe.run()
    except TimeoutError:
        return [Problem(probe.name, f"no response within {_PROBE_TIMEOUT:g} s")]
