"""Secrets come from where the setting says, verbatim, and print nowhere."""

import copy
import json
import pickle
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from sidecar.secrets.resolve import resolve
from sidecar.secrets.value import Secret

TEXT = "hunter2 "


def test_a_literal_is_itself() -> None:
    """Nothing is trimmed or looked up."""
    assert resolve(TEXT, {}) == TEXT


@pytest.mark.parametrize(
    ("held", "secret"),
    [(TEXT, TEXT), (TEXT + "\n", TEXT), (TEXT + "\r\n", TEXT), ("\n" + TEXT + "\n\n", "\n" + TEXT + "\n")],
)
def test_one_final_newline_is_dropped_and_nothing_else(held: str, secret: str, tmp_path: Path) -> None:
    """Files and variables are taken verbatim."""
    (tmp_path / "s").write_bytes(held.encode())
    assert resolve(f"file:{tmp_path}/s", {}) == secret
    assert resolve("env:NAME", {"NAME": held}) == secret


def test_nothing_there_is_an_error_that_names_the_place_only(tmp_path: Path) -> None:
    """Missing, empty, relative, binary, a folder, too large, and the secrets manager that is not there."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    (tmp_path / "large").write_bytes(b"hunter2" * 20_000)
    for reference in (
        "env:NONE", "env:EMPTY", "file:relative", f"file:{tmp_path}", f"file:{tmp_path}/none", f"file:{tmp_path}/empty",
        f"file:{tmp_path}/binary", f"file:{tmp_path}/large", "file:/a\0b", "secret:/openmetadata/bot",
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r".") as caught:
            resolve(reference, {"EMPTY": ""})
        assert "hunter2" not in str(caught.value)


class _Options(BaseModel):
    secret: Secret


def test_a_secret_prints_by_no_route() -> None:
    """Text, formatting, JSON, errors and pickling."""
    options = _Options(secret=Secret(TEXT))
    secret = options.secret
    shown = [
        str(secret),
        repr(secret),
        f"{secret:>20}",
        f"{options!r}",
        options.model_dump_json(),
        "".join(map(str, [secret])),
    ]
    shown.append(json.dumps(options.model_dump(), default=str))
    assert not any("hunter2" in text for text in shown)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(secret)
    assert "hunter2" not in str(caught.value)
    assert copy.deepcopy(secret).reveal() == TEXT


def test_a_reference_is_never_taken_for_the_secret() -> None:
    """A model without a resolver rejects it."""
    for text in ("env:NAME", "file:/x", "secret:x"):
        with pytest.raises(ValidationError):
            _Options.model_validate({"secret": text})


def test_comparing() -> None:
    """Equal text only, whatever is presented."""
    assert Secret("a").matches("a")
    assert not Secret("a").matches("b")
    assert not Secret("a").matches("\ud800")
    assert not Secret("\udcff").matches("a")
    assert Secret("a") == Secret("a")
    assert Secret("a") != "a"
