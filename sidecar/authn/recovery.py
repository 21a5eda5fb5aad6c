"""The former place of :mod:`sidecar.authn.support.dependency_probe`, for plugins. See :mod:`sidecar.old_names`."""

from typing import Any

from sidecar import old_names


def __getattr__(name: str) -> Any:
    return old_names.imported(__name__, name)
