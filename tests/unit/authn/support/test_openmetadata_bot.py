"""A bot's token passes while the server that minted it says that it is the current one, and none passes unchecked."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict

from sidecar.authn.authenticators.jwt import Issuer, JwtAuthenticator, ProviderPrincipalMapper
from sidecar.authn.base import Accepted, Rejected
from sidecar.authn.support.openmetadata_bot import BotTokenCheck
from sidecar.concurrency import settled
from sidecar.config.providers import LOGGED_IN_USER, bot_check_url
from sidecar.errors import Cause, Reason, Refused, Unavailable
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import PrincipalPolicy
from sidecar.identity.request import RequestContext, read_credential
from sidecar.keys.keyset import VerificationKey
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from sidecar.tokens.jwt.verified_cache import VerifiedCache
from sidecar.tokens.jwt.verify import ValidationPolicy
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.loopback_server import LoopbackServer

BOT = forge.token(forge.claims(sub="ingestion-bot", isBot=True, exp=...))
PERSON = forge.token(forge.claims(sub="sam"))


@dataclass
class Server:
    """Answers as the test says, and remembers who asked."""

    url: str = ""
    answer: tuple[int, str] = (200, '{"name": "Ingestion-Bot"}')
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append((request.path, request.headers.get("Authorization", "")))
        status, text = self.answer
        headers = {"Location": "/elsewhere"} if 300 <= status < 400 else {}
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)


@pytest.fixture
def server() -> Iterator[Server]:
    answering = Server()
    with LoopbackServer(answering) as running:
        answering.url = running.url
        yield answering


@pytest.fixture
async def client() -> AsyncIterator[ControlClient]:
    made = ControlClient()
    yield made
    await made.aclose()


def check(server: Server, client: ControlClient, clock: HandClock) -> BotTokenCheck:
    return BotTokenCheck(client, bot_check_url(server.url), clock, cache=120, allow_insecure=False)


async def test_server_is_asked_with_the_token_itself(server: Server, client: ControlClient) -> None:
    clock = HandClock()
    assert await check(server, client, clock).confirm("a.b.c", "ingestion-bot") == clock.now() + 120
    assert server.asked == [("/api/v1/users/loggedInUser", "Bearer a.b.c")]


async def test_many_waiters_ask_once_and_one_who_leaves_takes_nothing_along(
    server: Server, client: ControlClient
) -> None:
    made = check(server, client, HandClock())
    leaving = asyncio.create_task(made.confirm("a.b.c", "ingestion-bot"))
    others = [asyncio.create_task(made.confirm("a.b.c", "ingestion-bot")) for _ in range(20)]
    await asyncio.sleep(0)
    leaving.cancel()
    assert len(set(await asyncio.gather(*others))) == 1
    assert len(server.asked) == 1


async def test_refused_token_is_refused_for_a_while_without_asking(server: Server, client: ControlClient) -> None:
    clock = HandClock()
    made = check(server, client, clock)
    server.answer = (401, "{}")
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            await made.confirm("a.b.c", "ingestion-bot")
        assert (caught.value.reason, caught.value.cause) == (Reason.TOKEN_REVOKED, Cause.BOT_TOKEN_REPLACED)
    assert len(server.asked) == 1
    server.answer = Server().answer
    await made.confirm("x.y.z", "ingestion-bot")
    clock.advance(10)
    await made.confirm("a.b.c", "ingestion-bot")


@pytest.mark.parametrize(
    "answer",
    [
        (200, "<!doctype html>"),
        (200, ""),
        (200, "[]"),
        (200, '{"name": "another"}'),
        (200, '{"name": null}'),
        (200, '{"name": "ingestion-bot", "name": "x"}'),
        (200, '{"name": "' + "x" * 300_000 + '"}'),
        (204, ""),
        (302, ""),
        (403, "{}"),
        (404, "{}"),
        (429, "{}"),
        (500, "{}"),
        (503, "{}"),
    ],
)
async def test_answer_that_confirms_nothing_is_broken(
    server: Server, client: ControlClient, answer: tuple[int, str]
) -> None:
    server.answer = answer
    with pytest.raises(Unavailable) as caught:
        await check(server, client, HandClock()).confirm("a.b.c", "ingestion-bot")
    assert caught.value.cause is Cause.BOT_CHECK


async def test_server_that_is_away_is_broken(client: ControlClient) -> None:
    made = BotTokenCheck(client, "http://127.0.0.1:1/x", HandClock(), cache=120, allow_insecure=False)
    with pytest.raises(Unavailable):
        await made.confirm("a.b.c", "ingestion-bot")


@pytest.mark.parametrize(
    "url",
    [f"http://om:8585{path}" for path in ("", "/", "/api", "/api/", f"/api{LOGGED_IN_USER}", f"/api{LOGGED_IN_USER}/")],
)
def test_address_of_the_server_or_of_the_call(url: str) -> None:
    assert bot_check_url(url) == "http://om:8585/api/v1/users/loggedInUser"


def authenticator(bots: BotTokenCheck, clock: HandClock, **more: bool) -> JwtAuthenticator:
    class Keys:
        issuer = None

        def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
            return (KEY,)

        async def refetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
            return ()

    policy = PrincipalPolicy("openmetadata", (ClaimPath("sub"),), own_issuer=True)
    expectations = ValidationPolicy(frozenset({forge.ISSUER}), frozenset({"RS256"}), require_expiry=False)
    accept = ProviderPrincipalMapper(policy, 0, is_own=True, bots=bots, **more)
    issuer = Issuer("openmetadata", Keys(), expectations, accept)
    cache: VerifiedCache[Accepted] = VerifiedCache(10, Metrics())
    return JwtAuthenticator(
        {forge.ISSUER: issuer}, unbound=None, cache=cache, clock=clock, max_token_bytes=16_384, refuse=None
    )


KEY = forge.public(forge.RSA, "RS256")


def view(text: str) -> RequestContext:
    headers = CIMultiDict({"Authorization": f"Bearer {text}"})
    return RequestContext("GET", "/", headers, read_credential(headers))


async def test_bot_is_asked_about_again_when_the_answer_is_old(server: Server, client: ControlClient) -> None:
    clock = HandClock(forge.NOW)
    member = authenticator(check(server, client, clock), clock)
    assert isinstance(await settled(member.authenticate(view(BOT))), Accepted)
    clock.advance(119)
    assert member.recall(view(BOT)) is not None
    clock.advance(1)
    assert member.recall(view(BOT)) is None
    server.answer = (401, "{}")
    outcome: Any = await settled(member.authenticate(view(BOT)))
    assert isinstance(outcome, Rejected)
    assert outcome.failure.reason is Reason.TOKEN_REVOKED
    assert len(server.asked) == 2


@pytest.mark.parametrize("may", [True, False])
async def test_server_says_which_of_its_bots_may_impersonate(server: Server, client: ControlClient, may: bool) -> None:
    """It gets to see the bot's own token, and refuses by what it knows of the bot."""
    clock = HandClock(forge.NOW)
    member = authenticator(check(server, client, clock), clock, bots_may_impersonate=may)
    for text, impersonates in ((BOT, may), (PERSON, False)):
        outcome = await settled(member.authenticate(view(text)))
        assert isinstance(outcome, Accepted)
        assert outcome.actor.may_impersonate is impersonates


async def test_only_bots_are_checked_and_no_forged_token_is_sent(server: Server, client: ControlClient) -> None:
    clock = HandClock(forge.NOW)
    member = authenticator(check(server, client, clock), clock)
    assert isinstance(await settled(member.authenticate(view(PERSON))), Accepted)
    forged = forge.token(forge.claims(sub="ingestion-bot", isBot=True), key=forge.OTHER_RSA)
    assert isinstance(await settled(member.authenticate(view(forged))), Rejected)
    assert server.asked == []
