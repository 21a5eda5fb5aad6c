"""Secrets in environment variables: ``env:NAME``."""

from collections.abc import Mapping


def read_variable(name: str, environ: Mapping[str, str]) -> str:
    """The value of the variable. Raises ValueError if it is not set."""
    if name not in environ:
        raise ValueError(f"names the environment variable {name}, which is not set")
    return environ[name]
