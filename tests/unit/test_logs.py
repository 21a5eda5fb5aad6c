"""Content of log lines for any input."""

import io
import json
import logging

import pytest

from sidecar import logs
from sidecar.logs import AUDIT, JsonFormatter, LineLimit, configure
from tests.support import forge
from tests.support.hand_clock import HandClock
from tests.support.jwks_server import eventually


def line(message: str, *arguments: object, **fields: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "sidecar.x", "levelno": 20, "levelname": "INFO", "msg": message, **fields})
    record.args = arguments
    text = JsonFormatter().format(record)
    assert "\n" not in text
    document = json.loads(text)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("spaces", ["", " ", "\n", "\t", "\r\n"])
def test_what_looks_like_a_token_is_blotted_out_wherever_it_stands(spaces: str) -> None:
    """In the message, in a field, inside a longer text, with and without a signature, an encrypted one too."""
    token = forge.token(header_=f'{{{spaces}"alg":"RS256"}}')
    unsigned = token.rpartition(".")[0]
    encrypted = f"{token}.{forge.b64(b'x' * 20)}.{forge.b64(b'y' * 16)}"
    for secret in (token, unsigned, encrypted):
        told = line("got %s there", secret, path=f"/x/{secret}/y", detail={"deep": [f"Bearer {secret}"]})
        assert (told["message"], told["path"]) == ("got [token] there", "/x/[token]/y")
        assert line("\n%s", secret)["message"] == "\n[token]"
        assert told["detail"] == {"deep": ["Bearer [token]"]}


def test_a_traceback_is_blotted_out_too() -> None:
    try:
        raise ValueError(forge.token())
    except ValueError as error:
        told = line("fault", exc_info=(type(error), error, error.__traceback__))
    assert str(told["exception"]).endswith("ValueError: [token]")


@pytest.mark.parametrize("text", ["evaluation.example.com", "keys.example.com", "newest_version.py:12", "1.2.3.4"])
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert line(text)["message"] == text


def test_no_value_can_break_a_line_or_the_formatter() -> None:
    told = line('a\n{"level":"forged"}', odd="\ud800", nul="\0", raw=b"x", number=2**70)
    assert told["level"] == "info"
    assert told["raw"] == "<bytes>"


def test_audit_lines_are_written_at_every_level() -> None:
    """Who wants less in the log does not give up who minted and revoked what."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure("error", stream)
        logging.getLogger(AUDIT).info("token minted")
        logging.getLogger("sidecar.x").warning("left out")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
    assert [json.loads(told)["message"] for told in stream.getvalue().splitlines()] == ["token minted"]


async def test_lines_above_the_limit_are_left_out_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many a second, as many in one burst; the number of the others is one line."""
    monkeypatch.setattr(logs, "_SUPPRESSED_REPORT_INTERVAL", 0.0)
    caplog.set_level(logging.INFO)
    clock, left_out = HandClock(), list[None]()
    limit = LineLimit(logging.getLogger("limited"), 10, lambda: left_out.append(None), now=clock.monotonic)
    assert [limit.allows() for _ in range(25)] == [True] * 10 + [False] * 15
    assert len(left_out) == 15
    await eventually(lambda: caplog.records)
    assert [(record.getMessage(), record.__dict__["lines"]) for record in caplog.records] == [
        ("log lines suppressed: limit per second exceeded", 15)
    ]
    clock.advance(0.5)
    assert [limit.allows() for _ in range(7)] == [True] * 5 + [False] * 2
    await eventually(lambda: len(caplog.records) == 2)
    assert caplog.records[1].__dict__["lines"] == 2


async def test_lines_that_the_level_leaves_out_are_not_counted() -> None:
    log = logging.getLogger("limited.quiet")
    log.setLevel(logging.WARNING)
    left_out = list[None]()
    limit = LineLimit(log, 1, lambda: left_out.append(None))
    assert not any(limit.allows() for _ in range(5))
    assert not left_out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of(form: str, stream: io.StringIO, message: str, **fields: object) -> list[str]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure("info", stream, form)
        logging.getLogger("sidecar.x").info(message, extra=fields)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("text", io.StringIO, False),
    ],
)
def test_lines_are_text_on_a_terminal(form: str, stream: type[io.StringIO], is_json: bool) -> None:
    (line,) = lines_of(form, stream(), "hello", event="greeted")
    assert line.startswith("{") is is_json
    assert ("event=greeted" in line) is not is_json


def test_text_has_time_level_message_and_fields_on_one_line() -> None:
    token = forge.token()
    found = lines_of(
        "text",
        io.StringIO(),
        "request rejected",
        event="request_rejected",
        status=401,
        detail='aud is "a"; \x1b[31m',
        path=f"/x/{token}",
        provider="",
        problems=["one", "two"],
    )
    (line,) = found
    assert line[2] == line[5] == ":"
    assert line[13:] == (
        "info    request rejected event=request_rejected status=401 "
        'detail="aud is \\"a\\"; \\u001b[31m" path=/x/[token] problems="[\\"one\\", \\"two\\"]"'
    )
    assert lines_of("text", io.StringIO(), "a\n\x1b[2Jb")[0][13:] == "info    a??[2Jb"
