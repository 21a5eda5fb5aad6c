"""Standard output that may not take what a command prints: a full disk, a closed pipe."""

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
    """Standard output did not take everything.

    ``more`` says what has become of what was to be printed. ``is_harmless``: a reader has gone that had seen enough.
    """

    def __init__(self, error: OSError, more: str = "") -> None:
        super().__init__(f"standard output cannot be written: {error.strerror or type(error).__name__}{more}")
        self.error = error
        self.is_harmless = isinstance(error, BrokenPipeError) and not more


class _Checked(io.TextIOBase):
    """Standard output whose faults are OutputErrors, so that they are told from those of other files."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write ``text``; raises OutputError."""
        try:
            return self._open().write(text)
        except OSError as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        """Hand on what is buffered; raises OutputError."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            raise OutputError(error) from error

    def fileno(self) -> int:
        """The descriptor; raises OSError where there is none."""
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
    """Have ``print`` raise OutputError, also for what is still buffered at the end."""
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
        _abandon(stream)
        raise


def print_checked(text: str) -> None:
    """Print what cannot be printed again; once this returns it has been handed on, in a file it is on disk.

    Raises OutputError.
    """
    print(text, flush=True)
    try:
        os.fsync(sys.stdout.fileno())
    except OSError as error:  # a pipe or a terminal has no disk below it
        if error.errno is not None and error.errno not in _CANNOT_SYNC:
            raise OutputError(error) from error


def _abandon(stream: TextIO | None) -> None:
    """Let what is buffered go nowhere: the interpreter would complain when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno() if stream is not None else 1)
        os.close(nowhere)
