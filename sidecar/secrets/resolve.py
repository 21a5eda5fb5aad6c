"""From what a setting says to the secret itself: which word before the colon means which source."""

from collections.abc import Callable, Mapping

from sidecar.secrets import env, file
from sidecar.secrets.value import is_reference

Source = Callable[[str, Mapping[str, str]], str]


def _not_supported(reference: str, environ: Mapping[str, str]) -> str:
    raise ValueError("names a secrets manager, which is not supported; use file:/path or env:NAME")


_SOURCES: Mapping[str, Source] = {"env": env.read_variable, "file": file.read_file, "secret": _not_supported}


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The secret behind ``text``: ``file:/path``, ``env:NAME``, or ``text`` itself.

    What a source holds is taken verbatim but for one final newline. Raises ValueError, which names the place and
    never what was found there, for a place that does not exist or holds nothing.
    """
    if not is_reference(text):
        return text
    scheme, _, location = text.partition(":")
    secret = _without_final_newline(_SOURCES[scheme](location, environ))
    if not secret:
        raise ValueError(f"{scheme}:{location} holds nothing")
    return secret


def _without_final_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
