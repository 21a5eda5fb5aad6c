"""Detects changes of files by polling. It sees replaced files and symbolic links, as Kubernetes mounts them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

POLL_INTERVAL = 5.0
"""Seconds between two checks of files that are reloaded on change."""

FileState = tuple[int, int, int]
"""Inode, modification time and size of a file."""


def state_of(facts: os.stat_result) -> FileState:
    """The state in the result of ``stat`` or ``fstat``."""
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


class FileWatcher:
    """Compares files with the state of the last :meth:`mark`, which creation implies. Its methods block.

    ``paths`` returns the files; it is called each time, so that files of a directory can be added.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths
        self._marked = self._states()

    def changed(self) -> bool:
        """Whether a file was changed, added or removed since the last :meth:`mark`."""
        return self._states() != self._marked

    def mark(self) -> None:
        """Accept the current state. Call it before the files are read: later changes are then detected."""
        self._marked = self._states()

    def _states(self) -> dict[Path, FileState | None]:
        return {path: _state(path) for path in self._paths()}


def _state(path: Path) -> FileState | None:
    """None: the file cannot be accessed."""
    try:
        return state_of(path.stat())
    except OSError:
        return None
