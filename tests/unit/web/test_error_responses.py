"""The challenge that refusals carry (RFC 6750 section 3)."""

import re

import pytest

from sidecar.errors import REASONS, Cause, Reason, Refused, Unavailable
from sidecar.web.error_responses import ErrorResponses
from sidecar.web.response import status_line


@pytest.mark.parametrize("reason", Reason)
def test_every_challenge_is_well_formed_and_says_no_more_than_the_answer(reason: Reason) -> None:
    text = REASONS[reason]
    challenge = ErrorResponses("sidecar").challenge(Refused(reason, Cause.SIGNATURE, "detail"))
    assert re.fullmatch(r'Bearer realm="sidecar"(, error="[a-z_]+", error_description="[ !#-\[\]-~]+")?', challenge), (
        challenge
    )
    assert ("error=" in challenge) is bool(text.bearer_error)
    assert "signature" not in challenge
    assert "code" not in text.message


def test_a_realm_cannot_end_its_quotes() -> None:
    assert ErrorResponses('a"b\\c\r\nd').challenge(Unavailable(Cause.OVERLOAD)) == 'Bearer realm="abcd"'


def test_unknown_statuses_have_a_line_too() -> None:
    assert status_line(404) == b"HTTP/1.1 404 Not Found\r\n"
    assert status_line(599) == b"HTTP/1.1 599 \r\n"
