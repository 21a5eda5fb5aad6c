"""Two real sidecars on one store: what is revoked at one is refused by the other, and by both after a kill."""

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sidecar.keys.key_files import generate, write_pair
from tests.support.http_client import Reply, request
from tests.support.identity_provider import AUDIENCE, IdentityProvider
from tests.support.sidecar_process import Sidecar, running_sidecar


def _configuration(folder: Path, idp: IdentityProvider) -> dict[str, Any]:
    write_pair(folder / "keys", generate("ES256"))
    return {
        "store": {"url": f"sqlite:///{folder}/shared.db"},
        "jwtTokenConfiguration": {
            "rsaprivateKeyFilePath": str(folder / "keys" / "private_key.der"),
            "rsapublicKeyFilePath": str(folder / "keys" / "public_key.der"),
            "jwtissuer": "meta.example.com",
        },
        "authorizerConfiguration": {"adminPrincipals": ["corp/root"]},
        "authenticationConfiguration": {"providers": [{"name": "corp", "issuer": idp.issuer, "audiences": [AUDIENCE]}]},
    }


def _call(
    sidecar: Sidecar,
    method: str,
    path: str,
    token: str = "",
    *,
    body: object = None,
    form: dict[str, str] | None = None,
) -> Reply:
    headers = [("Authorization", f"Bearer {token}")] if token else []
    raw = None
    if body is not None:
        raw = json.dumps(body).encode()
        headers.append(("Content-Type", "application/json"))
    if form is not None:
        raw = urlencode(form).encode()
        headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    return request(f"{sidecar.url}/oauth2{path}", method, headers=headers, body=raw)


def _status(sidecar: Sidecar, token: str) -> int:
    return _call(sidecar, "GET", "/auth", token).status


def _accepts(sidecar: Sidecar, token: str) -> bool:
    return _status(sidecar, token) == 200


def _within(seconds: float, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


def test_revocation_reaches_the_other_sidecar_within_a_second(tmp_path: Path) -> None:
    with IdentityProvider() as idp, ExitStack() as stack:
        configuration = _configuration(tmp_path, idp)
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            folder.mkdir()
        one, two = (stack.enter_context(running_sidecar(folder, configuration)) for folder in folders)
        root = idp.mint(sub="s-0", preferred_username="root", email=None)
        sam, eve, max_ = (
            idp.mint(sub=f"s-{name}", preferred_username=name, email=f"{name}@x.com") for name in ("sam", "eve", "max")
        )
        for sidecar in (one, two):
            _within(10, partial(_accepts, sidecar, root))
        bot = _call(one, "POST", "/tokens", root, body={"name": "ingest", "kind": "bot"}).json()
        assert [_status(two, token) for token in (sam, eve, max_, bot["token"])] == [200] * 4

        assert _call(one, "POST", "/revocations", root, body={"token": sam}).status == 201
        assert _status(one, sam) == 401
        _within(1, lambda: _status(two, sam) == 401)
        assert _call(one, "POST", "/revoke", form={"token": eve}).status == 200
        _within(1, lambda: _status(two, eve) == 401)
        assert _call(one, "DELETE", f"/tokens/{bot['id']}", root).status == 204
        _within(1, lambda: _status(two, bot["token"]) == 401)

        # answered, then killed at once: it has happened all the same
        assert _call(two, "POST", "/revocations", root, body={"issuer": idp.issuer, "subject": "s-max"}).status == 201
        two.process.popen.send_signal(signal.SIGKILL)
        _within(1, lambda: _status(one, max_) == 401)
        again = stack.enter_context(running_sidecar(folders[1], configuration))
        _within(10, lambda: _status(again, root) == 200)
        assert [_status(again, token) for token in (sam, eve, max_, bot["token"])] == [401] * 4
        assert bot["token"] not in one.process.output
