"""Which outgoing call goes through which proxy."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from sidecar.config.load import load
from sidecar.egress import NO_PROXY, Egress, read_egress, read_exceptions, read_proxy
from sidecar.errors import Misconfigured
from sidecar.outbound import ControlClient, OutboundError, OutboundKind
from sidecar.secrets.value import Secret
from tests.support.certificates import certificate
from tests.support.connect_proxy import ConnectProxy
from tests.support.jwks_server import JwksServer, body
from tests.support.ports import free_port
from tests.support.process import running

PROXY = "http://proxy.example.org:3128"


def egress(written: str = "environment", **environ: str) -> Egress:
    found, faults = read_egress(written, environ, [("om.example.org", "the upstream is always direct")])
    assert not faults
    return found


def through(found: Egress, url: str) -> bool:
    return found.route(url).proxy is not None


class Names(AbstractResolver):
    """Names at the addresses that are given; other names are not known."""

    def __init__(self, **names: str) -> None:
        self.names = {name.replace("_", "."): address for name, address in names.items()}

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        address = self.names.get(host, host)
        if address == host and not host.replace(".", "").isdigit():
            raise OSError("no such name")
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def test_https_goes_through_the_proxy_of_the_environment() -> None:
    """The variable in lower case wins; its scheme may be missing, as curl reads it."""
    assert through(egress(HTTPS_PROXY=PROXY), "https://idp.example.org/jwks")
    found = egress(HTTPS_PROXY="http://other.example.org", https_proxy="proxy.example.org:3128")
    assert str(found.route("https://idp.example.org/jwks").proxy) == PROXY
    assert found.proxy is not None
    assert found.proxy.origin == "https_proxy"
    assert egress("none", HTTPS_PROXY=PROXY) == NO_PROXY == egress(HTTP_PROXY=PROXY)
    written = egress("http://written.example.org:8080", HTTPS_PROXY=PROXY)
    assert str(written.route("https://idp.example.org/").proxy) == "http://written.example.org:8080"


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.org/jwks",
        "http://127.0.0.1:8585/api/v1/config/jwks",
        "https://127.0.0.1/",
        "https://127.8.8.8/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://localhost:8443/",
        "https://idp.localhost/",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/",
        "https://kubernetes.default.svc/openid/v1/jwks",
        "https://kubernetes.default.svc.cluster.local/openid/v1/jwks",
        "https://10.96.0.1/openid/v1/jwks",
        "https://om.example.org/api/v1/users/loggedInUser",
        "https://OM.example.org.:8586/api",
    ],
)
def test_what_is_always_direct_never_goes_through_a_proxy(url: str) -> None:
    """Loopback, link-local, plain http, the cluster's API server and the upstream, whatever the variables say."""
    found = egress(HTTPS_PROXY=PROXY, HTTP_PROXY=PROXY, KUBERNETES_SERVICE_HOST="10.96.0.1")
    assert not through(found, url)
    assert found.route(url).reason


@pytest.mark.parametrize(
    ("no_proxy", "direct", "proxied"),
    [
        ("*", "https://idp.example.org", None),
        ("example.org", "https://idp.example.org", "https://example.com"),
        ("example.org", "https://EXAMPLE.org.", "https://notexample.org"),
        (".example.org", "https://idp.example.org", "https://example.net"),
        ("*.example.org", "https://idp.example.org", "https://example.org"),
        ("10.0.0.0/8", "https://10.1.2.3", "https://11.1.2.3"),
        ("10.1.2.3", "https://10.1.2.3", "https://10.1.2.4"),
        ("fd00::/8", "https://[fd00::5]", "https://[2001:db8::1]"),
        ("idp.example.org:8443", "https://idp.example.org:8443", "https://idp.example.org"),
        ("[fd00::5]:443", "https://[fd00::5]", "https://[fd00::5]:8443"),
        ("a.example.com, b.example.com c.example.com", "https://c.example.com", "https://d.example.com"),
    ],
)
def test_no_proxy_lists_names_suffixes_networks_and_ports(no_proxy: str, direct: str, proxied: str | None) -> None:
    found = egress(HTTPS_PROXY=PROXY, NO_PROXY=no_proxy)
    assert not through(found, direct)
    assert proxied is None or through(found, proxied)
    assert not through(egress(PROXY, no_proxy=no_proxy), direct)


@pytest.mark.parametrize(
    "text", ["socks5://proxy:1080", "https://proxy:443", "http://", "http://p:x", "http://p:0", "http://p/path"]
)
def test_proxy_that_cannot_be_used_is_an_error_of_its_variable(tmp_path: Path, text: str) -> None:
    """The start ends: calls that silently went another way would miss what the proxy is there for."""
    with pytest.raises(Misconfigured) as caught:
        load([], {"HTTPS_PROXY": text})
    (fault,) = [problem for problem in caught.value.problems if problem.path == "HTTPS_PROXY"]
    assert "outbound.proxy: none" in fault.message
    config = tmp_path / "c.yaml"
    config.write_text("outbound: {proxy: none}\n", encoding="utf-8")
    assert load([str(config)], {"HTTPS_PROXY": text}).egress == NO_PROXY


@pytest.mark.parametrize("text", ["enviroment", "proxy.example.org:3128", "", "None"])
def test_setting_that_is_no_word_and_no_url_is_an_error(tmp_path: Path, text: str) -> None:
    """A word with a typing error is no proxy's name."""
    config = tmp_path / "c.yaml"
    config.write_text(f"outbound: {{proxy: '{text}'}}\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match="must be environment, none or http://host:port"):
        load([str(config)], {})


def test_password_of_a_proxy_prints_nowhere() -> None:
    proxy = read_proxy("http://me:p%40ss@proxy.example.org:3128", "HTTPS_PROXY")
    assert (proxy.user, proxy.password) == ("me", Secret("p@ss"))
    assert "p@ss" not in f"{proxy} {proxy!r}"
    assert str(proxy) == "http://proxy.example.org:3128 (with credentials)"
    for text in ("http://me:hunter2@proxy/path", "ftp://me:hunter2@proxy", "http://me:hunter2@proxy:x"):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it must not say is asked
            read_proxy(text, "HTTPS_PROXY")
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("http://idp.example.org", "without the scheme"),
        ("'localhost,127.0.0.1'", "remove the quotes"),
        ("localhost;127.0.0.1", "separate entries with commas"),
        ("<local>", "list the names"),
        ("10.0.0.0/8:443", "only possible after a host"),
        ("*:443", "only possible after a host"),
        ("10.*", "write a network"),
        ("10.0.0.1-10.0.0.9", "write a network"),
        ("idp.*.org", "only possible at the beginning"),
        ("b\u00fccher.example", "xn--"),
    ],
)
def test_entry_of_other_programs_is_an_error_with_the_correction(text: str, mend: str) -> None:
    """A range of addresses among them, which could be read as a host name that nothing has."""
    with pytest.raises(ValueError, match=f"has the invalid entry .*; .*; .*{mend}"):
        read_exceptions(text)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"ALL_PROXY": PROXY}, ["ALL_PROXY"]),
        ({"all_proxy": "socks5://p:1"}, ["all_proxy"]),
        ({"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, ["ALL_PROXY", "HTTP_PROXY"]),
        ({"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY}, []),
        ({"ALL_PROXY": "", "NO_PROXY": "*"}, []),
    ],
)
def test_variable_of_a_proxy_that_is_not_read_is_a_warning(
    tmp_path: Path, environ: dict[str, str], named: list[str]
) -> None:
    """Other programs in the pod use that proxy; here a call that needs it would only time out."""
    about = [problem for problem in load([], environ).warnings if "PROXY" in problem.path.upper()]
    assert [problem.path for problem in about] == named
    assert all("HTTPS_PROXY" in problem.message and "outbound.proxy" in problem.message for problem in about)
    config = tmp_path / "c.yaml"
    config.write_text("outbound: {proxy: none}\n", encoding="utf-8")
    assert not [problem for problem in load([str(config)], environ).warnings if "PROXY" in problem.path.upper()]


@pytest.mark.parametrize("text", ["a b:c", "example.org:99999", "[::1", "http://example.org", "10.0.0.0/99"])
def test_no_proxy_that_cannot_be_read_is_an_error(text: str) -> None:
    """An entry that was skipped would send what it names to the proxy."""
    with pytest.raises(ValueError, match="has the invalid entry"):
        read_exceptions(text)


@pytest.fixture
async def far(tmp_path: Path) -> object:
    public, private = certificate()
    ca, key = tmp_path / "ca.pem", tmp_path / "key.pem"
    ca.write_bytes(public)
    key.write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca, key)
    async with JwksServer(context) as server:
        server.answers["/jwks"] = body(b"{}")
        yield server, str(ca)


def client_of(ca: str, found: Egress, **names: str) -> ControlClient:
    return ControlClient(ca, Names(**names), egress=found)


async def fetch(client: ControlClient, url: str) -> bytes:
    try:
        return (await client.get(url, within=5, max_bytes=1000)).body
    finally:
        await client.aclose()


async def test_call_goes_by_connect_and_is_verified_here(far: tuple[JwksServer, str]) -> None:
    """The proxy gets the host and its own credentials, and nothing of what is asked there."""
    server, ca = far
    async with ConnectProxy(server.port, credentials="me:p@ss") as proxy:
        found = egress(f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        # TEST-NET: reached through the proxy alone. Its certificate is not for that address.
        with pytest.raises(OutboundError) as caught:
            await fetch(client_of(ca, found), "https://192.0.2.1/jwks?secret=1")
        assert caught.value.kind is OutboundKind.TLS
    assert proxy.asked == ["CONNECT 192.0.2.1:443 HTTP/1.1"]
    assert "secret" not in proxy.heads[0]


async def test_proxy_that_refuses_is_named_with_what_to_do(far: tuple[JwksServer, str]) -> None:
    server, ca = far
    async with ConnectProxy(server.port, credentials="me:right") as proxy:
        with pytest.raises(OutboundError, match=r"answers 407 to CONNECT idp\.example\.org:443") as caught:
            await fetch(client_of(ca, egress(f"http://me:wrong@127.0.0.1:{proxy.port}")), "https://idp.example.org/")
        assert caught.value.kind is OutboundKind.PROXY
        assert "wrong" not in caught.value.detail
    async with ConnectProxy(server.port, status=403) as proxy:
        with pytest.raises(OutboundError, match="answers 403 to CONNECT idp"):
            await fetch(client_of(ca, egress(proxy.url)), "https://idp.example.org/")
    with pytest.raises(OutboundError, match="cannot be reached"):
        await fetch(client_of(ca, egress(f"http://127.0.0.1:{free_port()}")), "https://idp.example.org/")


async def test_refused_addresses_are_refused_before_the_proxy_is_asked(far: tuple[JwksServer, str]) -> None:
    """A name that resolves here to a metadata service is not handed to the proxy, which could fetch it."""
    server, ca = far
    async with ConnectProxy(server.port) as proxy:
        for url in ("https://trap.example.org/", "https://169.254.169.254/", "https://168.63.129.16/"):
            with pytest.raises(OutboundError) as caught:
                await fetch(client_of(ca, egress(proxy.url), trap_example_org="169.254.169.254"), url)
            assert caught.value.kind is OutboundKind.ADDRESS_REFUSED
        assert not proxy.asked


async def test_name_that_resolves_to_loopback_is_direct(far: tuple[JwksServer, str]) -> None:
    """The proxy would ask its own loopback, or answer itself."""
    server, ca = far
    async with ConnectProxy(server.port) as proxy:
        client = client_of(ca, egress(proxy.url), here_example_org="127.0.0.1")
        with pytest.raises(OutboundError) as caught:  # the certificate is not for that name: the server was reached
            await fetch(client, f"https://here.example.org:{server.port}/jwks")
        assert caught.value.kind is OutboundKind.TLS
        assert not proxy.asked


async def test_loopback_is_direct_though_a_proxy_is_configured(far: tuple[JwksServer, str]) -> None:
    server, ca = far
    async with ConnectProxy(server.port) as proxy:
        assert await fetch(client_of(ca, egress(proxy.url)), server.url()) == b"{}"
        assert not proxy.asked


async def test_resolver_that_never_answers_does_not_keep_the_proxy_from_being_asked(
    far: tuple[JwksServer, str],
) -> None:
    """Networks that need a proxy often have no resolver for names outside."""

    class Silent(Names):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
            if host != "127.0.0.1":
                await asyncio.Event().wait()
            return await super().resolve(host, port, family)

    server, ca = far
    async with ConnectProxy(server.port, status=403) as proxy:
        with pytest.raises(OutboundError, match="answers 403"):
            await fetch(ControlClient(ca, Silent(), egress=egress(proxy.url)), "https://idp.example.org/")


async def test_tinyproxy_carries_a_call(
    far: tuple[JwksServer, str], tmp_path: Path, require_tool: Callable[[str], Path]
) -> None:
    """A real proxy with credentials: its log names the host, and the answer comes."""
    server, ca = far
    port = free_port()
    config, log = tmp_path / "tinyproxy.conf", tmp_path / "tinyproxy.log"
    config.write_text(
        f'Port {port}\nListen 127.0.0.1\nLogFile "{log}"\nLogLevel Connect\nBasicAuth me secretword\n'
        f"Timeout 10\nMaxClients 10\n",
        encoding="utf-8",
    )

    def ready() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with running([require_tool("tinyproxy"), "-d", "-c", config], log=tmp_path / "out.log", ready=ready):
        found = Egress(read_proxy(f"http://me:secretword@127.0.0.1:{port}", "HTTPS_PROXY"))
        client = client_of(ca, found)
        client._egress = _Always(found)  # type: ignore[assignment] # the only server here is on loopback
        assert await fetch(client, server.url()) == b"{}"
        denied = client_of(ca, found)
        denied._egress = _Always(Egress(read_proxy(f"http://me:no@127.0.0.1:{port}", "x")))  # type: ignore[assignment]
        with pytest.raises(OutboundError) as caught:
            await fetch(denied, server.url())
        assert caught.value.kind is OutboundKind.PROXY
    assert f"CONNECT 127.0.0.1:{server.port}" in log.read_text(encoding="utf-8")


class _Always:
    """Takes everything through the proxy of ``found``, loopback too."""

    def __init__(self, found: Egress) -> None:
        self._found = found

    def route(self, _url: str) -> object:
        return self._found.route("https://idp.example.org/")


def test_one_ca_bundle_counts_for_every_connection_that_names_none(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "outbound: {caFile: /all.pem}\nupstream: {url: https://om.example.org}\n"
        "store: {url: rediss://redis.example.org, tls: {caFile: /redis.pem}}\n",
        encoding="utf-8",
    )
    settings = load([str(config)], {}).settings
    assert settings.upstream is not None
    files = settings.keys.ca_file, settings.upstream.ca_file, settings.store.tls.ca_file
    assert files == ("/all.pem", "/all.pem", "/redis.pem")
