"""The control client: what it refuses to fetch, and how it bounds what comes back."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import unused_port

from sidecar.errors import Misconfigured
from sidecar.outbound import Answer, ControlClient, OutboundError, OutboundKind, check_url, is_refused_address
from tests.support.certificates import certificate
from tests.support.jwks_server import JwksServer, body, document, endless, held, status


class FixedResolver(AbstractResolver):
    """Every name is at ``addresses``."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        pass


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    async with JwksServer() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[ControlClient]:
    made = ControlClient()
    yield made
    await made.aclose()


async def fetch(client: ControlClient, url: str, within: float = 5.0, etag: str = "") -> Answer:
    return await client.get(url, within=within, max_bytes=1000, etag=etag)


async def refusal(client: ControlClient, url: str, within: float = 5.0) -> OutboundError:
    with pytest.raises(OutboundError) as caught:
        await fetch(client, url, within)
    return caught.value


async def test_answer_carries_body_etag_and_lifetime(server: JwksServer, client: ControlClient) -> None:
    server.answers["/jwks"] = document({"keys": []}, ETag='"a"', Cache_Control="public, max-age=600", Age="100")
    answer = await fetch(client, server.url())
    assert (answer.body, answer.etag, answer.max_age) == (b'{"keys": []}', '"a"', 500.0)
    assert (await fetch(client, server.url(), etag='"a"')).not_modified


async def test_request_asks_for_no_compression_and_sends_no_cookies(server: JwksServer, client: ControlClient) -> None:
    server.answers["/jwks"] = document({}, Set_Cookie="a=b; Path=/")
    await fetch(client, server.url())
    await fetch(client, server.url())
    assert server.headers[1]["Accept-Encoding"] == "identity"
    assert "Cookie" not in server.headers[1]


@pytest.mark.parametrize(
    ("control", "max_age"),
    [
        ("no-store", 0.0),
        ("no-cache, max-age=9", 0.0),
        ('max-age="60"', 60.0),
        ("s-maxage=60", None),
        ("max-age=x", None),
    ],
)
async def test_cache_control_is_read(
    server: JwksServer, client: ControlClient, control: str, max_age: float | None
) -> None:
    server.answers["/jwks"] = document({}, Cache_Control=control)
    assert (await fetch(client, server.url())).max_age == max_age


@pytest.mark.parametrize("number", [201, 204, 206, 304, 401, 404, 500, 503])
async def test_only_200_counts(server: JwksServer, client: ControlClient, number: int) -> None:
    server.answers["/jwks"] = status(number)
    assert (await refusal(client, server.url())).kind in (OutboundKind.STATUS, OutboundKind.REDIRECT)


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(server: JwksServer, client: ControlClient, number: int) -> None:
    server.answers["/jwks"] = status(number, Location=server.url("/other"))
    assert (await refusal(client, server.url())).kind is OutboundKind.REDIRECT
    assert server.requests["/other"] == 0


async def test_announced_and_unannounced_oversize_is_cut_off(server: JwksServer, client: ControlClient) -> None:
    server.answers["/announced"] = body(b" " * 1001)
    server.answers["/endless"] = endless()
    assert (await refusal(client, server.url("/announced"))).kind is OutboundKind.TOO_LARGE
    assert (await refusal(client, server.url("/endless"))).kind is OutboundKind.TOO_LARGE


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
async def test_gzip_is_decoded_although_it_was_not_requested(
    server: JwksServer, client: ControlClient, coding: str
) -> None:
    """Objects that are stored compressed are sent so; members one after the other are one text (RFC 1952 2.2)."""
    content = gzip.compress(b'{"keys":') + gzip.compress(b" []}")
    server.answers["/jwks"] = body(content, Content_Encoding=coding)
    assert (await fetch(client, server.url())).body == b'{"keys": []}'


@pytest.mark.parametrize(
    ("content", "coding", "kind"),
    [
        (gzip.compress(b" " * 10**6), "gzip", OutboundKind.TOO_LARGE),
        (gzip.compress(b" " * 600) * 2, "gzip", OutboundKind.TOO_LARGE),
        (gzip.compress(b"{}")[:-3], "gzip", OutboundKind.ENCODING),
        (gzip.compress(b"{}") + b"x", "gzip", OutboundKind.ENCODING),
        (b"{}", "gzip", OutboundKind.ENCODING),
        (gzip.compress(gzip.compress(b"{}")), "gzip, gzip", OutboundKind.ENCODING),
        (b"{}", "br", OutboundKind.ENCODING),
        (b"{}", "deflate", OutboundKind.ENCODING),
    ],
    # compressed bytes hold the time at which they were made
    ids=["long", "two members", "truncated", "trailing byte", "not compressed", "twice", "br", "deflate"],
)
async def test_compressed_answer_is_bounded_when_unfolded(
    server: JwksServer, client: ControlClient, content: bytes, coding: str, kind: OutboundKind
) -> None:
    """A small compressed body may unfold to any size; what breaks off or is coded in another way is no answer."""
    server.answers["/jwks"] = body(content, Content_Encoding=coding)
    assert (await refusal(client, server.url())).kind is kind


async def test_long_and_many_header_lines_are_read(server: JwksServer, client: ControlClient) -> None:
    """Front doors add content security policies of many kilobytes, and traces of every hop."""
    many = {f"X-Hop-{number}": "x" * 100 for number in range(200)}
    policy = "frame-ancestors " + "https://a.example.com " * 1500
    server.answers["/jwks"] = body(b"{}", Content_Security_Policy=policy, **many)
    assert (await fetch(client, server.url())).body == b"{}"
    server.answers["/jwks"] = body(b"{}", X="x" * 70_000)
    assert (await refusal(client, server.url())).kind is OutboundKind.CONNECT


async def test_hanging_server_costs_the_time_limit_only(server: JwksServer, client: ControlClient) -> None:
    server.answers["/jwks"] = held(document({}), asyncio.Event())
    assert (await refusal(client, server.url(), within=0.05)).kind is OutboundKind.TIMEOUT


async def test_trickling_body_is_under_the_same_limit(server: JwksServer, client: ControlClient) -> None:
    gate = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{")
        await gate.wait()
        return response

    server.answers["/jwks"] = answer
    assert (await refusal(client, server.url(), within=0.05)).kind is OutboundKind.TIMEOUT


async def test_dead_port_is_a_connect_failure(client: ControlClient) -> None:
    error = await refusal(client, f"http://127.0.0.1:{unused_port()}/jwks")
    assert error.kind is OutboundKind.CONNECT


async def test_no_http_at_all_is_a_connect_failure_that_quotes_nothing(client: ControlClient) -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SECRET-BANNER\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as raw:
        error = await refusal(client, f"http://127.0.0.1:{raw.sockets[0].getsockname()[1]}/")
    assert error.kind is OutboundKind.CONNECT
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jwks",
        "file:///etc/passwd",
        "ftp://idp.example.com/",
        "https:///path",
        "https://user:pw@idp.example.com/",
        "https://user@idp.example.com/",
        "http://idp.example.com/",
        "http://10.0.0.1/",
        "http://localhost.example.com/",
        "http://127.0.0.1.example.com/",
        "https://[::1/",
        "https://host:99999/",
    ],
)
def test_url_is_refused(url: str) -> None:
    with pytest.raises(OutboundError) as caught:
        check_url(url)
    assert caught.value.kind is OutboundKind.URL_REFUSED


@pytest.mark.parametrize(
    "url",
    ["https://idp.example.com/", "http://localhost:1/", "http://127.8.0.1/", "http://[::1]:81/", "https://10.0.0.1/"],
)
def test_url_is_accepted(url: str) -> None:
    assert str(check_url(url)) == url


def test_plain_http_elsewhere_needs_permission() -> None:
    assert check_url("http://idp.example.com/", allow_insecure=True).host == "idp.example.com"


REFUSED = [
    "169.254.169.254",
    "169.254.170.2",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "169.254.43518",
    "0251.0376.0251.0376",
]


@pytest.mark.parametrize("address", REFUSED)
def test_metadata_and_group_addresses_are_known_in_every_form(address: str) -> None:
    assert is_refused_address(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1", "idp"]
)
def test_ordinary_addresses_and_names_are_not_refused(address: str) -> None:
    assert not is_refused_address(address)


@pytest.mark.parametrize("address", REFUSED)
async def test_literal_address_is_refused_also_when_plain_http_is_allowed(client: ControlClient, address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    for scheme in ("http", "https"):
        with pytest.raises(OutboundError) as caught:
            await client.get(f"{scheme}://{host}/", within=1, max_bytes=1, allow_insecure=True)
        assert caught.value.kind is OutboundKind.ADDRESS_REFUSED


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0"])
async def test_name_that_resolves_to_a_refused_address_is_refused(address: str) -> None:
    """Also when an acceptable address stands beside it."""
    client = ControlClient(resolver=FixedResolver("127.0.0.1", address))
    error = await refusal(client, "https://idp.example.com/")
    await client.aclose()
    assert error.kind is OutboundKind.ADDRESS_REFUSED


async def test_certificate_must_be_trusted_by_the_ca_file(tmp_path: Path, client: ControlClient) -> None:
    public, private = certificate()
    ca_file, key_file = tmp_path / "ca.pem", tmp_path / "key.pem"
    ca_file.write_bytes(public)
    key_file.write_bytes(private)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(ca_file, key_file)
    trusting = ControlClient(ca_file=str(ca_file))
    async with JwksServer(tls) as server:
        server.answers["/jwks"] = document({})
        assert (await fetch(trusting, server.url())).body == b"{}"
        assert (await refusal(client, server.url())).kind is OutboundKind.TLS
    await trusting.aclose()


async def test_unreadable_ca_file_is_a_configuration_problem(tmp_path: Path) -> None:
    for content in (None, b"no certificate"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Misconfigured, match="caFile"):
            ControlClient(ca_file=str(path))
