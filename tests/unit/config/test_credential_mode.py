"""``upstream.credentials`` has one object per mode, and no other code compares the names of modes."""

import ast
from pathlib import Path
from typing import get_args

import pytest

from sidecar.config.credential_mode import MODES, Product, credential_mode
from sidecar.config.settings import Settings, UpstreamSettings

PACKAGE = Path(__file__).resolve().parents[3] / "sidecar"


def test_every_value_of_the_setting_has_a_mode() -> None:
    assert tuple(MODES) == get_args(UpstreamSettings.model_fields["credentials"].annotation)


@pytest.mark.parametrize("name", MODES)
def test_the_mode_is_that_of_the_setting(name: str) -> None:
    assert credential_mode(Settings.model_validate({"upstream": {"credentials": name}})) is MODES[name]


def test_without_an_upstream_the_proxy_keeps_the_credentials() -> None:
    """In check mode the proxy forwards the request, and nothing is minted for it."""
    mode = credential_mode(Settings.model_validate({}))
    assert mode.keeps_credentials
    assert not mode.upstream_verifies
    assert mode.mints is None


def test_a_minted_token_replaces_the_credentials_and_names_users_of_the_same_product() -> None:
    for mode in MODES.values():
        if mode.mints is not None:
            assert mode.names_users_of is mode.mints
            assert not mode.keeps_credentials
            assert not mode.sends_actor_header
    assert {mode.mints for mode in MODES.values()} == {None, *Product}


def test_no_other_module_compares_the_names_of_modes() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare)
        and any(
            isinstance(side, ast.Attribute)
            and side.attr == "credentials"
            and not (isinstance(side.value, ast.Name) and side.value.id == "cors")
            for side in (node.left, *node.comparators)
        )
    ]
    assert not found
