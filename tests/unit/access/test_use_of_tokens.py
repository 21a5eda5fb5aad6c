"""Requirements on the use of a token: its client, its scopes, and who acts."""

from dataclasses import replace

import pytest

from sidecar.access.rules import ClientRequirement, ScopeRequirement, all_named
from sidecar.errors import Cause, Reason
from sidecar.identity.actor import Actor, ActorType

SAM = Actor(ActorType.USER, "sam", client="etl", scopes=("read", "write"))


@pytest.mark.parametrize("client", ["ETL", "etl ", "\u0435tl", "", "etl2"])
def test_clients_are_compared_exactly(client: str) -> None:
    """The fourth has a Cyrillic letter."""
    needed = ClientRequirement(frozenset({"etl", "ui"}), None)
    assert needed.missing(SAM) is None
    missing = needed.missing(replace(SAM, client=client))
    assert missing is not None
    assert (missing.cause, missing.reason) == (Cause.RULE_CLIENT, Reason.FORBIDDEN)


def test_an_act_of_any_issuer_is_an_agent() -> None:
    """Where agents are forbidden; where they are required, their issuer must be one that may name them."""
    trusted, untrusted = replace(SAM, acting="bot", is_delegated=True), replace(SAM, is_delegated=True)
    forbidden, required = ClientRequirement(frozenset(), "forbidden"), ClientRequirement(frozenset(), "required")
    assert forbidden.missing(SAM) is None
    assert forbidden.missing(trusted) is not None
    assert forbidden.missing(untrusted) is not None
    assert required.missing(trusted) is None
    for caller in (SAM, untrusted):
        missing = required.missing(caller)
        assert missing is not None
        assert missing.cause is Cause.RULE_AGENT


def test_all_scopes_are_needed() -> None:
    needed = ScopeRequirement(frozenset({"read", "admin"}), "rules[0]")
    missing = needed.missing(SAM)
    assert missing is not None
    assert (missing.reason, missing.text) == (Reason.SCOPE_MISSING, "the scopes admin and read")
    assert missing.has == 'the scopes "read", "write"'
    assert ScopeRequirement(frozenset({"read"})).missing(SAM) is None


def test_names_with_the_letters_that_clients_search_for_are_not_shown() -> None:
    assert all_named("scope", ["decode"]) == "a scope that the caller does not have"
    assert "code" not in all_named("scope", ["decode", "read"])
    assert (
        all_named("scope", [f"s{number}" for number in range(7)])
        == "the scopes s0 and s1 and s2 and s3 and s4 and 2 more"
    )
