"""Tokens of a real API server, and real OAuth clients, at the token endpoint."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import RSAKey

from sidecar.keys.key_files import generate, write_pair
from tests.interop.test_kubernetes import KEY, SIDECAR, allow_reviews, configuration, parts, populate, resigned
from tests.support.http_client import request
from tests.support.kubernetes import api_server, etcd
from tests.support.ports import free_port
from tests.support.sidecar_process import Sidecar, running_sidecar

CLIENT_KEY = RSAKey.generate_key(2048, auto_kid=True)
SECRET = "a+secret/with%characters&of=all: kinds-and-more"
GO_CLIENT = Path(__file__).parent / "clients" / "go_oauth2"
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def endpoint(address: str, **changes: Any) -> dict[str, Any]:
    """The blocks of a token endpoint whose public address is ``address``."""
    return {
        "server": {"listen": address, "publicUrl": f"http://{address}"},
        "tokenEndpoint": {"enabled": True, "audiences": ["metadata"], **changes},
    }


def with_keys(folder: Path, address: str) -> dict[str, Any]:
    write_pair(folder / "keys", generate("ES256"))
    return {
        "rsaprivateKeyFilePath": str(folder / "keys" / "private_key.der"),
        "rsapublicKeyFilePath": str(folder / "keys" / "public_key.der"),
        "jwtissuer": f"http://{address}/oauth2",
    }


def register_bot(sidecar: Sidecar, name: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "sidecar", "bots", "register", "--config", sidecar.config, name],
        check=True,
        capture_output=True,
        timeout=60,
    )


def ask(sidecar: Sidecar, **fields: str) -> tuple[int, Any]:
    body = urlencode(fields).encode()
    reply = request(f"{sidecar.url}/oauth2/token", "POST", headers=[FORM], body=body)
    return reply.status, reply.json()


@pytest.mark.heavy
def test_a_pod_gets_a_token_for_its_projected_one(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """Of its own audience, again and again; not of the audience of the API server, nor of another account."""
    program, address = require_tool("kube-apiserver"), f"127.0.0.1:{free_port()}"
    issuer = f"http://{address}/oauth2"
    with etcd(program.with_name("etcd"), tmp_path) as store, api_server(program, tmp_path, store, [KEY]) as server:
        populate(server)
        allow_reviews(server)
        server.create_account("data", "other")
        (tmp_path / "token").write_text(server.token(*SIDECAR), encoding="ascii")
        rule = {
            "name": "crawler",
            "provider": "kubernetes",
            "subject": "system:serviceaccount:data:crawler",
            "claims": {'"kubernetes.io".namespace': ["data"]},
            "as": {"bot": "ingestion"},
        }
        document = {
            **configuration(server, tmp_path, review=True),
            **endpoint(address, workloads=[rule]),
            "jwtTokenConfiguration": with_keys(tmp_path, address),
        }
        with running_sidecar(tmp_path, document) as started:
            sidecar = replace(started, address=address)
            register_bot(sidecar, "ingestion")
            grant = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer"}
            good = server.token("data", "crawler", issuer)
            assert parts(good)[1]["sub"] == "system:serviceaccount:data:crawler"
            for _ in range(2):
                status, answer = ask(sidecar, assertion=good, **grant)
                assert status == 200, answer
                token = answer["access_token"]
                assert parts(token)[1]["sub"] == "ingestion"
                accepted = request(f"{sidecar.url}/oauth2/auth", headers=[("Authorization", f"Bearer {token}")])
                assert accepted.status == 200
            refused = [
                server.token("data", "crawler"),
                server.token("data", "crawler", "metadata"),
                server.token("data", "other", issuer),
                resigned(good, RSAKey.generate_key(2048)),
                resigned(good, sub="system:serviceaccount:data:crawler", aud=[issuer, "metadata"]),
            ]
            for text in refused:
                assert ask(sidecar, assertion=text, **grant)[1]["error"] == "invalid_grant"
            # refused although it has not expired; the API server caches for some seconds
            server.delete("/api/v1/namespaces/data/serviceaccounts/crawler")
            deadline = time.monotonic() + 60
            while ask(sidecar, assertion=good, **grant)[0] == 200:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert ask(sidecar, assertion=good, **grant)[1]["error"] == "invalid_grant"
            explained = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "sidecar",
                    "token",
                    "explain",
                    "--workload",
                    "--config",
                    sidecar.config,
                    refused[2],
                ],
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert explained.returncode == 1
            assert "differs from" in explained.stdout, explained


@contextmanager
def served(folder: Path) -> Iterator[Sidecar]:
    """A sidecar with clients of both kinds."""
    address = f"127.0.0.1:{free_port()}"
    jwks = folder / "client.jwks"
    jwks.write_text(json.dumps({"keys": [CLIENT_KEY.as_dict(private=False)]}), encoding="utf-8")
    clients = [
        {"id": "etl", "secret": SECRET, "as": {"bot": "ingestion"}, "scopes": ["read", "write"]},
        {"id": "robot", "jwks": f"file:{jwks}", "as": {"bot": "ingestion"}, "scopes": ["read"]},
    ]
    document = {**endpoint(address, clients=clients), "jwtTokenConfiguration": with_keys(folder, address)}
    with running_sidecar(folder, document) as sidecar:
        register_bot(sidecar, "ingestion")
        yield replace(sidecar, address=address)


def test_clients_of_authlib(tmp_path: Path) -> None:
    """Basic, post and ``private_key_jwt`` as authlib sends them."""
    with served(tmp_path) as sidecar:
        url = f"{sidecar.url}/oauth2/token"
        for method in ("client_secret_basic", "client_secret_post"):
            session = OAuth2Session("etl", SECRET, scope="read", token_endpoint_auth_method=method)
            token = session.fetch_token(url, grant_type="client_credentials")
            assert token["scope"] == "read"
            assert session.get(f"{sidecar.url}/oauth2/userinfo").json()["actor"]["id"] == "ingestion"
        session = OAuth2Session("robot", CLIENT_KEY.as_pem(private=True), token_endpoint_auth_method=PrivateKeyJWT(url))
        assert session.fetch_token(url, grant_type="client_credentials")["scope"] == "read"


def test_client_of_go(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """``golang.org/x/oauth2/clientcredentials``, with both styles of authentication."""
    go = require_tool("go")
    with served(tmp_path) as sidecar:
        for style in ("header", "params"):
            done = subprocess.run(
                [go, "run", ".", f"{sidecar.url}/oauth2/token", "etl", SECRET, style],
                cwd=GO_CLIENT,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            answer = json.loads(done.stdout)
            assert (answer["type"], answer["scope"]) == ("Bearer", "read")
            header = ("Authorization", f"Bearer {answer['token']}")
            assert request(f"{sidecar.url}/oauth2/auth", headers=[header]).status == 200


def test_curl_as_the_guide_writes_it(require_tool: Callable[[str], Path], tmp_path: Path) -> None:
    """``--data-urlencode`` with the secret from a file."""
    curl = require_tool("curl")
    (tmp_path / "secret").write_text(SECRET, encoding="ascii")
    with served(tmp_path) as sidecar:
        done = subprocess.run(
            [
                *(curl, "-sf", f"{sidecar.url}/oauth2/token", "-d", "grant_type=client_credentials"),
                *("--data-urlencode", "client_id=etl"),
                *("--data-urlencode", f"client_secret@{tmp_path / 'secret'}"),
            ],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert json.loads(done.stdout)["scope"] == "read write"
