"""The page of causes: complete, and each with something to do."""

import re
from pathlib import Path

from sidecar.config.output.causes import CAUSES
from sidecar.errors import Cause

ROOT = Path(__file__).parents[4]


def test_every_cause_says_what_happened_and_what_to_do() -> None:
    assert list(CAUSES) == [cause for cause in Cause if cause is not Cause.NONE], "in the order of the enumeration"
    for what, todo in CAUSES.values():
        assert what
        assert todo
        assert "|" not in what + todo


def test_settings_that_are_named_exist() -> None:
    known = "".join(
        (ROOT / "docs" / page).read_text(encoding="utf-8")
        for page in ("reference/configuration.md", "guides/authenticators.md", "operations.md")
    )
    for cause, (what, todo) in CAUSES.items():
        for name in re.findall(
            r"`(?:server\.|upstream\.|identityHeaders\.|revocation\.|limits\.)*([a-z]+[A-Z]\w+)", what + todo
        ):
            assert name in known, (cause, name)
