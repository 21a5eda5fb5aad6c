"""Misspelled commands, actions, values and options: exit code 2, and the nearest known word."""

import pytest

from sidecar.cli.main import main


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("chek", "did you mean check?"),
        ("revocation list", "did you mean revocations?"),
        ("token lst", "did you mean list?"),
        ("keys genrate", "did you mean generate?"),
        ("check --confg x", "did you mean --config?"),
        ("check --ofline", "did you mean --offline?"),
        ("token create --name x --kind bott", "did you mean bot?"),
        ("revocations add --isuer=x", "did you mean --issuer?"),
    ],
)
def test_nearest_word_is_named(capsys: pytest.CaptureFixture[str], words: str, hint: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: sidecar")
    assert said.rstrip().endswith(hint)


def test_nothing_is_suggested_for_what_is_like_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["xyzzy"])
    assert "did you mean" not in capsys.readouterr().err
