"""``sidecar login secret``: a new secret for ``login.secrets``."""

import argparse
from secrets import token_urlsafe

_BYTES = 48


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    actions = subparsers.add_parser("login", help="secrets of browser login").add_subparsers(
        metavar="ACTION", required=True
    )
    secret = actions.add_parser("secret", help="print a new secret for login.secrets")
    secret.set_defaults(run=run_secret)


def run_secret(options: argparse.Namespace) -> int:
    """Print the secret. Nothing is stored."""
    print(token_urlsafe(_BYTES))
    return 0
