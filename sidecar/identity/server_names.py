"""Names that the metadata server behind gives to bots and clients of its own: no other issuer's caller may bear one."""

from collections.abc import Iterable

from sidecar.identity.names import folded

OPENMETADATA_BOT_SUFFIXES = ("-bot", "applicationbot", "appbot")
"""How OpenMetadata's bots are called, in lower case: its own, and for each installed application ``<name>Bot``."""
OPENMETADATA_BOTS = (
    "ingestion-bot", "profiler-bot", "lineage-bot", "usage-bot", "quality-bot", "testsuite-bot",
    "autoClassification-bot", "governance-bot", "scim-bot", "memory-bot", "ontology-bot", "McpApplicationBot",
    "HelloPipelinesBot",
)  # fmt: skip
"""Bots that OpenMetadata creates by itself."""
OPENMETADATA_ADMIN = "admin"
"""The admin that an OpenMetadata server has whatever is configured here: the default of its ``adminPrincipals``."""

DATAHUB_SYSTEM_CLIENT = "__datahub_system"
"""DataHub's system client, where nothing else is configured."""


class ServerNames:
    """The names that are the server's. ``suffixes`` are in lower case."""

    def __init__(self, names: Iterable[str] = (), suffixes: tuple[str, ...] = ()) -> None:
        self._names = frozenset(map(folded, names))
        self._suffixes = suffixes

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names, folded and in order, then patterns of the suffixes."""
        listed = sorted(name for name in self._names if not name.endswith(self._suffixes or ("\0",)))
        return (*listed, *(f"*{suffix}" for suffix in self._suffixes))

    def contains(self, actor_id: str) -> bool:
        """Whether the server would take the Actor ``actor_id`` for one of its own.

        A server reads what stands before the first ``@`` of an address. A name behind a provider's name and a slash is
        another name to it, unless it is listed as a whole.
        """
        name = folded(actor_id)
        local = name.partition("@")[0]
        if name in self._names or local in self._names:
            return True
        return bool(self._suffixes) and "/" not in local and local.endswith(self._suffixes)


NO_SERVER_NAMES = ServerNames()
