"""Ids of secrets: what is valid in each secrets manager, and what OpenMetadata builds."""

import pytest

from sidecar.secrets.ids import VaultKind, bot_token_id, id_problem, openmetadata_id

AZURE, BAO, KUBERNETES = VaultKind.AZURE, VaultKind.OPENBAO, VaultKind.KUBERNETES


@pytest.mark.parametrize(
    ("kind", "good"),
    [
        (AZURE, "openmetadata-bot-ingestion-bot-config-jwttoken"),
        (AZURE, "A" * 127),
        (BAO, "/openmetadata/bot/ingestion-bot/config/jwttoken"),
        (BAO, "metadata/redis_password"),
        (KUBERNETES, "redis.password-1"),
        (KUBERNETES, "a" * 253),
    ],
)
def test_valid_ids(kind: VaultKind, good: str) -> None:
    assert id_problem(kind, good) == ""


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        *(
            (kind, bad)
            for kind in VaultKind
            for bad in ("", "/", "a/", "a//b", "../a", "a b", "a?b", "a#b", "a%b", "ä", "a\n")
        ),
        (AZURE, "A" * 128),
        (AZURE, "a_b"),
        (AZURE, "a/b"),
        (BAO, "a.b"),
        (BAO, "//a"),
        (BAO, "a/../b"),
        (BAO, "a/" * 300 + "a"),
        (KUBERNETES, "A"),
        (KUBERNETES, "a/b"),
        (KUBERNETES, "-a"),
        (KUBERNETES, "a..b"),
        (KUBERNETES, "a" * 254),
    ],
)
def test_invalid_ids(kind: VaultKind, bad: str) -> None:
    """The text says what is valid."""
    assert " id" in id_problem(kind, bad)


@pytest.mark.parametrize(
    ("kind", "prefix", "expected"),
    [
        (AZURE, "", "openmetadata-bot-ingestion-bot-config-jwttoken"),
        (AZURE, "acme", "acmeopenmetadata-bot-ingestion-bot-config-jwttoken"),
        (AZURE, "acme-", "acme-openmetadata-bot-ingestion-bot-config-jwttoken"),
        (BAO, "", "/openmetadata/bot/ingestion-bot/config/jwttoken"),
        (BAO, "acme", "/acme/openmetadata/bot/ingestion-bot/config/jwttoken"),
        (KUBERNETES, "", "openmetadata-bot-ingestion-bot-config-jwttoken"),
    ],
)
def test_the_id_of_a_bots_token_is_openmetadatas(kind: VaultKind, prefix: str, expected: str) -> None:
    """Prefix and cluster are joined without a separator where an id does not begin with one."""
    assert bot_token_id(kind, prefix, "openmetadata", "ingestion-bot") == expected


@pytest.mark.parametrize(
    ("kind", "bot", "part"),
    [
        (AZURE, "My.Bot_1", "mybot1"),
        (BAO, "My.Bot_1", "my_bot_1"),
        (BAO, "a b", "a_b"),
        (KUBERNETES, "My..Bot__1", "my-bot-1"),
    ],
)
def test_characters_that_an_id_cannot_have(kind: VaultKind, bot: str, part: str) -> None:
    """Removed or replaced as OpenMetadata does, so that two names may make one id."""
    built = bot_token_id(kind, "", "openmetadata", bot)
    assert part in built.replace("openmetadata", "")
    assert built == bot_token_id(kind, "", "openmetadata", bot.lower())


def test_an_id_that_gets_too_long_is_an_error_and_not_cut() -> None:
    """Two long names must not share an id."""
    with pytest.raises(ValueError, match="1 to 127"):
        openmetadata_id(AZURE, "", "openmetadata", "bot", "b" * 127)
