"""What the settings about listeners, tokens in other places and origins refuse, and say."""

from pathlib import Path

import pytest
import yaml

from sidecar.cli.network_lines import network_lines
from sidecar.config.load import Loaded, load
from sidecar.config.origins import cors_origins, websocket_origins
from sidecar.errors import Misconfigured


def loaded(folder: Path, **blocks: object) -> Loaded:
    config = folder / "c.yaml"
    config.write_text(yaml.safe_dump(blocks), encoding="utf-8")
    return load([str(config)], {})


def faults(folder: Path, **blocks: object) -> str:
    with pytest.raises(Misconfigured) as caught:
        loaded(folder, **blocks)
    return "\n".join(str(problem) for problem in caught.value.problems if problem.fatal)


def warnings(folder: Path, **blocks: object) -> str:
    return "\n".join(map(str, loaded(folder, **blocks).warnings))


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "cookie", "Host", "Connection", "Proxy-Authorization", "Transfer-Encoding",
        "X-Auth-Request-User", "X-Auth-Assertion", "X-Forwarded-For", "Content-Type",
        "Sec-WebSocket-Protocol", "Origin", "X_Token",
        "X Token", "X-Request-Id", "X-DataHub-Actor", "X-Forwarded-Client-Cert", "If-Match",
    ],
)  # fmt: skip
def test_header_with_another_meaning_cannot_hold_a_token(tmp_path: Path, name: str) -> None:
    text = faults(tmp_path, authentication={"tokenHeaders": [{"name": name}]})
    assert "authentication.tokenHeaders[0].name" in text


def test_token_headers_are_named_once_and_for_providers_that_there_are(tmp_path: Path) -> None:
    twice = [{"name": "X-Token"}, {"name": "x-token"}]
    assert "is the same header as in tokenHeaders[0]" in faults(tmp_path, authentication={"tokenHeaders": twice})
    unknown = [{"name": "X-Token", "providers": ["iap"]}]
    assert "no provider or authenticator is named iap" in faults(tmp_path, authentication={"tokenHeaders": unknown})
    forwarded = [{"name": "X-Forwarded-Access-Token", "forward": True}]
    assert "is always removed" in faults(tmp_path, authentication={"tokenHeaders": forwarded})


def test_star_with_credentials_is_an_error(tmp_path: Path) -> None:
    text = faults(tmp_path, cors={"origins": ["*"], "credentials": True})
    assert "cors.origins: holds * with credentials" in text
    for origin in ("null", "https://a.example/path", "*.example.com", "ftp://a"):
        assert "cors.origins" in faults(tmp_path, cors={"origins": [origin]})
    assert "preflight: public" in warnings(tmp_path, cors={"origins": ["https://a.example"]})


def test_one_list_of_origins_is_the_default_of_the_others(tmp_path: Path) -> None:
    """The public address's own origin is in every list; an explicit list replaces the default."""
    server = {"origins": ["https://a.example"], "publicUrl": "https://om.example:443/x"}
    both = loaded(tmp_path, server=server).settings
    assert websocket_origins(both) == cors_origins(both) == ("https://a.example", "https://om.example")
    own = loaded(tmp_path, server={**server, "websocketOrigins": []}, cors={"origins": ["*"]}).settings
    assert websocket_origins(own) == ("https://om.example",)
    assert cors_origins(own) == ("*", "https://om.example")
    none = loaded(tmp_path, server={"publicUrl": "https://om.example"}).settings
    assert (websocket_origins(none), cors_origins(none)) == (None, ())


@pytest.mark.parametrize("address", ["*:4180", "127.0.0.1:4180", "[::]:4180", "unix:/run/s.sock"])
def test_listen_takes_both_families(tmp_path: Path, address: str) -> None:
    assert loaded(tmp_path, server={"listen": address, "adminListen": "*:1"}).settings.server.listen == address


@pytest.mark.parametrize("address", ["**:1", "*.example.com:1", "*", "[*]:1", "unix:/run/s.sock,mode=0660"])
def test_listen_refuses_what_only_looks_like_an_address(tmp_path: Path, address: str) -> None:
    """A mode in the path would become a part of the file's name."""
    text = faults(tmp_path, server={"listen": address})
    assert "server.listen" in text
    assert ("socketMode" in text) is address.startswith("unix")


def test_wildcard_and_another_address_on_one_port_are_refused(tmp_path: Path) -> None:
    assert "same address" in faults(tmp_path, server={"listen": "*:4180", "adminListen": "127.0.0.1:4180"})


def test_socket_settings_say_where_they_have_no_effect_or_too_much(tmp_path: Path) -> None:
    assert "server.socketMode: must be a mode in octal" in faults(tmp_path, server={"socketMode": "0999"})
    assert "has no effect" in warnings(tmp_path, server={"socketMode": "0660"})
    open_to_all = {"listen": "unix:/run/s.sock", "socketMode": "0666", "trustedProxies": ["unix"]}
    assert "every local user can connect" in warnings(tmp_path, server=open_to_all)
    assert "every local user" not in warnings(tmp_path, server={**open_to_all, "socketMode": "0660"})


def test_client_certificates_of_the_handshake_need_their_authority(tmp_path: Path) -> None:
    assert "clientCaFile" in faults(tmp_path, server={"clientCertificates": "tls"})
    tls = {"certFile": "/c", "keyFile": "/k", "clientCaFile": "/ca"}
    assert "clientCertificates is none" in warnings(tmp_path, server={"tls": tls})
    assert "keyFile" in faults(tmp_path, server={"tls": {"certFile": "/c"}})


def test_check_says_what_is_on(tmp_path: Path) -> None:
    """Families, forwarded headers, places of tokens and origins, in words that name the setting to change."""

    def said(**blocks: object) -> str:
        return "\n".join(network_lines(loaded(tmp_path, **blocks).settings))

    upstream = {"url": "http://127.0.0.1:1"}
    assert "server.listen 0.0.0.0:1: IPv4 only; *:1 listens on IPv4 and IPv6." in said(server={"listen": "0.0.0.0:1"})
    assert "IPv6 only" in said(server={"listen": "[::]:1"})
    assert "only" not in said(server={"listen": "*:1"})
    alone = said(upstream=upstream)
    assert "server.trustedProxies is empty" in alone
    assert "server.publicUrl" in alone
    assert "from 10.0.0.0/8 unchanged" in said(upstream=upstream, server={"trustedProxies": ["10.0.0.0/8"]})
    tokens = {"tokenHeaders": [{"name": "X-Token", "ambient": True}], "websocketTokens": {"subprotocol": True}}
    text = said(authentication=tokens, server={"origins": ["https://a.example"], "trustedProxies": ["10.0.0.1"]})
    assert "Tokens in X-Token: tokens of every provider; ignored if there is Authorization; removed" in text
    assert "Sec-WebSocket-Protocol" in text
    assert "In check mode the proxy" in text
    assert "Pages that may read refusals (CORS): https://a.example." in text
    assert "are disabled" in said(authentication={**tokens, "enabled": False})
