"""Settings of security events."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.load import load
from sidecar.errors import Misconfigured

GOOD = {"provider": "corp", "authorization": "s" * 32}


def problems(folder: Path, *transmitters: dict[str, Any], url: str = "https://metadata.example.com") -> str:
    """All messages about a configuration with these transmitters."""
    provider = {"name": "corp", "issuer": "https://idp.example.com", "audiences": ["meta"]}
    document = {
        "server": {"publicUrl": url},
        "store": {"url": f"sqlite:///{folder}/s.db"},
        "authenticationConfiguration": {"providers": [provider]},
        "signals": {"transmitters": list(transmitters)},
    }
    file = folder / "sidecar.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        load([str(file)], {})
    except Misconfigured as error:
        return "\n".join(map(str, error.problems))
    return ""


def test_a_transmitter_needs_a_provider_and_a_secret(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD) == ""
    assert problems(tmp_path, {**GOOD, "audience": "receiver"}, url="") == ""


@pytest.mark.parametrize(
    ("transmitters", "expected"),
    [
        (({**GOOD, "provider": "other"},), "is other, which is no entry of providers; configured: corp"),
        ((GOOD, GOOD), "is corp, as that of another entry"),
        (({**GOOD, "authorization": "short"},), "must be at least 32 printable ASCII characters"),
        (({**GOOD, "authorization": "ü" * 32},), "must be at least 32 printable ASCII characters"),
        (({**GOOD, "authorization": f"{'s' * 32}\n"},), "must be at least 32 printable ASCII characters"),
        (({"provider": "corp"},), "authorization"),
        (({**GOOD, "events": ["account-enabled"]},), "events"),
        (({**GOOD, "delivery": "poll"},), "delivery"),
    ],
)
def test_what_could_not_work_is_an_error(
    tmp_path: Path, transmitters: tuple[dict[str, Any], ...], expected: str
) -> None:
    text = problems(tmp_path, *transmitters)
    assert expected in text
    assert "s" * 32 not in text


def test_an_audience_is_needed(tmp_path: Path) -> None:
    assert "signals.transmitters[0].audience" in problems(tmp_path, GOOD, url="")
