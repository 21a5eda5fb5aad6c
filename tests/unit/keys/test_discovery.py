"""Discovery over real sockets: whose document counts, and which URL of keys."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.providers import Provider
from sidecar.keys.discovery import parse_metadata, well_known_urls
from sidecar.keys.document import DocumentError
from sidecar.outbound import OutboundError
from tests.support.jwks_server import document, eventually, held, status
from tests.support.key_world import B, C, World, kids, unavailable

OPENID = "/realms/corp/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server/realms/corp"


class Issuer:
    """An issuer with a path, on the world's server."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.name = world.server.url("/realms/corp")

    def announce(self, path: str = OPENID, **members: Any) -> None:
        """Answer ``path`` with a discovery document."""
        plain = {"issuer": self.name, "jwks_uri": self.world.server.url(), "scopes_supported": ["openid"]}
        self.world.server.answers[path] = document({**plain, **members})

    def provider(self, **members: Any) -> Provider:
        """A provider that only knows the issuer."""
        return Provider(**{"name": "corp", "issuer": self.name, "discovery": True, **members})


@pytest.fixture
async def issuer(world: World) -> Issuer:
    made = Issuer(world)
    made.announce()
    return made


def test_well_known_places() -> None:
    assert well_known_urls("https://idp.example.com/realms/corp/") == (
        "https://idp.example.com/realms/corp/.well-known/openid-configuration",
        "https://idp.example.com/.well-known/oauth-authorization-server/realms/corp",
    )
    assert well_known_urls("https://idp.example.com") == (
        "https://idp.example.com/.well-known/openid-configuration",
        "https://idp.example.com/.well-known/oauth-authorization-server",
    )


async def test_keys_are_found_from_the_issuer_alone(world: World, issuer: Issuer) -> None:
    keys = await world.provider(issuer.provider())
    at_first = keys.issuer
    assert at_first is None
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert keys.issuer == issuer.name
    await eventually(lambda: keys.status().attempted)
    assert await keys.refetch("unknown", "RS256") == ()


@pytest.mark.parametrize(
    "first", [status(404), status(302), document([]), document({"issuer": "x", "x": float("inf")})]
)
async def test_oauth_place_is_asked_when_openid_has_nothing(world: World, issuer: Issuer, first: Any) -> None:
    world.server.answers[OPENID] = first
    issuer.announce(OAUTH)
    keys = await world.provider(issuer.provider())
    await eventually(lambda: keys.candidates("a", "RS256"))


@pytest.mark.parametrize("other", ["/", "x", "", None, 5])
async def test_document_of_another_issuer_is_not_used(world: World, issuer: Issuer, other: Any) -> None:
    """A final slash too makes it another one."""
    issuer.announce(issuer=issuer.name + other if isinstance(other, str) and other else other)
    issuer.announce(OAUTH)
    keys = await world.provider(issuer.provider())
    await eventually(lambda: keys.status().attempted)
    await unavailable(keys.refetch("a", "RS256"))
    assert keys.issuer is None
    assert world.asked == 0
    assert "issuer mismatch" in keys.status().problem


async def test_flat_form_takes_the_issuers_spelling_of_the_final_slash(world: World, issuer: Issuer) -> None:
    issuer.announce(issuer=issuer.name + "/")
    keys = await world.provider(issuer.provider(is_flat=True))
    await eventually(lambda: keys.issuer)
    assert keys.issuer == issuer.name + "/"


@pytest.mark.parametrize(
    "jwks_uri",
    [
        None,
        5,
        "",
        "jwks",
        "file:///etc/passwd",
        "http://idp.example.com/jwks",
        "https://169.254.169.254/jwks",
        "https://[::ffff:169.254.169.254]/jwks",
        "https://u:p@idp.example.com/jwks",
        "https://idp.example.com/" + "x" * 2048,
        "http://127.0.0.1:1/jwks",
    ],
)
def test_jwks_uri_that_may_not_be_fetched_makes_the_document_useless(jwks_uri: Any) -> None:
    """Loopback too: a remote issuer has no business on this host."""
    provider = Provider("corp", "https://idp.example.com")
    with pytest.raises((DocumentError, OutboundError)):
        parse_metadata({"issuer": provider.issuer, "jwks_uri": jwks_uri}, provider)


async def test_moved_keys_are_followed_within_the_hour_and_the_old_ones_given_up(world: World, issuer: Issuer) -> None:
    keys = await world.provider(issuer.provider())
    await eventually(lambda: keys.candidates("a", "RS256"))
    (a,) = keys.candidates("a", "RS256")
    world.server.publish(B, path="/moved")
    issuer.announce(jwks_uri=world.server.url("/moved"))
    world.clock.advance(3600)
    await eventually(lambda: keys.candidates("b", "RS256"))
    assert not a.live
    assert keys.candidates("a", "RS256") == ()
    assert keys.status().problem == ""


async def test_old_keys_serve_until_the_moved_ones_are_there(world: World, issuer: Issuer) -> None:
    keys = await world.provider(issuer.provider())
    await eventually(lambda: keys.candidates("a", "RS256"))
    issuer.announce(jwks_uri=world.server.url("/dead"))
    world.clock.advance(3600)
    await eventually(lambda: world.server.requests["/dead"])
    assert kids(keys.candidates("a", "RS256")) == ["a"]
    world.server.publish(C, path="/alive")
    issuer.announce(jwks_uri=world.server.url("/alive"))
    world.clock.advance(3600)
    await eventually(lambda: keys.candidates("c", "RS256"))
    assert keys.candidates("a", "RS256") == ()


async def test_outage_of_discovery_leaves_what_was_found(world: World, issuer: Issuer) -> None:
    keys = await world.provider(issuer.provider())
    await eventually(lambda: keys.candidates("a", "RS256"))
    world.server.answers[OPENID] = status(500)
    world.clock.advance(3600)
    await eventually(lambda: "discovery" in keys.status().problem)
    assert keys.candidates("a", "RS256")
    assert keys.issuer == issuer.name


async def test_first_token_makes_a_dead_issuer_be_asked_again_once(world: World, issuer: Issuer) -> None:
    world.server.answers[OPENID] = status(500)
    keys = await world.provider(issuer.provider())
    await eventually(lambda: keys.status().attempted)
    issuer.announce()
    assert kids(await keys.refetch("a", "RS256")) == ["a"]


async def test_restart_during_an_outage_knows_issuer_and_keys_from_disk(
    world: World, issuer: Issuer, tmp_path: Path
) -> None:
    first = await world.provider(issuer.provider(), tmp_path)
    await eventually(lambda: first.status().attempted and len(list(tmp_path.glob("*.json"))) == 2)
    await first.aclose()
    world.server.answers.clear()
    second = await world.provider(issuer.provider(), tmp_path)
    assert kids(second.candidates("a", "RS256")) == ["a"]
    assert second.issuer == issuer.name


async def test_candidate_url_counts_only_once_discovery_names_it(world: World, issuer: Issuer) -> None:
    world.server.answers[OPENID] = status(500)
    keys = await world.provider(issuer.provider(is_flat=True, candidate_urls=(world.server.url(),)))
    await eventually(lambda: keys.status().attempted)
    await unavailable(keys.refetch("a", "RS256"))
    assert world.asked == 0
    issuer.announce()
    world.clock.advance(60)
    await eventually(lambda: keys.candidates("a", "RS256"))


async def test_url_that_is_not_listed_is_not_asked_even_when_discovery_names_it(world: World, issuer: Issuer) -> None:
    world.server.publish(B, path="/listed")
    keys = await world.provider(
        issuer.provider(is_flat=True, candidate_urls=(world.server.url("/listed"),)),
    )
    await eventually(lambda: keys.issuer)
    await unavailable(keys.refetch("a", "RS256"))
    assert world.asked == world.server.requests["/listed"] == 0
    assert "publicKeyUrls does not contain" in keys.status().problem


class TwoRealms:
    """Two issuers on one host, whose key sets are both listed without an issuer; the second is the partners'."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.staff, self.partners = (issuer.world.server.url(path) for path in ("/jwks", "/partners"))
        issuer.world.server.publish(B, path="/partners")

    def provider(self, **members: Any) -> Provider:
        return self.issuer.provider(is_flat=True, candidate_urls=(self.staff, self.partners), **members)


async def test_another_realms_key_on_the_same_host_never_counts(world: World, issuer: Issuer) -> None:
    """With and without a discovery document; the message says what to write."""
    realms = TwoRealms(issuer)
    world.server.answers[OPENID] = status(500)
    keys = await world.provider(realms.provider())
    await eventually(lambda: keys.status().attempted)
    await unavailable(keys.refetch("b", "RS256"))
    assert keys.candidates("a", "RS256") == ()
    assert f"set {{url: {realms.partners}, issuer:" in keys.status().problem
    issuer.announce()
    world.clock.advance(60)
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert await keys.refetch("b", "RS256") == ()
    assert world.server.requests["/partners"] == 0


async def test_url_that_verifies_no_token_is_a_problem_beside_one_that_does(
    world: World, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """It names both URLs and the issuer, once in the log and always in the report."""
    realms = TwoRealms(issuer)
    keys = await world.provider(realms.provider())
    await eventually(lambda: keys.candidates("a", "RS256"))
    problem = keys.status().problem
    assert keys.status().usable
    assert problem.startswith(f"{realms.partners}: verifies no token")
    assert all(text in problem for text in (issuer.name, realms.staff, f"set {{url: {realms.partners}, issuer:"))
    world.clock.advance(3600)
    await eventually(lambda: world.server.requests[OPENID] > 1)
    assert [vars(record)["detail"] for record in caplog.records if record.levelname == "ERROR"] == [problem]


async def test_shared_candidates_that_discovery_does_not_name_are_no_problem(world: World, issuer: Issuer) -> None:
    """They count for unbound issuers."""
    keys = await world.provider(TwoRealms(issuer).provider(candidates_are_shared=True))
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert keys.status().problem == ""


async def test_whose_keys_they_are_is_remembered_over_a_restart(world: World, issuer: Issuer, tmp_path: Path) -> None:
    realms = TwoRealms(issuer)
    first = await world.provider(realms.provider(), tmp_path)
    await eventually(lambda: first.candidates("a", "RS256") and len(list(tmp_path.glob("*.json"))) == 2)
    await first.aclose()
    world.server.answers.clear()
    second = await world.provider(realms.provider(), tmp_path)
    assert kids(second.candidates("a", "RS256")) == ["a"]
    assert second.candidates("b", "RS256") == ()
    await second.aclose()
    world.clock.advance(86401)
    third = await world.provider(realms.provider(), tmp_path)
    await unavailable(third.refetch("a", "RS256"))


def presuming(issuer: Issuer, path: str = "/jwks") -> Provider:
    """A provider of the flat form with one URL on the issuer's own origin."""
    url = issuer.world.server.url(path)
    return issuer.provider(is_flat=True, candidate_urls=(url,), presumed_url=url)


async def test_only_url_of_the_origin_counts_while_there_is_no_discovery_document(world: World, issuer: Issuer) -> None:
    """An issuer without discovery is nothing to wait for: an unknown key id is a definite no."""
    world.server.answers[OPENID] = status(404)
    keys = await world.provider(presuming(issuer))
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert await keys.refetch("unknown", "RS256") == ()


async def test_presumed_url_counts_only_after_discovery_was_asked(world: World, issuer: Issuer) -> None:
    """Its keys are already loaded; they verify no token before it is known that no discovery document contradicts."""
    gate = asyncio.Event()
    world.server.publish(B, path="/partners")
    world.server.answers[OPENID] = held(world.server.answers[OPENID], gate)
    keys = await world.provider(presuming(issuer, "/partners"))
    await eventually(lambda: world.server.requests["/partners"] and world.outcomes().get("ok"))
    assert keys.candidates("b", "RS256") == ()
    gate.set()
    await eventually(lambda: keys.issuer)
    await unavailable(keys.refetch("b", "RS256"))
    assert world.server.url() in keys.status().problem


async def test_presumed_url_is_given_up_when_the_document_names_another(world: World, issuer: Issuer) -> None:
    world.server.publish(B, path="/partners")
    announced, world.server.answers[OPENID] = world.server.answers[OPENID], status(500)
    keys = await world.provider(presuming(issuer, "/partners"))
    await eventually(lambda: keys.candidates("b", "RS256"))
    (b,) = keys.candidates("b", "RS256")
    world.server.answers[OPENID] = announced
    world.clock.advance(60)
    await eventually(lambda: keys.issuer)
    assert not b.live
    assert keys.candidates("b", "RS256") == ()


async def test_presumed_url_that_the_document_names_is_fetched_once(world: World, issuer: Issuer) -> None:
    keys = await world.provider(presuming(issuer))
    await eventually(lambda: keys.issuer and keys.candidates("a", "RS256"))
    assert world.asked == 1
    assert keys.status().problem == ""


async def test_listed_url_is_given_up_when_the_document_names_one_that_is_not(world: World, issuer: Issuer) -> None:
    keys = await world.provider(TwoRealms(issuer).provider())
    await eventually(lambda: keys.candidates("a", "RS256"))
    issuer.announce(jwks_uri=world.server.url("/elsewhere"))
    world.clock.advance(3600)
    await eventually(lambda: not keys.candidates("a", "RS256"))
    assert "publicKeyUrls does not contain" in keys.status().problem
    assert world.server.requests["/elsewhere"] == 0


async def test_bound_url_works_while_discovery_is_dead(world: World, issuer: Issuer) -> None:
    world.server.answers[OPENID] = status(500)
    keys = await world.provider(issuer.provider(is_flat=True, key_urls=(world.server.url(),)))
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert await keys.refetch("unknown", "RS256") == ()


async def test_kid_that_an_undiscovered_url_might_have_is_unavailable(world: World, issuer: Issuer) -> None:
    """Beside a healthy URL that does not have it."""
    world.server.answers[OPENID] = status(500)
    world.server.publish(B, path="/candidate")
    both = issuer.provider(
        is_flat=True, key_urls=(world.server.url(),), candidate_urls=(world.server.url("/candidate"),)
    )
    keys = await world.provider(both)
    await eventually(lambda: keys.candidates("a", "RS256"))
    await unavailable(keys.refetch("b", "RS256"))
    issuer.announce()
    world.clock.advance(60)
    await eventually(lambda: keys.issuer)
    assert await keys.refetch("b", "RS256") == ()


async def test_bound_url_that_discovery_names_too_is_fetched_once(world: World, issuer: Issuer) -> None:
    keys = await world.provider(issuer.provider(is_flat=True, key_urls=(world.server.url(),)))
    await eventually(lambda: keys.issuer and keys.candidates("a", "RS256"))
    assert world.asked == 1
