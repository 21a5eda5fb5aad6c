"""Authenticator entries of the configuration. Each authenticator validates its own options."""

from collections.abc import Callable
from dataclasses import dataclass, field

from sidecar.config.reading.tree import Block, Node, Origin, Path, child_of, origin_of
from sidecar.config.settings import AuthenticationSettings, AuthenticatorSettings


@dataclass(frozen=True, slots=True)
class AuthenticatorConfig:
    """One entry of ``authentication.authenticators``.

    ``options`` is its ``configs`` block, not validated; ``path`` and ``origin`` locate it. ``resolve_secret`` resolves
    the text of a secret and raises ValueError.
    """

    settings: AuthenticatorSettings
    options: Block = field(repr=False)
    path: Path
    origin: Origin
    resolve_secret: Callable[[str], str]


def configured_authenticators(
    settings: AuthenticationSettings, tree: Block, resolve_secret: Callable[[str], str]
) -> tuple[AuthenticatorConfig, ...]:
    """The entries in order; none if the block is disabled. ``tree`` is the whole configuration, not validated."""
    if not settings.enabled:
        return ()
    base: Path = ("authentication", "authenticators")
    return tuple(
        _configured(member, (*base, index), tree, resolve_secret)
        for index, member in enumerate(settings.authenticators)
    )


def _configured(
    settings: AuthenticatorSettings, path: Path, tree: Block, resolve_secret: Callable[[str], str]
) -> AuthenticatorConfig:
    return AuthenticatorConfig(settings, _options(tree, path), path, origin_of(tree, path), resolve_secret)


def _options(tree: Block, path: Path) -> Block:
    node: Node | None = tree
    for part in (*path, "configs"):
        node = None if node is None else child_of(node, part)
    return node if isinstance(node, Block) else Block({}, tree.origin)
