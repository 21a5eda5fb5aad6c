"""Notes the use of own tokens; refuses nobody."""

from sidecar.authn.base import Accepted
from sidecar.errors import Failed
from sidecar.tokens.issued.usage import Usage


class UsageGate:
    """The last of the gates: whoever gets here uses the token."""

    def __init__(self, usage: Usage) -> None:
        self._note = usage.note

    def check(self, accepted: Accepted) -> Failed | None:
        """None."""
        if accepted.record_id is not None:
            self._note(accepted.record_id)
        return None
