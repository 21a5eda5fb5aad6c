"""DataHub's system client is accepted with its secret, raw as DataHub sends it or in base64, and no other pair is."""

from base64 import b64encode

import pytest
from multidict import CIMultiDict

from sidecar.authn.authenticators.datahub_system import SystemAuthenticator, check_system_client
from sidecar.authn.base import Abstained, Accepted, Outcome, Rejected
from sidecar.concurrency import settled
from sidecar.errors import Cause, Misconfigured, Reason
from sidecar.identity.request import RequestContext, read_credential
from sidecar.secrets.value import Secret

CLIENT, SECRET = "__datahub_system", "s3cret:with:colons"
PUBLISHED = "JohnSnow" + "KnowsNothing"
AUTHENTICATOR = SystemAuthenticator(CLIENT, Secret(SECRET))


def view(line: str) -> RequestContext:
    headers = CIMultiDict({"authorization": line})
    return RequestContext("GET", "/", headers, read_credential(headers))


async def judge(line: str) -> Outcome:
    outcome: Outcome = await settled(AUTHENTICATOR.authenticate(view(line)))
    # what is known without waiting is exactly what would be accepted
    assert (AUTHENTICATOR.recall(view(line)) is not None) == isinstance(outcome, Accepted)
    return outcome


def base64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize("word", ["Basic", "basic", "BASIC"])
@pytest.mark.parametrize("value", [f"{CLIENT}:{SECRET}", base64(f"{CLIENT}:{SECRET}")])
async def test_system_client_is_known_by_either_form(word: str, value: str) -> None:
    outcome = await judge(f"{word} {value}")
    assert isinstance(outcome, Accepted)
    actor = outcome.actor
    assert (actor.urn, actor.type.value, actor.authenticator) == ("urn:li:corpuser:__datahub_system", "USER", "system")
    assert not actor.is_admin
    assert not actor.is_bot


@pytest.mark.parametrize(
    "value",
    [
        f"{CLIENT}:wrong",
        f"{CLIENT}:",
        f"{CLIENT}:{SECRET}:",
        f"{CLIENT}:{SECRET[:-1]}",
        f"{CLIENT.upper()}:{SECRET}",
        f"other:{SECRET}",
        f":{SECRET}",
        ":",
        f"{CLIENT}:\u00e9\ud800",
        base64(f"{CLIENT}:wrong"),
        base64(f"{CLIENT}:"),
        base64(f"{CLIENT}:{SECRET}\0"),
    ],
)
async def test_wrong_pair_is_refused_and_ends_the_chain(value: str) -> None:
    outcome = await judge(f"Basic {value}")
    assert isinstance(outcome, Rejected)
    assert (outcome.failure.reason, outcome.failure.cause) == (Reason.CREDENTIALS_INVALID, Cause.CREDENTIALS_WRONG)


@pytest.mark.parametrize(
    "line",
    [
        f"Basic {base64('sam:secret')}",
        f"Basic {base64('no colon')}",
        f"Basic {base64(bytes([0xFF, 0x3A]))}",
        "Basic not-base64!",
        "Basic YTpi\u00e9",
        "Basic YTpiY",
        "Basic",
        f"Bearer {CLIENT}:{SECRET}",
        f"Digest {CLIENT}:{SECRET}",
        "",
    ],
)
async def test_other_credentials_are_for_others(line: str) -> None:
    assert isinstance(await judge(line), Abstained)


def test_nothing_prints_the_secret() -> None:
    assert SECRET not in repr(vars(AUTHENTICATOR))


@pytest.mark.parametrize(
    ("client_id", "secret", "place"),
    [
        (CLIENT, PUBLISHED, "authentication.systemClientSecret"),
        (CLIENT, "", "authentication.systemClientSecret"),
        (CLIENT, "two\r\nlines", "authentication.systemClientSecret"),
        (CLIENT, "fifteen-letters", "authentication.systemClientSecret"),
        ("", "sixteen--letters", "authentication.systemClientId"),
        ("a:b", "sixteen--letters", "authentication.systemClientId"),
    ],
)
def test_well_known_or_unsendable_pair_stops_the_start(client_id: str, secret: str, place: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        check_system_client(client_id, Secret(secret), allow_published=False)
    assert [problem.path for problem in caught.value.problems] == [place]
    assert not secret or secret not in str(caught.value)


def test_published_secret_is_for_demonstrations() -> None:
    check_system_client(CLIENT, Secret(PUBLISHED), allow_published=True)
    check_system_client(CLIENT, Secret(SECRET), allow_published=False)
