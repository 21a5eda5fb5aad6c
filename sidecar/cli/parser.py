"""The parser of the commands: argparse with the nearest known word in its errors."""

import argparse
import re
import sys
from typing import Any, ClassVar, NoReturn

from sidecar.cli.problems import complain
from sidecar.config.reading.decode import nearest

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<known>.*)\)$")
_UNKNOWN = re.compile(r"unrecognized arguments: (?P<word>\S+)")


class Parser(argparse.ArgumentParser):
    """Subparsers are of this class too."""

    _options: ClassVar[set[str]] = set()

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """As argparse does, and remember the names of options for messages."""
        self._options.update(name for name in names if isinstance(name, str) and name.startswith("--"))
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> NoReturn:
        """Print usage and message, with the nearest known word, and exit with 2."""
        hint = self._hint(message)
        complain(f"{self.format_usage()}{self.prog}: error: {message}{f'; {hint}' if hint else ''}")
        sys.exit(2)

    def _hint(self, message: str) -> str:
        if choice := _CHOICE.search(message):
            return nearest(choice["word"], re.findall(r"[\w-]+", choice["known"]))
        if unknown := _UNKNOWN.search(message):
            return nearest(unknown["word"].partition("=")[0], self._options)
        return ""
