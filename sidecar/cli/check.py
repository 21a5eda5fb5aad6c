"""``sidecar check``: is the configuration sound, and is everything it names there? Changes nothing."""

import argparse
import asyncio
import logging
from collections.abc import Sequence

from sidecar.app.judge import server_names
from sidecar.authn.datahub_setup import datahub_setup
from sidecar.authn.registry import Planned, plan
from sidecar.cli.options import add_config_option, load_settings
from sidecar.cli.probes import Probe, probes_for
from sidecar.cli.problems import report
from sidecar.config.tree import printable
from sidecar.errors import Misconfigured, Problem
from sidecar.identity.server_names import ServerNames

_LONGEST_PROBE = 60.0


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
        planned = plan(loaded.members)
        _print_chain(planned, has_system_client=datahub_setup(loaded.settings, planned).system_client is not None)
        _print_server_names(server_names(loaded.settings))
        found = [] if options.offline else asyncio.run(run_probes(probes_for(loaded)))
    except Misconfigured as error:
        report(error.problems)
        return 2
    report([*loaded.warnings, *found])
    failed = any(problem.fatal for problem in found)
    if not failed:
        print("The configuration is sound." if options.offline else "The configuration is sound and all is there.")
    return 1 if failed else 0


def _print_chain(planned: Sequence[Planned], *, has_system_client: bool) -> None:
    """The chain in the order in which it is asked."""
    print("Who is asked, in this order, and decides on:")
    if has_system_client:
        print("  1. system: DataHub's system client, Basic id:secret")
    for number, member in enumerate(planned, 2 if has_system_client else 1):
        kind = "" if member.name == member.word else f" ({member.word})"
        skipped = member.written is not None and member.written.settings.on_error == "continue"
        print(
            printable(
                f"  {number}. {member.name}{kind}: {member.recognises}{'; skipped when broken' if skipped else ''}"
            )
        )


def _print_server_names(names: ServerNames) -> None:
    """Whom the server behind would take for its own bots."""
    if names.described:
        print(printable(f"Refused to all issuers but the own, as names of the server: {', '.join(names.described)}"))


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
        async with asyncio.timeout(_LONGEST_PROBE):
            return await probe.run()
    except TimeoutError:
        return [Problem(probe.name, f"gave no answer within {_LONGEST_PROBE:g} s")]
