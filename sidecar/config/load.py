"""Files and environment in, frozen Settings out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sidecar.config.providers import Provider
from sidecar.config.settings import Settings
from sidecar.errors import Problem


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that may be used; ``sources`` says of each written path where its value came from."""

    settings: Settings
    providers: tuple[Provider, ...] = ()
    warnings: tuple[Problem, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)


def load(paths: Sequence[str], environ: Mapping[str, str]) -> Loaded:
    """Read ``paths`` in order, later wins; raises Misconfigured with every problem that was found."""
    merged: dict[str, object] = {}
    for path in paths:
        merged.update(yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {})
    return Loaded(Settings.model_validate(merged))
