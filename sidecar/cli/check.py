"""``sidecar check``: validates the configuration and probes its dependencies. Read-only."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sidecar import environment
from sidecar.app.authentication import server_names
from sidecar.app.datahub import datahub_setup
from sidecar.app.egress_report import routes
from sidecar.app.login import registration_lines
from sidecar.app.naming import EXAMPLE, example_name
from sidecar.app.signals import push_lines
from sidecar.app.token_endpoint import endpoint_lines
from sidecar.authn.authenticators.datahub_system import SYSTEM
from sidecar.authn.authenticators.session import SESSION
from sidecar.authn.registry import AuthenticatorSpec, build_specs, chain_specs
from sidecar.cli.network_lines import network_lines
from sidecar.cli.options import add_config_option, load_offline, load_settings
from sidecar.cli.probes import Probe, probes_for
from sidecar.cli.problems import report
from sidecar.cli.secrets import secret_lines
from sidecar.cli.through import through_probe
from sidecar.config.load import Loaded
from sidecar.config.providers import Provider
from sidecar.config.reading.finding import FindingId
from sidecar.config.reading.tree import printable
from sidecar.config.reading.urls import upstream_base_path
from sidecar.config.settings import Settings
from sidecar.errors import Misconfigured, Problem
from sidecar.identity.server_names import ServerNames
from sidecar.vaults.reader import SecretsUnreadableError

_PROBE_TIMEOUT = 60.0
_RESULTS = {0: "ok", 1: "dependency_failed", 2: "invalid"}


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="check the configuration and its dependencies",
        description="Exit code 0: no errors (there may be warnings). 1: a dependency is unreachable or unusable. "
        "2: the configuration is invalid.",
    )
    add_config_option(parser)
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--offline", action="store_true", help="check the configuration only, without network access")
    network.add_argument(
        "--through",
        action="append",
        default=[],
        metavar="URL",
        help="also ask for this URL through the proxy, as clients do; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document with summary and problems")
    parser.set_defaults(run=run_check)


@dataclass(slots=True)
class _Report:
    """What was found: printed line by line as it is found, or at the end as one JSON document."""

    as_json: bool
    summary: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def describe(self, lines: Iterable[str]) -> None:
        """Lines about what is configured."""
        for line in map(printable, lines):
            self.summary.append(line.strip())
            if not self.as_json:
                print(line)

    def add(self, problems: Iterable[Problem]) -> None:
        """Errors and warnings."""
        found = list(problems)
        self.problems += found
        if not self.as_json:
            sys.stdout.flush()  # what was described comes first, also if both streams are one file
            report(found)

    def end(self, code: int) -> int:
        """Print the document, if that is wanted; returns ``code``."""
        if self.as_json:
            problems = [
                {
                    "level": "error" if problem.fatal else "warning",
                    "id": problem.id or None,
                    "setting": problem.path or None,
                    "file": problem.file or None,
                    "line": problem.line or None,
                    "message": problem.message,
                }
                for problem in self.problems
            ]
            document = {"exitCode": code, "result": _RESULTS[code], "summary": self.summary, "problems": problems}
            print(json.dumps(document, indent=2))
        return code


def run_check(options: argparse.Namespace) -> int:
    """Print every problem and return the exit code."""
    found = _Report(options.json)
    logging.getLogger("sidecar").addHandler(logging.NullHandler())  # results of probes are printed once, as problems
    warnings: Sequence[Problem] = ()
    try:
        loaded = load_offline(options) if options.offline else load_settings(options)
        warnings = loaded.warnings
        found.describe(secret_lines(loaded, offline=options.offline))
        if options.offline and loaded.references:
            return _end_without_secrets(loaded, found)
        specs = build_specs(loaded.authenticators)
        implicit = set() if datahub_setup(loaded, specs).system_client is None else {SYSTEM}
        if any(provider.login is not None for provider in loaded.providers):
            implicit.add(SESSION)
        found.describe(_chain(chain_specs(loaded.authenticators, implicit)))
        found.describe(_base_paths(loaded.settings))
        found.describe(_issuers(loaded.providers))
        found.describe(_names(loaded))
        found.describe(_server_names(server_names(loaded.settings)))
        found.describe(_egress(loaded, specs))
        found.describe([*network_lines(loaded.settings), *registration_lines(loaded)])
        found.describe([*push_lines(loaded), *endpoint_lines(loaded.settings)])
        through = through_probe(options.through, loaded)
        probes = [*probes_for(loaded), *([] if through is None else [through])]
        results = [] if options.offline else asyncio.run(run_probes(probes))
        if through is not None:
            found.describe(["Through the proxy:", *(f"  {line}" for line in through.lines)])
    except Misconfigured as error:
        # without them an error may be hard to explain, such as one of a block that an import disables
        found.add([*warnings, *error.problems])
        return found.end(2)
    except SecretsUnreadableError as error:
        found.add([*warnings, *error.problems])
        return found.end(1)
    about = [Problem("", finding, fatal=False) for finding in environment.findings]
    found.add([*loaded.warnings, *about, *results])
    failed = any(problem.fatal for problem in results)
    if not failed:
        found.describe([_conclusion(loaded.warnings, offline=options.offline)])
    return found.end(1 if failed else 0)


def _end_without_secrets(loaded: Loaded, found: _Report) -> int:
    """Report what is known without the secrets. The authenticators may need them, so they are not built."""
    found.add([*loaded.warnings, *(Problem("", finding, fatal=False) for finding in environment.findings)])
    found.describe(["Configuration OK, as far as it can be checked without the secrets manager."])
    return found.end(0)


def _conclusion(warnings: Iterable[Problem], *, offline: bool) -> str:
    """The last line of a check without errors."""
    if any(problem.id == FindingId.NOTHING_ACCEPTED for problem in warnings):
        return "No errors, but no token is accepted: configure an issuer (authenticationConfiguration) or own keys."
    return "Configuration OK." if offline else "Configuration OK; all dependencies reachable."


def _chain(specs: Sequence[AuthenticatorSpec]) -> Iterator[str]:
    """The authentication chain, in order."""
    yield "Authentication chain (in order):"
    for number, spec in enumerate(specs, 1):
        kind = "" if spec.name == spec.type_name else f" ({spec.type_name})"
        skipped = spec.configured is not None and spec.configured.settings.on_error == "continue"
        yield f"  {number}. {spec.name}{kind}: {spec.describe}{'; skipped if unavailable' if skipped else ''}"


def _base_paths(settings: Settings) -> Iterator[str]:
    """Base paths of presets and of the upstream."""
    for rule in settings.rules:
        if rule.base_path:
            yield f"Preset {rule.preset}: its paths are below {rule.base_path}; nothing outside that is public."
    path = upstream_base_path(settings.upstream.url) if settings.upstream is not None else ""
    if path:
        yield f"Forwarded to the upstream: {path} followed by the requested path; rules match the requested path."


def _issuers(providers: Sequence[Provider]) -> Iterator[str]:
    """The issuer of each provider as its tokens must have it, and where its keys come from."""
    if providers:
        yield "Issuers:"
    for provider in providers:
        names = " or ".join((provider.issuer or "any issuer", *provider.issuer_aliases))
        keys = ", ".join(provider.key_urls)
        yield f"  {provider.name}: {names}; keys from {keys or 'its discovery document'}"


def _names(loaded: Loaded) -> Iterator[str]:
    """The naming of each provider's callers, with an example."""
    if loaded.providers:
        yield "Names of callers:"
    for provider in loaded.providers:
        yield f"  {provider.name}: {_naming(provider)}"


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


def _server_names(names: ServerNames) -> Iterator[str]:
    """The names that the upstream would treat as its own bots."""
    if names.patterns:
        yield f"Names of the upstream, rejected for all issuers but our own: {', '.join(names.patterns)}"


def _egress(loaded: Loaded, planned: Sequence[AuthenticatorSpec]) -> Iterator[str]:
    """The proxy for each host; no lines if no proxy is configured."""
    proxy = loaded.egress.proxy
    if proxy is None:
        return
    yield f"Outgoing requests use the proxy {proxy} (from {proxy.origin}):"
    for host, way in routes(loaded, planned).items():
        yield f"  {host}: {way}"


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
