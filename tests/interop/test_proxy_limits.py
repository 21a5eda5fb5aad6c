"""The shipped files of the proxies have no limit of their own that a caller meets: size, headers, time, buffers."""

import asyncio
import hashlib
import http.client
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from sidecar.keys.key_files import generate, write_pair
from sidecar.tokens.jwt.compact import decode_segment
from tests.interop.test_proxies import GATEWAYS, PROXIES, received
from tests.support.echo_upstream import echo_upstream
from tests.support.http_client import request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.loopback_server import LoopbackServer
from tests.support.proxies import Addresses, Start
from tests.support.sidecar_process import Sidecar, running_sidecar

# With the lines that a file keeps for a minted credential, where it keeps some.
ALL: dict[str, tuple[str, Start]] = {
    **{name: (tool, partial(start, mints=True)) for name, (tool, start) in PROXIES.items()},
    **GATEWAYS,
}
MEBIBYTE = 2**20
GIBIBYTE = 2**30
PATIENCE = 300.0


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def asked(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that says as much as it can: groups, an assertion, and what to present to the service."""
    folder = tmp_path_factory.mktemp("sidecar")
    write_pair(folder / "keys", generate("RS256"))
    configuration = {
        "authenticationConfiguration": {
            "providers": [{"name": "corp", "issuer": provider.issuer, "audiences": [AUDIENCE], "groupsClaim": "groups"}]
        },
        "upstream": {"credentials": "openmetadata"},
        "identityHeaders": {"assertion": True, "maxTotalBytes": "8KiB"},
        "jwtTokenConfiguration": {
            "rsapublicKeyFilePath": str(folder / "keys" / "public_key.der"),
            "rsaprivateKeyFilePath": str(folder / "keys" / "private_key.der"),
            "jwtissuer": "meta.example.com",
            "keyId": "own1",
        },
    }
    with running_sidecar(folder, configuration) as sidecar:
        yield sidecar


@pytest.fixture(scope="module", params=ALL)
def url(
    request: pytest.FixtureRequest,
    asked: Sidecar,
    require_tool: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Each proxy in turn, before a service that echoes."""
    tool, start = ALL[request.param]
    with echo_upstream() as upstream:
        addresses = Addresses(asked.address, upstream.url.removeprefix("http://"))
        with start(require_tool(tool), tmp_path_factory.mktemp(tool), addresses) as address:
            yield address


@pytest.mark.parametrize("size", [MEBIBYTE, MEBIBYTE + 1, 5 * MEBIBYTE])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_of_any_size_arrives(url: str, provider: IdentityProvider, size: int, framing: str) -> None:
    """nginx compares its limit in the location of the check as well, and answers 500 there."""
    body = os.urandom(size)
    host = url.removeprefix("http://")
    headers = {"Authorization": f"Bearer {provider.mint()}"}
    with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        chunked = framing == "chunked"
        connection.request("PUT", "/x", body=iter([body]) if chunked else body, headers=headers, encode_chunked=chunked)
        answer = connection.getresponse()
        document = json.load(answer)
    assert (answer.status, document["bodySha256"]) == (200, hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize("padding", [0, 8_000])
def test_many_groups_with_an_assertion_pass(url: str, provider: IdentityProvider, padding: int) -> None:
    """Under a long token, too, of which a proxy that remembers answers has a copy in the same buffer."""
    groups = [f"department-{number:02d}-{'g' * 20}" for number in range(60)]
    token = provider.mint(groups=groups, padding="p" * padding)
    for _ in range(3):  # of a proxy that remembers, the later ones come from its memory
        seen = received(request(url, target="/x", headers=[("Authorization", f"Bearer {token}")]))
        (assertion,) = seen.all("X-Auth-Assertion")
        assert json.loads(decode_segment(assertion.split(".")[1]))["actor"]["groups"] == groups
        assert seen.all("X-Auth-Request-Groups") == [",".join(groups)]


PIECE = bytes(range(256)) * 4096


async def _bulk(request: web.BaseRequest) -> web.StreamResponse:
    """A service that sends a gigabyte, and digests what it is sent."""
    digest, size = hashlib.sha256(), 0
    if request.path == "/download":
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(GIBIBYTE // len(PIECE)):
            await response.write(PIECE)
        return response
    while piece := await request.content.readany():
        digest.update(piece)
        size += len(piece)
    return web.json_response({"size": size, "sha256": digest.hexdigest()})


@pytest.mark.heavy
@pytest.mark.parametrize("name", ALL)
def test_a_gigabyte_passes_either_way(
    name: str, asked: Sidecar, provider: IdentityProvider, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """Nothing is kept on the way: the proxy's folder does not grow with what passes."""
    tool, start = ALL[name]
    expected = hashlib.sha256()
    for _ in range(GIBIBYTE // len(PIECE)):
        expected.update(PIECE)
    headers = {"Authorization": f"Bearer {provider.mint()}"}
    with LoopbackServer(_bulk) as upstream:
        addresses = Addresses(asked.address, upstream.url.removeprefix("http://"))
        with (
            start(require_tool(tool), tmp_path, addresses) as url,
            closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)) as connection,
        ):
            body = (PIECE for _ in range(GIBIBYTE // len(PIECE)))
            connection.request("PUT", "/upload", body=body, headers={**headers, "Content-Length": str(GIBIBYTE)})
            document = json.load(connection.getresponse())
            assert (document["size"], document["sha256"]) == (GIBIBYTE, expected.hexdigest())
            assert _folder_size(tmp_path) < 16 * MEBIBYTE
            connection.request("GET", "/download", headers=headers)
            got = hashlib.sha256()
            answer = connection.getresponse()
            while some := answer.read(MEBIBYTE):
                got.update(some)
            assert (answer.status, got.hexdigest()) == (200, expected.hexdigest())
            assert _folder_size(tmp_path) < 16 * MEBIBYTE


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Silent:
    """An upstream with a stream that sends one part, and the rest when the test releases it."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/go-on":
            self.go_on.set()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await self.go_on.wait()
        await response.write(b"data: 2\n\n")
        return response


@pytest.mark.parametrize("name", ALL)
def test_an_event_stream_arrives_as_it_is_said(
    name: str, asked: Sidecar, provider: IdentityProvider, require_tool: Callable[[str], Path], tmp_path: Path
) -> None:
    """The first event is read before the second is written: no proxy waits for more."""
    tool, start = ALL[name]
    headers = {"Authorization": f"Bearer {provider.mint()}"}
    with LoopbackServer(Silent().answer) as upstream:
        addresses = Addresses(asked.address, upstream.url.removeprefix("http://"))
        with (
            start(require_tool(tool), tmp_path, addresses) as url,
            closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)) as connection,
        ):
            connection.request("GET", "/events", headers=headers)
            answer = connection.getresponse()
            assert (answer.status, answer.readline(), answer.readline()) == (200, b"data: 1\n", b"\n")
            assert request(f"{upstream.url}/go-on").status == 200
            assert answer.read() == b"data: 2\n\n"
