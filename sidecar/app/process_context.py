"""State of the process that outlives a configuration."""

from dataclasses import dataclass, field

from sidecar.app.shared_resources import SharedResources
from sidecar.clock import Clock
from sidecar.keys.keyset import PublicKey
from sidecar.metrics import Metrics
from sidecar.tokens.revocation.recent_issuers import RecentIssuers
from sidecar.tokens.upstream.assertion import AssertionKey, new_assertion_key


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """Passed to every configuration of one process."""

    metrics: Metrics
    clock: Clock
    shared: SharedResources = field(default_factory=SharedResources)
    assertion_key: AssertionKey = field(default_factory=new_assertion_key, repr=False)
    issuers: RecentIssuers = field(init=False)
    own_keys: dict[str, PublicKey] = field(default_factory=dict)
    """Public keys of active configurations whose keys are in a secrets manager, by id."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "issuers", RecentIssuers(self.clock))
