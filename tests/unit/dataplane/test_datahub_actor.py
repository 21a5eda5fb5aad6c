"""The ``X-DataHub-Actor`` header with and without an Actor."""

from dataclasses import replace
from typing import Any

import pytest

from sidecar.authn.base import Accepted
from sidecar.dataplane.identity_headers import IdentityHeaders
from sidecar.identity.actor import Actor, ActorType
from sidecar.metrics import Metrics
from tests.support import forge

SAM = Actor(ActorType.USER, "sam", issuer="i", provider="corp")


class Credentials:
    def authorization_for(self, actor: Actor) -> str:
        return f"Basic {actor.id}:secret"


def headers(**changes: Any) -> IdentityHeaders:
    values = {"strip": (), "max_bytes": 3072, "max_total_bytes": 8192, "assertion": None, "credential": None, **changes}
    return IdentityHeaders(metrics=Metrics(), **values)


def accepted(actor: Actor = SAM) -> Accepted:
    return Accepted(actor, forge.public(forge.RSA, "RS256"))


def lines(block: bytes) -> dict[str, str]:
    pairs = [line.partition(": ") for line in block.decode("ascii").split("\r\n")[:-1]]
    found = {name: value for name, _, value in pairs}
    assert len(found) == len(pairs)
    return found


@pytest.mark.parametrize("trusted", [True, False])
def test_datahub_actor_is_the_urn_in_every_answer(trusted: bool) -> None:
    made = headers(datahub_actor=True)
    assert lines(made.check_block(accepted(), trusted=trusted))["X-DataHub-Actor"] == "urn:li:corpuser:sam"
    assert lines(made.forward_block(accepted()))["X-DataHub-Actor"] == "urn:li:corpuser:sam"


@pytest.mark.parametrize("trusted", [True, False])
def test_no_actor_is_never_the_system_client(trusted: bool) -> None:
    """A DataHub whose authentication is off takes an absent or empty header for its system client."""
    made = headers(datahub_actor=True)
    assert lines(made.check_block(None, trusted=trusted))["X-DataHub-Actor"] == "urn:li:corpuser:anonymous"
    assert lines(made.forward_block(None)) == {"X-DataHub-Actor": "urn:li:corpuser:anonymous"}


def test_datahub_actor_is_set_only_where_it_is_asked_for() -> None:
    for block in (headers().check_block(None, trusted=True), headers().forward_block(accepted())):
        assert b"datahub" not in block.lower()
    assert headers().forward_block(None) == b""


@pytest.mark.parametrize("name", ["sam", "Sam"])
def test_an_actor_with_an_admins_name_that_is_no_admin_is_anonymous_to_datahub(name: str) -> None:
    """A DataHub whose authentication is off knows its admins by their urn alone."""
    made = headers(datahub_actor=True, admin_names=frozenset({"sam"}))
    actor = replace(SAM, id=name)
    for block in (made.check_block(accepted(actor), trusted=True), made.forward_block(accepted(actor))):
        assert lines(block)["X-DataHub-Actor"] == "urn:li:corpuser:anonymous"
    admin = accepted(replace(actor, is_admin=True))
    assert lines(made.forward_block(admin))["X-DataHub-Actor"] == f"urn:li:corpuser:{name}"


def test_id_cannot_become_a_header_of_its_own() -> None:
    made = headers(datahub_actor=True)
    actor = Actor(ActorType.USER, "sam\r\nX-Evil: é%")
    assert lines(made.forward_block(accepted(actor)))["X-DataHub-Actor"] == (
        "urn:li:corpuser:sam%0D%0AX-Evil:%20%C3%A9%25"
    )


@pytest.mark.parametrize("made", [headers(), headers(datahub_actor=True)])
@pytest.mark.parametrize("name", ["x-datahub-actor", "x-datahub-delegated-for-id", "x-datahub-delegated-for-type"])
def test_datahubs_headers_are_never_taken_from_a_caller(made: IdentityHeaders, name: str) -> None:
    assert made.is_stripped(name)


def test_credential_goes_to_the_service_and_to_trusted_proxies_only() -> None:
    made = headers(credential=Credentials())
    assert lines(made.forward_block(accepted()))["Authorization"] == "Basic sam:secret"
    assert lines(made.check_block(accepted(), trusted=True))["Authorization"] == "Basic sam:secret"
    assert "Authorization" not in lines(made.check_block(accepted(), trusted=False))
