"""A reload that reads for ever is given up, and one that reads names as before keeps since when."""

import asyncio
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sidecar.app.authentication import authenticator_context
from sidecar.app.reload import Reload
from sidecar.config.load import Loaded, load
from sidecar.identity.claims import make_actor
from sidecar.metrics import Metrics
from sidecar.outbound import ControlClient
from tests.support.hand_clock import HandClock


async def test_reading_that_does_not_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sidecar.app.reload._READ_TIMEOUT", 0.05)
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
        assert caplog.records[-1].__dict__["problems"][0].startswith("could not be read within 0.05 seconds")
        assert applied == []
        go.set()
        monkeypatch.setattr("sidecar.app.reload._READ_TIMEOUT", 10)
        await reload()
        assert caplog.records[-1].__dict__["outcome"] == "applied"
    assert applied == [loaded]
    await asyncio.sleep(0)


async def test_names_written_under_the_rules_in_force_stay_known_over_reloads(tmp_path: Path) -> None:
    """As long as the rules stay: entries made meanwhile bear names of theirs, and ask for no decision."""
    path = tmp_path / "sidecar.yaml"

    def reread(**more: object) -> Loaded:
        provider = {"name": "corp", "issuer": "https://idp", **more}
        upstream = {"url": "http://127.0.0.1:1", "credentials": "datahubHeader"}
        content = {"upstream": upstream, "authenticationConfiguration": {"providers": [provider]}}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return load([str(path)], {})

    applied: list[Loaded] = []

    async def apply(wanted: Loaded) -> None:
        applied.append(wanted)

    present = replace(reread(principal="localPart"), since=5.0)
    documents = [reread(principal="localPart", groupsClaim="g"), reread()]
    reload = Reload(present, lambda: documents.pop(0), apply, Metrics())
    await reload()
    await reload()
    kept, changed = applied
    assert (kept.since, kept.undecided) == (5.0, ())
    assert changed.since > 5.0
    assert changed.undecided == ("provider corp",)


@pytest.mark.parametrize(("principal", "name"), [({}, "Jane.Doe@corp.test"), ({"principal": "localPart"}, "jane.doe")])
async def test_authenticators_of_the_chain_name_people_by_the_blocks_rule(
    tmp_path: Path, principal: dict[str, str], name: str
) -> None:
    """Who comes with a password is the same person as with a token."""
    path = tmp_path / "sidecar.yaml"
    upstream = {"url": "http://127.0.0.1:1", "credentials": "datahubHeader"}
    path.write_text(yaml.safe_dump({"upstream": upstream, "authenticationConfiguration": principal}), encoding="utf-8")
    client = ControlClient()
    surroundings = authenticator_context(
        "basic", loaded=load([str(path)], {}), client=client, metrics=Metrics(), clock=HandClock()
    )
    await client.aclose()
    assert make_actor({"sub": "Jane.Doe@corp.test"}, surroundings.policy).id == name
