"""Keeps tokens of bots in the secrets manager that the configuration names."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from sidecar.app.secrets import count_calls
from sidecar.clock import Clock
from sidecar.concurrency import in_daemon_thread
from sidecar.config.load import Loaded
from sidecar.config.secrets_manager import manager_of
from sidecar.metrics import Metrics
from sidecar.secrets.ids import Manager, bot_token_id
from sidecar.secrets.value import Secret
from sidecar.store.base import Store
from sidecar.store.replica.mirror import Mirror
from sidecar.tokens.issued.copies import BotTokenCopies, CopyCleaner, CopyError, CopyVault, HeldCopy
from sidecar.vaults.base import BoundedVault, VaultError, VaultFailure
from sidecar.vaults.reader import what_to_do, with_vault

T = TypeVar("T")
_UNREADABLE = frozenset({VaultFailure.DISABLED, VaultFailure.INVALID})


def bot_token_copies(loaded: Loaded, store: Store, clock: Clock, metrics: Metrics) -> BotTokenCopies | None:
    """What writes tokens of bots to the secrets manager; None: ``tokens.botTokensInVault`` is not set."""
    vault = bot_token_vault(loaded, metrics)
    if vault is None:
        return None
    return BotTokenCopies(vault, store.write, clock, issuer=loaded.settings.jwt_token_configuration.jwtissuer)


def bot_token_vault(loaded: Loaded, metrics: Metrics) -> CopyVault | None:
    """The secrets manager for tokens of bots; None: ``tokens.botTokensInVault`` is not set."""
    manager = manager_of(loaded.settings)
    if not loaded.settings.tokens.bot_tokens_in_vault or manager is None:
        return None
    return _Vault(loaded, manager, metrics)


async def start_cleaner(
    copies: BotTokenCopies | None, mirror: Mirror, store: Store, clock: Clock, stack: AsyncExitStack
) -> CopyCleaner | None:
    """Delete revoked tokens from the secrets manager in the background, until ``stack`` is closed."""
    if copies is None:
        return None
    cleaner = CopyCleaner(copies, store, mirror.records, mirror.changed, clock)
    await cleaner.start()
    stack.push_async_callback(cleaner.aclose)
    return cleaner


class _Vault:
    """See :class:`sidecar.tokens.issued.copies.CopyVault`.

    Each call opens the secrets manager and closes it again, in a thread of its own: a library is loaded and
    certificates are read without delaying requests.
    """

    def __init__(self, loaded: Loaded, manager: Manager, metrics: Metrics) -> None:
        settings = loaded.settings
        self.name = str(manager.kind)
        self._manager = manager
        self._cluster = settings.cluster_name
        self._configuration = settings.secrets_manager_configuration
        self._egress = loaded.egress
        self._observe = count_calls(metrics)

    def id_of(self, bot: str) -> str:
        """See the protocol."""
        return bot_token_id(self._manager.kind, self._configuration.prefix, self._cluster, bot)

    async def read(self, secret_id: str) -> HeldCopy | None:
        """See the protocol."""
        try:
            held = await self._run(lambda vault: vault.get(secret_id))
        except VaultError as error:
            if error.failure is VaultFailure.ABSENT:
                return None
            if error.holds_nothing:
                return HeldCopy("", None)
            if error.failure in _UNREADABLE:
                return HeldCopy(None, None, error.detail)
            raise self._failure(error) from None
        return HeldCopy(held.value.reveal(), held.info.version)

    async def write(self, secret_id: str, text: str, replaces: str | None) -> str:
        """See the protocol."""
        try:
            return await self._run(lambda vault: vault.set(secret_id, Secret(text), replaces))
        except VaultError as error:
            raise self._failure(error) from None

    async def remove(self, secret_id: str, version: str | None) -> None:
        """See the protocol."""
        try:
            await self._run(lambda vault: vault.delete(secret_id, version))
        except VaultError as error:
            raise self._failure(error) from None

    async def _run(self, work: Callable[[BoundedVault], Awaitable[T]]) -> T:
        return await in_daemon_thread(
            lambda: asyncio.run(with_vault(self._configuration, self._egress, work, self._observe)), "secrets manager"
        )

    def _failure(self, error: VaultError) -> CopyError:
        return CopyError(
            f"{error}; {what_to_do(self._manager.kind, error, writes=True)}",
            is_conflict=error.failure is VaultFailure.CONFLICT,
            may_be_done=error.is_passing,
        )
