"""The ``sidecar`` command. Exit codes: 0 fine, 1 refused or failed, 2 usage or configuration."""

from sidecar.cli.main import main

__all__ = ["main"]
