"""A fault of meaning, before it is known in which file and line it stands."""

from dataclasses import dataclass

from sidecar.config.tree import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong at ``path`` (file vocabulary) and what to do; not ``fatal``: a warning.

    ``idle``: the setting has no effect where it stands. That is a warning too where an imported file or a variable of
    the product's supplies it: it was written for the product, not for the sidecar.
    """

    path: Path
    message: str
    fatal: bool = True
    idle: bool = False
