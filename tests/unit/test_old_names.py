"""What users wrote for the version before still works, and says what to write."""

import argparse
import importlib
from typing import Any

import pytest
from packaging.version import Version

from sidecar import __version__, old_names
from sidecar.authn.base import Accepted, Authenticator, AuthenticatorContext
from sidecar.authn.support.dependency_probe import DependencyProbe
from sidecar.cli.main import build_parser
from sidecar.clock import SystemClock
from sidecar.identity.actor import Actor, ActorType


def actor() -> Actor:
    return Actor(ActorType.USER, "sam")


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [(module, name, new) for module, names in old_names.MODULE_NAMES.items() for name, new in names.items()],
)
def test_a_plugin_imports_by_the_old_name(module: str, name: str, new: str) -> None:
    """With a DeprecationWarning that has the new name and the version without the old one."""
    with pytest.warns(DeprecationWarning, match=f"is now {new}; the old name goes in auth-sidecar 0.3"):
        found = getattr(importlib.import_module(module), name)
    target, _, attribute = new.rpartition(".")
    assert found is getattr(importlib.import_module(target), attribute)


def test_other_names_are_still_unknown() -> None:
    with pytest.raises(ImportError):
        exec("from sidecar.authn.base import Nothing")
    with pytest.raises(AttributeError, match="'Accepted' object has no attribute 'nothing'"):
        getattr(Accepted(actor()), "nothing")  # noqa: B009 - mypy knows that there is none


def test_a_plugin_overrides_by_the_old_names() -> None:
    """As it was written for the version before; what it overrides by the new name counts."""
    with pytest.warns(DeprecationWarning, match="is now") as warned:

        class Old(Authenticator):
            @classmethod
            def recognises(cls, options: Any) -> str:
                return "old credentials"

            @property
            def problem(self) -> str:
                return "away"

            @property
            def outdated(self) -> str:
                return "old"

            async def authenticate(self, view: Any) -> Any:
                return None

    assert len(warned) == 3
    made = Old(None, AuthenticatorContext("old", SystemClock(), None, None))  # type: ignore[arg-type] # not used
    assert (Old.describe(None), made.unavailable_reason, made.degraded_reason) == ("old credentials", "away", "old")


@pytest.mark.parametrize(("old", "new"), old_names.ACCEPTED_FIELDS.items())
def test_fields_of_accepted_by_their_old_names(old: str, new: str) -> None:
    """As keywords and as attributes."""

    class Plugin(Authenticator):  # the first plugin makes the old keywords known
        """Does nothing."""

        async def authenticate(self, view: Any) -> Any:
            return None

    value = object()
    with pytest.warns(DeprecationWarning, match=new):
        accepted = Accepted(actor(), **{old: value})  # type: ignore[arg-type] # whatever it is
    assert getattr(accepted, new) is value
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(accepted, old) is value


async def test_the_dependency_probe_by_its_old_name() -> None:
    async def look() -> list[str]:
        return []

    probe = DependencyProbe("x", look)
    with pytest.warns(DeprecationWarning, match="report_failure"):
        old: Any = getattr(probe, "doubt")  # noqa: B009 - mypy does not know it
    assert old == probe.report_failure


@pytest.mark.parametrize(
    ("command", "old", "new", "attribute"),
    [
        (["keys", "rotate"], "--ahead", "--publish-lead-time", "publish_lead_time"),
        (["keys", "rotate"], "--keep", "--retain", "retain"),
        (["keys", "retire"], "--keep", "--retain", "retain"),
    ],
)
def test_options_of_commands_by_their_old_names(
    command: list[str], old: str, new: str, attribute: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The help shows the new name only."""
    parser = build_parser(["keys"])
    assert getattr(parser.parse_args([*command, old, "2h"]), attribute) == 7200
    assert f"{old} is now {new}; {old} goes in version 0.3" in capsys.readouterr().err
    assert getattr(parser.parse_args([*command, new, "2h"]), attribute) == 7200
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit):
        parser.parse_args([*command, "--help"])
    assert (new in (text := capsys.readouterr().out), f"{old} " in text) == (True, False)


def test_every_old_option_is_taken_by_a_command() -> None:
    """So that the list names nothing that has gone."""

    def options(parser: argparse.ArgumentParser) -> set[str]:
        found = set(parser._option_string_actions)
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found = found.union(*map(options, action.choices.values()))
        return found

    assert options(build_parser()).issuperset({*old_names.CLI_OPTIONS, *old_names.CLI_OPTIONS.values()})


def test_old_names_have_not_outlived_their_version() -> None:
    """Take the module away with the release that :data:`REMOVED_IN` names."""
    assert Version(__version__) < Version(old_names.REMOVED_IN)
