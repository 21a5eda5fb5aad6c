"""Options shared by several commands."""

import argparse
import os
import sys
from collections.abc import Mapping

from sidecar.authn.registry import validate
from sidecar.config.load import Loaded, load, load_without_secrets
from sidecar.secrets.value import Secret
from sidecar.vaults.reader import SecretsReader, VaultAccess

CONFIG_VARIABLE = "SIDECAR_CONFIG"
_MAX_INPUT = 2 * 1024 * 1024


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE`` to ``parser``; it may be repeated."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        default=None,
        help=f"configuration file; repeatable, later ones win (default: ${CONFIG_VARIABLE}, else built-in defaults)",
    )


def config_paths(options: argparse.Namespace) -> tuple[str, ...]:
    """The files that ``options`` or the environment name, in order."""
    if options.config:
        return tuple(options.config)
    named = os.environ.get(CONFIG_VARIABLE, "")
    return (named,) if named else ()


def load_settings(options: argparse.Namespace, reader: SecretsReader | None = None) -> Loaded:
    """The configuration named by ``options``. Raises Misconfigured with every problem; prints nothing.

    ``reader`` reads the secrets that are in a secrets manager; None: a new one, which does not retry. Raises
    SecretsUnreadableError if they cannot be read.
    """
    secrets_reader = reader or SecretsReader()

    def read(first: Loaded) -> Mapping[str, Secret]:
        return secrets_reader.read(access_to_secrets(first))

    loaded = load(config_paths(options), os.environ, validate, read)
    if not loaded.references:
        secrets_reader.forget()
    return loaded


def load_offline(options: argparse.Namespace) -> Loaded:
    """As :func:`load_settings`, but without network access: secrets of a secrets manager are at their defaults."""
    return load_without_secrets(config_paths(options), os.environ, validate)


def access_to_secrets(loaded: Loaded) -> VaultAccess:
    """How the secrets of ``loaded`` are read."""
    return VaultAccess(loaded.settings.secrets_manager_configuration, loaded.egress, loaded.references)


def read_token(argument: str) -> str:
    """The token in ``argument``, or on standard input if that is ``-``."""
    return sys.stdin.read(_MAX_INPUT).strip() if argument == "-" else argument
