"""Serializes calls of the supervisor to a worker: Python objects, including secrets, over a private socket.

Only data of the supervisor may be deserialized: unpickling can run any code.
"""

import io
import os
import pickle
from typing import Any

from sidecar.secrets.value import Secret
from sidecar.tokens.upstream.assertion import AssertionKey


class _Pickler(pickle.Pickler):
    """Serializes secrets, which otherwise refuse it, and replaces the environment by that of the reading process."""

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
    """``message`` as bytes."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(message)
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """The object that :func:`dumps` serialized."""
    return pickle.loads(data)  # noqa: S301 - sent by the supervisor over a private socket
