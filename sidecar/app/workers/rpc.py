"""What a supervisor hands to a worker: Python objects over their private socket, secrets among them.

Only ever read from the supervisor, which has started the reader: unpickling can run anything.
"""

import io
import os
import pickle
from typing import Any

from sidecar.secrets.value import Secret
from sidecar.tokens.upstream.assertion import AssertionKey


class _Pickler(pickle.Pickler):
    """Lets pass what otherwise refuses to be written down, or what the other process has of its own."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Secret):
            return Secret, (obj.reveal(),)
        if isinstance(obj, AssertionKey):
            return AssertionKey.import_key, (obj.as_dict(private=True),)
        if obj is os.environ:
            return _environment, ()
        return NotImplemented


def _environment() -> Any:
    return os.environ


def dumps(message: object) -> bytes:
    """``message`` as octets."""
    octets = io.BytesIO()
    _Pickler(octets).dump(message)
    return octets.getvalue()


def loads(octets: bytes) -> Any:
    """What :func:`dumps` was given."""
    return pickle.loads(octets)  # noqa: S301 - the supervisor's words, by a socket that nobody else has
