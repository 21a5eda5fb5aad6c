"""Security events that a provider pushes: what they end, what they must not end, and what is not accepted."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import Scene, Start, bearer, own_keys
from tests.support import forge
from tests.support.wire import Answer

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
SSF = "https://schemas.openid.net/secevent/ssf/event-type/"
SECRET = "Bearer " + "s" * 32
AUDIENCE = "https://metadata.example.com/oauth2"
SAM = {"format": "iss_sub", "iss": forge.ISSUER, "sub": "sam"}
NOW = int(forge.NOW)
TRANSMITTER = {"provider": "corp", "authorization": SECRET}
SIGNALS: dict[str, Any] = {
    "server": {"publicUrl": "https://metadata.example.com"},
    "signals": {"transmitters": [TRANSMITTER]},
}


def event(kind: str, /, header: dict[str, Any] | None = None, key: Any = forge.RSA, **changes: Any) -> str:
    """A security event token; ``changes`` replace claims, and ``...`` drops one. ``content`` is that of the event."""
    content = changes.pop("content", {})
    claims = {
        "iss": forge.ISSUER, "aud": AUDIENCE, "jti": "e1", "iat": NOW, "sub_id": SAM, "events": {kind: content},
        **changes,
    }  # fmt: skip
    good = {name: value for name, value in claims.items() if value is not ...}
    return forge.token(good, forge.header(typ="secevent+jwt", **(header or {})), key=key)


async def push(
    scene: Scene, text: str, *, provider: str = "corp", authorizations: tuple[str, ...] = (SECRET,)
) -> Answer:
    headers = [("Content-Type", "application/secevent+jwt"), *(("Authorization", one) for one in authorizations)]
    async with await scene.connect() as wire:
        return await wire.ask(f"/oauth2/events/{provider}", headers, method="POST", body=text.encode())


async def status(scene: Scene, *headers: tuple[str, str]) -> int:
    async with await scene.connect() as wire:
        return (await wire.ask("/oauth2/auth", list(headers))).status


async def minted(scene: Scene) -> tuple[str, str]:
    """The header with a personal token of sam."""
    body = b'{"name": "x", "kind": "personal", "expiry": "OneHour"}'
    async with await scene.connect() as wire:
        headers = [bearer(), ("Content-Type", "application/json")]
        answer = await wire.ask("/oauth2/tokens", headers, method="POST", body=body)
    return "Authorization", f"Bearer {answer.json()['token']}"


@pytest.mark.parametrize(
    ("kind", "content", "old", "new", "personal"),
    [
        (f"{CAEP}session-revoked", {}, 401, 200, 200),
        (f"{RISC}sessions-revoked", {}, 401, 200, 200),
        (f"{CAEP}credential-change", {"credential_type": "password", "change_type": "update"}, 401, 200, 200),
        (f"{CAEP}credential-change", {"credential_type": "fido2-roaming", "change_type": "delete"}, 401, 200, 200),
        (f"{CAEP}credential-change", {"credential_type": "fido2-roaming", "change_type": "create"}, 200, 200, 200),
        (f"{CAEP}credential-change", {"credential_type": "fido2-roaming", "change_type": "update"}, 200, 200, 200),
        (f"{RISC}credential-compromise", {"credential_type": "password"}, 401, 200, 401),
        (f"{RISC}account-disabled", {"reason": "hijacking"}, 401, 401, 401),
        (f"{RISC}account-purged", {}, 401, 401, 401),
        (f"{RISC}account-enabled", {}, 200, 200, 200),
        (f"{CAEP}token-claims-change", {"claims": {}}, 200, 200, 200),
        (f"{CAEP}risk-level-change", {"current_level": "HIGH"}, 200, 200, 200),
        ("https://example.com/other", {}, 200, 200, 200),
    ],
)
async def test_an_event_ends_what_it_is_about(
    start: Start, tmp_path: Path, kind: str, content: dict[str, Any], old: int, new: int, personal: int
) -> None:
    """A token from before, one from after, and a personal token; another person is not concerned."""
    scene = await start(**SIGNALS, jwtTokenConfiguration=own_keys(tmp_path))
    own = await minted(scene)
    scene.clock.advance(5)
    token = event(kind, content={**content, "event_timestamp": NOW + 4}, iat=NOW + 5)
    assert (await push(scene, token)).status == 202
    assert await status(scene, bearer()) == old
    scene.clock.advance(5)
    assert await status(scene, bearer(iat=NOW + 9)) == new
    assert await status(scene, own) == personal
    assert await status(scene, bearer(sub="ann")) == 200


async def test_a_replay_does_not_end_what_came_after(start: Start) -> None:
    """The cut-off is the time of the event, not of its arrival."""
    scene = await start(**SIGNALS)
    text = event(f"{CAEP}session-revoked")
    assert (await push(scene, text)).status == 202
    scene.clock.advance(300)
    assert (await push(scene, text)).status == 202
    assert await status(scene, bearer(iat=NOW + 60)) == 200
    assert await status(scene, bearer()) == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"sub_id": {"format": "iss_sub", "iss": "https://other.example", "sub": "sam"}},
        {"sub_id": {"format": "email", "email": "sam@example.com"}},
        {"sub_id": {"format": "opaque", "id": "sam"}},
        {"sub_id": {"format": "complex", "user": SAM, "device": {"format": "opaque", "id": "x"}}},
        {"sub_id": {"format": "iss_sub", "iss": forge.ISSUER}},
        {"sub_id": {"format": "iss_sub", "iss": forge.ISSUER, "sub": ["sam"]}},
        {"sub_id": {"format": "iss_sub", "iss": forge.ISSUER, "sub": "x" * 4096}},
    ],
)
async def test_a_subject_that_is_not_surely_the_providers_is_not_ended(start: Start, changes: dict[str, Any]) -> None:
    """An address or a subject of another issuer may be another person. It is acknowledged: repeating it is useless."""
    scene = await start(**SIGNALS)
    assert (await push(scene, event(f"{RISC}account-disabled", **changes))).status == 202
    assert await status(scene, bearer()) == 200
    sample = 'sidecar_signals_total{event="account-disabled",outcome="unknown_subject",provider="corp"}'
    assert await scene.metric(sample) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"iss": "https://other.example"}, "invalid_issuer"),
        ({"iss": f"{forge.ISSUER}/"}, "invalid_issuer"),
        ({"aud": "https://other.example/oauth2"}, "invalid_audience"),
        ({"aud": ...}, "invalid_audience"),
        ({"aud": [f"{AUDIENCE}/"]}, "invalid_audience"),
        ({"key": forge.OTHER_RSA}, "invalid_key"),
        ({"header": {"alg": "none"}}, "invalid_key"),
        ({"header": {"alg": "ES256"}}, "invalid_key"),
        ({"header": {"typ": "JWT"}}, "invalid_request"),
        ({"header": {"typ": "at+jwt"}}, "invalid_request"),
        ({"header": {"typ": "logout+jwt"}}, "invalid_request"),
        ({"header": {"typ": ...}}, "invalid_request"),
        ({"exp": NOW + 600}, "invalid_request"),
        ({"sub": "sam"}, "invalid_request"),
        ({"nonce": "x"}, "invalid_request"),
        ({"jti": ...}, "invalid_request"),
        ({"iat": ...}, "invalid_request"),
        ({"iat": 0}, "invalid_request"),
        ({"iat": NOW - 8 * 86400}, "invalid_request"),
        ({"iat": NOW + 600}, "invalid_request"),
        ({"content": {"event_timestamp": NOW * 1000}}, "invalid_request"),
        ({"content": {"event_timestamp": "now"}}, "invalid_request"),
        ({"content": {"event_timestamp": True}}, "invalid_request"),
        ({"content": {"event_timestamp": 0}}, "invalid_request"),
        ({"content": "x"}, "invalid_request"),
        ({"events": {}}, "invalid_request"),
        ({"events": ...}, "invalid_request"),
        ({"events": {f"{RISC}account-disabled": {}, f"{RISC}account-purged": {}}}, "invalid_request"),
        ({"sub_id": ...}, "invalid_request"),
        ({"sub_id": "sam"}, "invalid_request"),
    ],
)
async def test_what_is_no_event_of_the_transmitter_ends_nothing(
    start: Start, changes: dict[str, Any], error: str
) -> None:
    scene = await start(**SIGNALS)
    header = forge.header(**{"typ": "secevent+jwt", **changes.pop("header", {})})
    content, key = changes.pop("content", {}), changes.pop("key", forge.RSA)
    claims = {
        "iss": forge.ISSUER, "aud": AUDIENCE, "jti": "e1", "iat": NOW, "sub_id": SAM,
        "events": {f"{RISC}account-disabled": content}, **changes,
    }  # fmt: skip
    text = forge.token({name: value for name, value in claims.items() if value is not ...}, header, key=key)
    answer = await push(scene, text)
    assert (answer.status, answer.json()["err"]) == (400, error)
    assert answer.json()["description"]
    assert await status(scene, bearer()) == 200


@pytest.mark.parametrize(
    "authorizations", [(), ("Bearer wrong",), (SECRET, SECRET), (f"{SECRET}x",), (SECRET.lower(),)]
)
async def test_a_push_needs_the_agreed_authorization(start: Start, authorizations: tuple[str, ...]) -> None:
    scene = await start(**SIGNALS)
    answer = await push(scene, event(f"{RISC}account-disabled"), authorizations=authorizations)
    assert (answer.status, answer.json()["err"]) == (400, "authentication_failed")
    assert await status(scene, bearer()) == 200


@pytest.mark.parametrize("value", [b"\xff", SECRET.encode() + b"\x80"])
async def test_bytes_of_no_encoding_are_a_wrong_authorization(start: Start, value: bytes) -> None:
    """Not an error of the sidecar, which every caller could fill the log with."""
    scene = await start(**SIGNALS)
    async with await scene.connect() as wire:
        head = b"POST /oauth2/events/corp HTTP/1.1\r\nHost: x\r\nAuthorization: " + value
        await wire.send(head + b"\r\nContent-Type: application/secevent+jwt\r\nContent-Length: 1\r\n\r\nx")
        answer = await wire.answer()
    assert (answer.status, answer.json()["err"]) == (400, "authentication_failed")


@pytest.mark.parametrize("value", [{}, [], ["password"], 1, None])
async def test_a_change_of_no_known_form_ends_nothing(start: Start, value: object) -> None:
    """It is acknowledged: a transmitter repeats what gets 503, and later events wait behind it."""
    scene = await start(**SIGNALS)
    for content in (
        {"credential_type": value, "change_type": "update"},
        {"credential_type": "password", "change_type": value},
    ):
        assert (await push(scene, event(f"{CAEP}credential-change", content=content))).status == 202
    assert await status(scene, bearer()) == 200


async def test_a_security_event_token_is_no_credential(start: Start) -> None:
    """Nor is an access token an event."""
    scene = await start(**SIGNALS)
    text = event(f"{RISC}account-disabled", aud="meta", sub="sam")
    assert await status(scene, ("Authorization", f"Bearer {text}")) == 401
    answer = await push(scene, bearer()[1].removeprefix("Bearer "))
    assert (answer.status, answer.json()["err"]) == (400, "invalid_request")


async def test_an_event_that_is_not_stored_is_not_acknowledged(start: Start, tmp_path: Path) -> None:
    """Another process holds the write lock of the database. The transmitter sends the event again."""
    scene = await start(**SIGNALS)
    text = event(f"{RISC}account-disabled")
    with closing(sqlite3.connect(tmp_path / "sidecar.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = await push(scene, text)
        assert (answer.status, answer.json()["reason"]) == (503, "unavailable")
        assert answer.all("Retry-After")
    assert (await push(scene, text)).status == 202
    assert await status(scene, bearer()) == 401


async def test_only_transmitters_have_an_endpoint(start: Start) -> None:
    scene = await start(**SIGNALS)
    for provider in ("other", "corp/x", "", "CORP"):
        assert (await push(scene, event(f"{RISC}account-disabled"), provider=provider)).status == 404
    async with await scene.connect() as wire:
        answer = await wire.ask("/oauth2/events/corp")
        assert (answer.status, answer.all("Allow")) == (405, ["POST"])
    scene = await start()
    assert (await push(scene, event(f"{RISC}account-disabled"))).status == 404


async def test_bodies_are_of_the_right_type_and_size(start: Start) -> None:
    scene = await start(**SIGNALS)
    async with await scene.connect() as wire:
        lines = [("Authorization", SECRET), ("Content-Type", "application/json")]
        assert (await wire.ask("/oauth2/events/corp", lines, method="POST", body=b"{}")).status == 400
    assert (await push(scene, "x" * 65 * 1024)).status == 413


async def test_the_transmitter_says_that_it_has_stopped(start: Start) -> None:
    scene = await start(**SIGNALS)
    sample = 'sidecar_stream_enabled{provider="corp"}'
    assert await scene.metric(sample) == 1
    stopped = event(f"{SSF}stream-updated", content={"status": "disabled"}, sub_id={"format": "opaque", "id": "s"})
    assert (await push(scene, stopped)).status == 202
    assert await scene.metric(sample) == 0
    again = event(f"{SSF}verification", content={"state": "x"}, sub_id={"format": "opaque", "id": "s"})
    assert (await push(scene, again)).status == 202
    assert await scene.metric(sample) == 1
    assert await scene.metric('sidecar_signal_last_timestamp_seconds{provider="corp"}') == NOW


async def test_only_configured_events_have_an_effect(start: Start) -> None:
    transmitter = {**TRANSMITTER, "events": ["token-claims-change"], "audience": "receiver"}
    scene = await start(signals={"transmitters": [transmitter]})
    assert (await push(scene, event(f"{RISC}account-disabled", aud=["x", "receiver"]))).status == 202
    assert await status(scene, bearer()) == 200
    assert (await push(scene, event(f"{CAEP}token-claims-change", aud="receiver"))).status == 202
    assert await status(scene, bearer()) == 401
