"""A fault of meaning, before it is known in which file and line it stands."""

from dataclasses import dataclass

from sidecar.config.tree import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at ``path`` (file vocabulary) and the mend; not ``fatal``: a warning."""

    path: Path
    message: str
    fatal: bool = True
