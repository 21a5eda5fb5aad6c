"""Service account tokens: whose cluster, whose keys, and which Actor they make."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sidecar.authn.authenticators.kubernetes import Kubernetes
from sidecar.authn.base import Abstained, Accepted, Outcome, Rejected
from sidecar.concurrency import settled
from sidecar.config.providers import Provider
from sidecar.config.settings import KeyFetchSettings
from sidecar.errors import Cause, Misconfigured, Unavailable
from sidecar.identity.actor import ActorType
from sidecar.metrics import Metrics
from tests.support.forge import OTHER_RSA, RSA, Key, token
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually, jwk
from tests.support.loopback_server import LoopbackServer
from tests.support.members import asked, options_of, surroundings

NOW = 1_800_000_000
ISSUER = "https://kubernetes.default.svc.cluster.local"


def account_token(key: Key = RSA, **changes: Any) -> str:
    namespace, name = changes.pop("namespace", "data"), changes.pop("name", "crawler")
    claims = {
        "iss": ISSUER,
        "aud": ["sidecar"],
        "sub": f"system:serviceaccount:{namespace}:{name}",
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "u"}},
        "iat": NOW - 60,
        "exp": NOW + 3600,
        **changes,
    }
    return token({name: value for name, value in claims.items() if value is not ...}, key=key)


class ApiServer:
    """Serves its keys to callers that present the pod's token."""

    def __init__(self) -> None:
        self.pod_token = ""
        self.presented: list[str] = []
        self.review: web.Response | dict[str, Any] = {}
        self.reviewed: list[dict[str, Any]] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.presented.append(request.headers.get("Authorization", ""))
        if request.method == "POST":
            assert request.path == "/apis/authentication.k8s.io/v1/tokenreviews"
            self.reviewed.append(await request.json())
            review = self.review
            return review if isinstance(review, web.Response) else web.json_response({"status": review}, status=201)
        if request.path != "/openid/v1/jwks" or self.presented[-1] != f"Bearer {self.pod_token}":
            return web.Response(status=401)
        return web.json_response({"keys": [jwk(RSA, "k1")]})


@pytest.fixture(name="api")
def _api() -> ApiServer:
    return ApiServer()


@pytest.fixture(name="url")
def _url(api: ApiServer) -> Iterator[str]:
    with LoopbackServer(api) as running:
        yield running.url


@pytest.fixture(name="make")
async def _make(api: ApiServer, url: str, tmp_path: Path) -> AsyncIterator[Any]:
    made: list[Kubernetes] = []
    (tmp_path / "token").write_text(account_token(name="sidecar"))
    api.pod_token = (tmp_path / "token").read_text()

    async def make(
        *, ready: bool = True, start: bool = True, providers: Mapping[str, Provider] | None = None, **options: Any
    ) -> Kubernetes:
        written = {
            "audiences": ["sidecar"], "apiServer": url, "caFile": "", "tokenFile": str(tmp_path / "token"), **options
        }  # fmt: skip
        around = surroundings(
            "cluster",
            HandClock(float(NOW)),
            keys=KeyFetchSettings(unknown_kid_cooldown=0.0),
            metrics=Metrics(),
            providers=providers or {},
        )
        member = Kubernetes(options_of(Kubernetes, written), around)
        if not start:
            return member
        made.append(member)
        await member.start()
        if ready:
            await eventually(lambda: not member.unavailable_reason)
        return member

    yield make
    for member in made:
        await member.stop()


def cause(outcome: Outcome) -> Cause:
    assert isinstance(outcome, Rejected)
    return outcome.failure.cause


async def test_an_account_is_a_service(make: Any) -> None:
    member = await make()
    view = asked(f"Bearer {account_token()}")
    outcome = await settled(member.authenticate(view))
    assert isinstance(outcome, Accepted)
    assert (outcome.actor.type, outcome.actor.id) == (ActorType.SERVICE, "system:serviceaccount:data:crawler")
    assert (outcome.actor.issuer, outcome.actor.subject) == (ISSUER, "system:serviceaccount:data:crawler")
    assert member.recall(view) is outcome
    outcome.key.live = False
    assert member.recall(view) is None


async def test_the_option_names_the_actor(make: Any) -> None:
    member = await make(actor="k8s:{namespace}.{name}")
    outcome = await settled(member.authenticate(asked(f"Bearer {account_token()}")))
    assert isinstance(outcome, Accepted)
    assert outcome.actor.id == "k8s:data.crawler"


@pytest.mark.parametrize(
    "template",
    ["{name}", "static", "{namespace}/{name}", "{namespace} {name}", "{x}{namespace}:{name}", "{name}:{name}",
     "{namespace}:{name}:{name}", "{namespace}{name}", "{namespace}-{name}", "{name}-0{namespace}"],
)  # fmt: skip
def test_a_template_keeps_accounts_apart(template: str) -> None:
    with pytest.raises(ValueError, match="must contain"):
        options_of(Kubernetes, {"audiences": ["a"], "actor": template})


@pytest.mark.parametrize(
    "template", ["{namespace}.{name}", "{name}.{namespace}", "a-{name}-.-{namespace}.b", "{namespace}A_:{name}-"]
)
def test_no_two_accounts_make_one_actor(template: str) -> None:
    """All of four signs at most, as Kubernetes lets them be named: dots in names only."""
    accepted = options_of(Kubernetes, {"audiences": ["a"], "actor": template}).actor
    namespaces, names = _texts("a-"), _texts("a-.")
    made = {
        accepted.replace("{namespace}", namespace).replace("{name}", name) for namespace in namespaces for name in names
    }
    assert len(made) == len(namespaces) * len(names)


def _texts(signs: str) -> list[str]:
    return ["".join(text) for length in range(1, 5) for text in itertools.product(signs, repeat=length)]


def test_an_audience_is_required() -> None:
    with pytest.raises(ValueError, match="audiences"):
        options_of(Kubernetes, {})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"aud": ["https://kubernetes.default.svc"]}, Cause.AUDIENCE),
        ({"aud": ...}, Cause.AUDIENCE),
        ({"exp": ...}, Cause.EXPIRY_MISSING),
        ({"exp": NOW - 60}, Cause.EXPIRED),
        ({"key": OTHER_RSA}, Cause.SIGNATURE),
        ({"kubernetes.io": ...}, Cause.PRINCIPAL_MALFORMED),
        ({"kubernetes.io": {"namespace": "x", "serviceaccount": {"name": "crawler"}}}, Cause.PRINCIPAL_MALFORMED),
        ({"kubernetes.io": {"namespace": "data", "serviceaccount": "crawler"}}, Cause.PRINCIPAL_MALFORMED),
        ({"sub": "system:serviceaccount:data:crawler:x"}, Cause.PRINCIPAL_MALFORMED),
        ({"namespace": "da.ta"}, Cause.PRINCIPAL_MALFORMED),
        ({"sub": "system:node:data"}, Cause.PRINCIPAL_MALFORMED),
        ({"sub": "admin"}, Cause.PRINCIPAL_MALFORMED),
        ({"namespace": "elsewhere"}, Cause.NAMESPACE),
    ],
)  # fmt: skip
async def test_what_is_refused(make: Any, changes: dict[str, Any], expected: Cause) -> None:
    member = await make(namespaces=["data"])
    assert cause(await settled(member.authenticate(asked(f"Bearer {account_token(**changes)}")))) is expected


async def test_tokens_of_other_issuers_are_not_its_business(make: Any) -> None:
    """A legacy secret token names another issuer, and so does a person's."""
    member = await make()
    for issuer in ("kubernetes/serviceaccount", "https://idp.example.com"):
        outcome = await settled(member.authenticate(asked(f"Bearer {account_token(iss=issuer)}")))
        assert isinstance(outcome, Abstained)
    assert isinstance(await settled(member.authenticate(asked("Basic x"))), Abstained)


async def test_the_pods_own_token_is_read_anew(make: Any, api: ApiServer, tmp_path: Path) -> None:
    """The kubelet replaces it; a key that is not known yet causes the next fetch."""
    member = await make()
    renewed = account_token(name="sidecar", iat=NOW)
    (tmp_path / "token").write_text(renewed)
    api.pod_token = renewed
    stranger = token({"iss": ISSUER, "aud": "sidecar", "exp": NOW + 60}, {"alg": "RS256", "kid": "new"})
    for _ in range(50):  # the first may join the end of the fetch at the start
        await settled(member.authenticate(asked(f"Bearer {stranger}")))
        if api.presented[-1] == f"Bearer {renewed}":
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the file was not read again")


async def test_without_keys_no_token_is_refused_or_accepted(make: Any, api: ApiServer) -> None:
    api.pod_token = "another"
    member = await make(ready=False)
    with pytest.raises(Unavailable):
        await settled(member.authenticate(asked(f"Bearer {account_token()}")))
    assert (await (await make(start=False)).check())[0]


async def test_without_a_token_of_its_own_it_needs_an_issuer(make: Any, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="set issuer"):
        await make(tokenFile=str(tmp_path / "none"))


GOOD_REVIEW = {
    "authenticated": True,
    "user": {"username": "system:serviceaccount:data:crawler"},
    "audiences": ["sidecar"],
}


async def test_the_servers_word_is_believed_for_a_while(make: Any, api: ApiServer) -> None:
    """One question for all who ask at once, and only about what is good so far."""
    member = await make(review=True, cache="30s")
    api.review = GOOD_REVIEW
    view = asked(f"Bearer {account_token()}")
    outcomes = await asyncio.gather(*(member.authenticate(view) for _ in range(5)))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    [review] = api.reviewed
    assert review["spec"] == {"token": view.credential.value, "audiences": ["sidecar"]}
    assert member.recall(view) is outcomes[0]
    member.surroundings.clock.advance(30.0)
    assert member.recall(view) is None
    assert cause(await settled(member.authenticate(asked(f"Bearer {account_token(aud='other')}")))) is Cause.AUDIENCE
    assert len(api.reviewed) == 1


@pytest.mark.parametrize("status", [{}, {"authenticated": False}, {"authenticated": "true"}, {"error": "gone"}])
async def test_what_the_server_does_not_vouch_for_is_refused(make: Any, api: ApiServer, status: dict[str, Any]) -> None:
    member = await make(review=True)
    api.review = {**GOOD_REVIEW, "authenticated": None, **status}
    assert cause(await settled(member.authenticate(asked(f"Bearer {account_token()}")))) is Cause.INACTIVE


async def test_a_refusal_is_remembered_for_a_moment(make: Any, api: ApiServer) -> None:
    """A token of a deleted account cannot keep the API server busy."""
    member = await make(review=True)
    api.review = {"authenticated": False}
    view = asked(f"Bearer {account_token()}")
    for _ in range(5):
        assert cause(await settled(member.authenticate(view))) is Cause.INACTIVE
    assert len(api.reviewed) == 1
    api.review = GOOD_REVIEW
    assert isinstance(await settled(member.authenticate(asked(f"Bearer {account_token(jti='other')}"))), Accepted)
    member.surroundings.clock.advance(10.0)
    assert isinstance(await settled(member.authenticate(view)), Accepted)


@pytest.mark.parametrize(
    "review",
    [
        {**GOOD_REVIEW, "user": {"username": "system:serviceaccount:data:another"}},
        {**GOOD_REVIEW, "user": "system:serviceaccount:data:crawler"},
        {**GOOD_REVIEW, "audiences": ["another"]},
        {**GOOD_REVIEW, "audiences": "sidecar"},
        {name: value for name, value in GOOD_REVIEW.items() if name != "audiences"},
        {"body": b"{}"},
        {"body": b"[]"},
        {"body": b"<html>"},
        {"body": b'{"status": [true]}'},
        {"status": 403},
        {"status": 500},
        {"status": 202, "body": b'{"status": {}}'},
    ],
    ids=str,
)
async def test_an_answer_that_is_none_breaks_it(make: Any, api: ApiServer, review: dict[str, Any]) -> None:
    """A server that knows nothing of audiences leaves them out: its yes is for itself."""
    member = await make(review=True)
    api.review = review if "user" in review else web.Response(**review)
    with pytest.raises(Unavailable, match="TokenReview"):
        await settled(member.authenticate(asked(f"Bearer {account_token()}")))
    assert not member.unavailable_reason  # otherwise it would get no request by which it could recover
    api.review = GOOD_REVIEW
    assert isinstance(await settled(member.authenticate(asked(f"Bearer {account_token()}"))), Accepted)


async def test_the_check_asks_whether_it_may_ask(make: Any, api: ApiServer) -> None:
    api.review = web.Response(status=403)
    assert await (await make(start=False, review=True)).check() == ["TokenReview: status 403"]
    api.review = {"authenticated": False}
    assert await (await make(start=False, review=True)).check() == []


async def test_the_issuer_is_that_of_the_pods_latest_token(make: Any, tmp_path: Path) -> None:
    """Looked for again at most once within the cool-down; a written one is final."""
    member, fixed = await make(), await make(issuer=ISSUER)
    (tmp_path / "token").write_text(account_token(iss="https://new.example.com"))
    view = asked(f"Bearer {account_token(iss='https://new.example.com')}")
    assert isinstance(await settled(member.authenticate(view)), Accepted)
    assert isinstance(await settled(member.authenticate(asked(f"Bearer {account_token()}"))), Accepted)
    assert isinstance(await settled(fixed.authenticate(view)), Abstained)


@pytest.mark.parametrize("written", [{"issuer": ISSUER}, {}])
async def test_the_clusters_issuer_has_one_owner(make: Any, written: dict[str, str]) -> None:
    """Written, or that of the pod's token: a provider of that name makes the start an error, which names both."""
    with pytest.raises(Misconfigured) as caught:
        await make(providers={"corp": Provider("corp", ISSUER)}, **written)
    assert f"issuer {ISSUER} is also the issuer of provider corp" in str(caught.value)


async def test_the_cluster_is_not_called_as_a_member_of_the_chain(make: Any) -> None:
    """Its accounts would own the tokens of that member's people."""
    with pytest.raises(Misconfigured, match="reserved for the sidecar"):
        await make(issuer="URN:auth-sidecar:basic")
