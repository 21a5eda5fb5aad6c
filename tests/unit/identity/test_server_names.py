"""Names of the metadata server's own bots are recognised however a caller spells them."""

import pytest

from sidecar.identity.server_names import OPENMETADATA_BOT_SUFFIXES, OPENMETADATA_BOTS, ServerNames

NAMES = ServerNames((*OPENMETADATA_BOTS, "Nightly"), OPENMETADATA_BOT_SUFFIXES)


@pytest.mark.parametrize(
    "name",
    [
        *OPENMETADATA_BOTS,
        "INGESTION-BOT",
        "ingestion-bot@evil.example",
        "ingestion-bot@a@b",
        "mcpapplicationbot",
        "SearchIndexingApplicationBot",
        "RdfIndexAppBot",
        "hellopipelinesbot",
        "my-own-Bot",
        "nightly",
        "NIGHTLY@corp.example",
        "inge\u017ftion-bot",
    ],
)
def test_a_bot_of_the_server_is_recognised_in_every_spelling(name: str) -> None:
    assert NAMES.contains(name)


@pytest.mark.parametrize("name", ["talbot", "robot", "ingestion", "bot", "nightly-job", "corp/ingestion-bot", "-bots"])
def test_other_names_stay_free(name: str) -> None:
    """A namespaced Actor is never one of the server's: its name begins with the provider's."""
    assert not NAMES.contains(name)


def test_without_names_nothing_is_the_servers() -> None:
    assert not ServerNames().contains("ingestion-bot")
    assert not ServerNames().contains("")
