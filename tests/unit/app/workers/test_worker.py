"""What a worker does when it is asked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml

from sidecar.app.workers.worker import Worker
from sidecar.config.load import Loaded, load
from sidecar.tokens.upstream.assertion import new_assertion_key


def configuration(folder: Path, realm: str) -> Loaded:
    path = folder / f"{realm}.yaml"
    document = {"server": {"realm": realm}, "store": {"url": f"sqlite:///{folder}/s.db"}}
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return load([str(path)], {})


@pytest.fixture
async def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    monkeypatch.setattr("sidecar.logs.configure", lambda *_, **__: None)
    worker = Worker(0, [])
    await worker.start(configuration(tmp_path, "first"), new_assertion_key(), False)
    yield worker
    await worker.aclose()


def realm(worker: Worker) -> str:
    return worker._running.loaded.settings.server.realm


async def test_what_was_prepared_last_is_taken_up(worker: Worker, tmp_path: Path) -> None:
    await worker.prepare(configuration(tmp_path, "second"))
    assert realm(worker) == "first"
    await worker.prepare(configuration(tmp_path, "third"))
    await worker.activate()
    assert realm(worker) == "third"


async def test_what_was_discarded_while_it_was_prepared_never_counts(worker: Worker, tmp_path: Path) -> None:
    """Its supervisor has given up on it; what it finds prepared later must be what it asks for then."""
    late = asyncio.create_task(worker.prepare(configuration(tmp_path, "second")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await worker.discard()
    await asyncio.gather(late, return_exceptions=True)
    await worker.prepare(configuration(tmp_path, "third"))
    await worker.activate()
    assert realm(worker) == "third"
    await worker.discard()
