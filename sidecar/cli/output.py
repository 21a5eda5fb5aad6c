"""Detects output that cannot be written: a full disk, a closed pipe."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

from sidecar.errors import SidecarError

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EROFS, errno.EBADF)


class OutputError(SidecarError):
    """Standard output could not be written completely.

    ``more`` says what the command did with the unprinted result. ``is_harmless``: the reader closed the pipe early.
    """

    def __init__(self, error: OSError, more: str = "") -> None:
        super().__init__(f"standard output cannot be written: {error.strerror or type(error).__name__}{more}")
        self.error = error
        self.is_harmless = isinstance(error, BrokenPipeError) and not more


class _Checked(io.TextIOBase):
    """Standard output whose errors are OutputErrors, to distinguish them from errors of other files."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``; raises OutputError."""
        try:
            return self._open().write(text)
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        """Write buffered output; raises OutputError."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error) from error

    def fileno(self) -> int:
        """The descriptor; raises OSError if there is none."""
        return self._open().fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def _open(self) -> TextIO:
        if self._stream is None:
            raise OSError(errno.EBADF, "it is closed")
        return self._stream


@contextmanager
def checked_output() -> Iterator[None]:
    """Have ``print`` raise OutputError, also for output that is still buffered at the end."""
    stream = sys.stdout
    try:
        with redirect_stdout(_Checked(stream)):
            try:
                yield
            except SystemExit:  # help was asked for
                sys.stdout.flush()
                raise
            sys.stdout.flush()
    except OutputError:
        _discard_buffered(stream)
        raise


def print_durably(text: str) -> None:
    """Print a result that cannot be printed again. On return it is written; a file is synced to disk.

    Raises OutputError.
    """
    print(text, flush=True)
    try:
        os.fsync(sys.stdout.fileno())
    except OSError as error:  # pipes and terminals cannot be synced
        if error.errno is not None and error.errno not in _CANNOT_SYNC:
            raise OutputError(error) from error


def _discard_buffered(stream: TextIO | None) -> None:
    """Discard buffered output, which the interpreter would report an error for on exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno() if stream is not None else 1)
        os.close(nowhere)
