"""The token of a pod's service account."""

from pathlib import Path

from sidecar.vaults.base import VaultError, VaultFailure

_MAX_BYTES = 64 * 1024


def read_token_file(path: Path) -> str:
    """The token in ``path``. Raises VaultError, which never contains the content."""
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        text = content.decode("ascii").strip() if len(content) <= _MAX_BYTES else ""
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise VaultError(VaultFailure.UNAUTHORIZED, f"{path} cannot be read: {why}") from None
    if not text or not text.isprintable() or " " in text:
        raise VaultError(VaultFailure.UNAUTHORIZED, f"{path} holds no token")
    return text
