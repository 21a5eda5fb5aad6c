"""Resolves secret references: the prefix selects the source."""

from collections.abc import Callable, Mapping

from sidecar.secrets import env, file
from sidecar.secrets.value import is_reference

Source = Callable[[str, Mapping[str, str]], str]


def _not_supported(reference: str, environ: Mapping[str, str]) -> str:
    raise ValueError("names a secrets manager, which is not supported; use file:/path or env:NAME")


_SOURCES: Mapping[str, Source] = {"env": env.read_variable, "file": file.read_file, "secret": _not_supported}


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The secret for ``text``: ``file:/path``, ``env:NAME``, or ``text`` itself.

    The value is used unchanged except for one final newline. Raises ValueError if the source does not exist or is
    empty; the message names the source, never its content.
    """
    if not is_reference(text):
        return text
    scheme, _, location = text.partition(":")
    secret = _without_final_newline(_SOURCES[scheme](location, environ))
    if not secret:
        raise ValueError(f"{scheme}:{location} is empty")
    return secret


def _without_final_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
