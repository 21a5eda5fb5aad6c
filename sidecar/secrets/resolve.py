"""Resolves secret references: the prefix selects the source."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.secrets import env, file
from sidecar.secrets.value import Secret, is_reference

PENDING = "is in the secrets manager, which has not been read yet"
"""Begins the message of a ``secret:`` reference whose value the resolver does not have."""


@dataclass(frozen=True, slots=True)
class SecretReference:
    """One ``secret:<id>`` of the configuration: the setting, the id, and where it is written."""

    path: str
    id: str
    file: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Resolver:
    """Resolves references with ``environ``, the file system, and ``held``: values of the secrets manager by id.

    ``files`` collects the files that references name.
    """

    environ: Mapping[str, str] = field(repr=False)
    held: Mapping[str, Secret] = field(default_factory=dict, repr=False)
    files: set[str] = field(default_factory=set, compare=False)

    def __call__(self, text: str) -> str:
        """The secret for ``text``: ``file:/path``, ``env:NAME``, ``secret:<id>``, or ``text`` itself.

        The value is used unchanged except for one final newline, and is never resolved again. Raises ValueError if the
        source does not exist or is empty; the message names the source, never its content.
        """
        if not is_reference(text):
            return text
        scheme, _, location = text.partition(":")
        if scheme == "secret":
            if location not in self.held:
                raise ValueError(PENDING)
            return self.held[location].reveal()
        if scheme == "file":
            self.files.add(location)
            secret = file.read_file(location, self.environ)
        else:
            secret = env.read_variable(location, self.environ)
        secret = without_final_newline(secret)
        if not secret:
            raise ValueError(f"{scheme}:{location} is empty")
        return secret


def resolve(text: str, environ: Mapping[str, str]) -> str:
    """The secret for ``text`` without a secrets manager, as :class:`Resolver` resolves it."""
    return Resolver(environ)(text)


def without_final_newline(text: str) -> str:
    """``text`` without one final line break, which editors and ``echo`` append."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
