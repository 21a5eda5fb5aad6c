"""A reload that reads for ever is given up, and hinders none that comes after it."""

import asyncio
import logging
import threading
from pathlib import Path

import pytest
import yaml

from sidecar.app.reload import Reload
from sidecar.config.load import Loaded, load
from sidecar.metrics import Metrics


async def test_reading_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sidecar.app.reload._READ_SECONDS", 0.05)
    path = tmp_path / "sidecar.yaml"
    path.write_text(yaml.safe_dump({"store": {"url": f"sqlite:///{tmp_path}/s.db"}}), encoding="utf-8")
    loaded, go, applied = load([str(path)], {}), threading.Event(), list[Loaded]()

    def reread() -> Loaded:
        go.wait(10)
        return loaded

    async def apply(wanted: Loaded) -> None:
        applied.append(wanted)

    reload = Reload(loaded, reread, apply, Metrics())
    with caplog.at_level(logging.INFO):
        await reload()
        assert caplog.records[-1].__dict__["problems"] == ["could not be read within 0.05 seconds"]
        assert applied == []
        go.set()
        monkeypatch.setattr("sidecar.app.reload._READ_SECONDS", 10)
        await reload()
        assert caplog.records[-1].__dict__["outcome"] == "applied"
    assert applied == [loaded]
    await asyncio.sleep(0)
