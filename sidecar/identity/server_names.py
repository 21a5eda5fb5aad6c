"""Names that the upstream metadata server reserves for its own bots and clients; foreign tokens must not carry them."""

from collections.abc import Iterable

from sidecar.identity.names import folded

OPENMETADATA_BOT_SUFFIXES = ("-bot", "applicationbot", "appbot")
"""Name suffixes of OpenMetadata's bots, in lower case: its own, and ``<name>Bot`` for each installed application."""
OPENMETADATA_BOTS = (
    "ingestion-bot", "profiler-bot", "lineage-bot", "usage-bot", "quality-bot", "testsuite-bot",
    "autoClassification-bot", "governance-bot", "scim-bot", "memory-bot", "ontology-bot", "McpApplicationBot",
    "HelloPipelinesBot",
)  # fmt: skip
"""Bots that OpenMetadata creates by itself."""
OPENMETADATA_ADMIN = "admin"
"""The default admin of an OpenMetadata server: the default of its ``adminPrincipals``."""

DATAHUB_SYSTEM_CLIENT = "__datahub_system"
"""The default id of DataHub's system client."""


class ServerNames:
    """Reserved names of the server. ``suffixes`` are in lower case."""

    def __init__(self, names: Iterable[str] = (), suffixes: tuple[str, ...] = ()) -> None:
        self._names = frozenset(map(folded, names))
        self._suffixes = suffixes

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names, folded and sorted, followed by patterns of the suffixes."""
        listed = sorted(name for name in self._names if not name.endswith(self._suffixes or ("\0",)))
        return (*listed, *(f"*{suffix}" for suffix in self._suffixes))

    def contains(self, actor_id: str) -> bool:
        """Whether the server would treat the Actor ``actor_id`` as one of its own.

        A server reads the part before the first ``@`` of an address. A name with a provider's prefix is a different
        name, unless it is listed with the prefix.
        """
        if not self._names and not self._suffixes:
            return False
        name = folded(actor_id)
        local = name.partition("@")[0]
        if name in self._names or local in self._names:
            return True
        return bool(self._suffixes) and "/" not in local and local.endswith(self._suffixes)


NO_SERVER_NAMES = ServerNames()
