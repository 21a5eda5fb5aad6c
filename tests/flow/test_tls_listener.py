"""TLS on the public listener: its files are watched, and a client's certificate counts as its handshake proved it."""

import asyncio
import base64
import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from sidecar.config.settings import ServerTls
from sidecar.errors import Misconfigured
from sidecar.web.server_tls import CertificateFiles
from tests.flow.conftest import LOOPBACK, Scene, Start, bearer
from tests.support.certificates import certificate
from tests.support.scripted_upstream import OK, ScriptedUpstream, answering
from tests.support.wire import Answer, Lines, Wire


def files(folder: Path, name: str, pair: tuple[bytes, bytes]) -> tuple[str, str]:
    for kind, content in zip(("pem", "key"), pair, strict=True):
        (folder / f"{name}.{kind}").write_bytes(content)
    return str(folder / f"{name}.pem"), str(folder / f"{name}.key")


def client_context(ca: str, own: tuple[str, str] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if own is not None:
        context.load_cert_chain(*own)
    return context


async def ask(scene: Scene, context: ssl.SSLContext, headers: Lines) -> Answer:
    host, _, port = scene.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="127.0.0.1")
    async with Wire(reader, writer) as wire:
        return await wire.ask("/x", headers)


def bound_to(pem: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).digest()
    return {"cnf": {"x5t#S256": base64.urlsafe_b64encode(digest).decode().rstrip("=")}}


async def test_tls_callers_are_https_for_the_upstream(start: Start, tmp_path: Path) -> None:
    """The operations listener stays plain: the tests' own readiness probe asks it."""
    cert, key = files(tmp_path, "server", certificate())
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, server={"tls": {"certFile": cert, "keyFile": key}})
        for _ in range(2):
            assert (await ask(scene, client_context(cert), [bearer()])).status == 200
        assert upstream.requests[-1].head.all("X-Forwarded-Proto") == ["https"]
        assert (await scene.operations("/readyz")).status == 200
        async with await scene.connect() as wire:
            await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert not (await wire.ended()).startswith(b"HTTP/1.1 2")


async def test_certificate_of_the_handshake_is_the_callers(start: Start, tmp_path: Path) -> None:
    """A token that is bound to it is good on that connection alone; a header of an untrusted peer proves nothing."""
    cert, key = files(tmp_path, "server", certificate())
    authority = certificate("authority")
    ca, _ = files(tmp_path, "ca", authority)
    pair = certificate("client", authority)
    own, other = files(tmp_path, "client", pair), files(tmp_path, "other", certificate("other", authority))
    tls = {"certFile": cert, "keyFile": key, "clientCaFile": ca}
    token = bearer(**bound_to(pair[0]))
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pair[0].decode())).hexdigest()
    header = ("X-Forwarded-Client-Cert", f"Hash={digest}")
    async with ScriptedUpstream(answering(OK)) as upstream:
        for dialect in ("tls", "envoy"):
            scene = await start(upstream.url, server={"tls": tls, "clientCertificates": dialect})
            for _ in range(2):  # new, then known
                assert (await ask(scene, client_context(cert, own), [token])).status == 200
            for context in (client_context(cert, other), client_context(cert)):
                assert (await ask(scene, context, [token, header])).json()["reason"] == "token_invalid"
            assert (await ask(scene, client_context(cert), [bearer()])).status == 200
        # a proxy's own certificate says nothing of its callers
        trusting = {"tls": tls, "clientCertificates": "envoy", "trustedProxies": [LOOPBACK]}
        scene = await start(upstream.url, server=trusting)
        assert (await ask(scene, client_context(cert, own), [token])).json()["reason"] == "token_invalid"
        assert (await ask(scene, client_context(cert, other), [token, header])).status == 200


async def test_changed_files_are_taken_up_and_half_a_pair_is_not(start: Start, tmp_path: Path) -> None:
    """Connections keep working while a certificate is renewed in two steps."""
    cert, key = files(tmp_path, "server", certificate("first"))
    (tmp_path / "trust.pem").write_bytes((tmp_path / "server.pem").read_bytes())
    async with ScriptedUpstream(answering(OK)) as upstream:
        scene = await start(upstream.url, server={"tls": {"certFile": cert, "keyFile": key}})
        held = scene.sidecar._certificates
        assert held is not None
        assert not held.refresh()
        public, private = certificate("second")
        Path(cert).write_bytes(public)
        assert not held.refresh()
        assert (await ask(scene, client_context(str(tmp_path / "trust.pem")), [bearer()])).status == 200
        Path(key).write_bytes(private)
        assert held.refresh()
        assert (await ask(scene, client_context(cert), [bearer()])).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            await ask(scene, client_context(str(tmp_path / "trust.pem")), [bearer()])


@pytest.mark.parametrize("broken", ["missing", "other key", "no PEM", "client CA"])
def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, broken: str) -> None:
    cert, key = files(tmp_path, "server", certificate())
    _, other = files(tmp_path, "other", certificate())
    settings = {
        "missing": {"certFile": cert, "keyFile": f"{key}x"},
        "other key": {"certFile": cert, "keyFile": other},
        "no PEM": {"certFile": key, "keyFile": key},
        "client CA": {"certFile": cert, "keyFile": key, "clientCaFile": key},
    }[broken]
    with pytest.raises(Misconfigured, match=r"server\.tls\.(certFile|clientCaFile): .* cannot be used") as caught:
        CertificateFiles(ServerTls.model_validate(settings))
    if broken == "other key":
        assert "belongs to another certificate" in str(caught.value)
