"""Records the use of issued tokens; rejects nothing."""

from sidecar.authn.base import Accepted
from sidecar.errors import Failed
from sidecar.tokens.issued.usage import UsageRecorder


class UsageGate:
    """The last gate: a token that reaches it is in use."""

    def __init__(self, usage: UsageRecorder) -> None:
        self._note = usage.note

    def check(self, accepted: Accepted) -> Failed | None:
        """Always None."""
        if accepted.record_id is not None:
            self._note(accepted.record_id)
        return None
