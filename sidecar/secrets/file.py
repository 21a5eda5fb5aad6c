"""Secrets in files: ``file:/path``, as mounted by Docker and Kubernetes."""

from collections.abc import Mapping
from pathlib import Path

_MAX_BYTES = 64 * 1024


def read_file(path: str, environ: Mapping[str, str]) -> str:
    """The content of the file. Raises ValueError, which never contains the content."""
    if not path.startswith("/"):
        raise ValueError("the path must be absolute: file:/path")
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ValueError(f"names the file {path}, which cannot be read: {reason}") from None
    if len(content) > _MAX_BYTES:
        raise ValueError(f"names the file {path}, which is too large for a secret")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError(f"names the file {path}, which is not UTF-8 text") from None
