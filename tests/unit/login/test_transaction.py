"""An attempt belongs to one browser and a quarter of an hour."""

import re

import pytest

from sidecar.errors import Cause, Refused
from sidecar.login.transaction import AttemptRefused, Transactions
from sidecar.secrets.value import Secret
from sidecar.sessions.sealing import Sealer
from tests.support.hand_clock import HandClock

OLD, NEW = Secret("o" * 32), Secret("n" * 32)


def test_attempt_comes_back_as_it_was_begun() -> None:
    transactions = Transactions(Sealer([OLD]), HandClock())
    attempt, state = transactions.begin("corp", "/a?b#c", "")
    found, is_old = transactions.open(state, attempt.cookie)
    assert (found, is_old) == (attempt, False)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", attempt.verifier)
    assert len({attempt.verifier, attempt.nonce, attempt.challenge, attempt.cookie, state}) == 5


def test_every_tab_of_a_browser_has_one_cookie_and_its_own_values() -> None:
    transactions = Transactions(Sealer([OLD]), HandClock())
    first, _ = transactions.begin("corp", "/", "")
    second, _ = transactions.begin("corp", "/", first.cookie)
    assert second.cookie == first.cookie
    assert second.nonce != first.nonce
    for unusable in ("short", "A" * 44, "A" * 42 + "B", "a b"):
        assert transactions.begin("corp", "/", unusable)[0].cookie != unusable


@pytest.mark.parametrize("cookie", ["", "A" * 43, "x"])
def test_another_browser_cannot_use_it(cookie: str) -> None:
    transactions = Transactions(Sealer([OLD]), HandClock())
    _, state = transactions.begin("corp", "/", "")
    with pytest.raises(Refused) as caught:
        transactions.open(state, cookie)
    assert caught.value.cause is Cause.BROWSER_MISMATCH


def test_only_a_fresh_attempt_of_another_cookie_may_begin_anew_by_itself() -> None:
    clock = HandClock()
    transactions = Transactions(Sealer([OLD]), clock)
    _, state = transactions.begin("corp", "/a", "")
    for seconds, cookie, provider in ((0, "A" * 43, "corp"), (0, "", ""), (901, "A" * 43, "")):
        clock.advance(seconds)
        with pytest.raises(AttemptRefused) as caught:
            transactions.open(state, cookie)
        assert (caught.value.return_to, caught.value.provider) == ("/a", provider)


def test_state_that_was_changed_or_sealed_elsewhere_is_invalid() -> None:
    transactions = Transactions(Sealer([OLD]), HandClock())
    attempt, state = transactions.begin("corp", "/", "")
    _, foreign = Transactions(Sealer([NEW]), HandClock()).begin("corp", "/", attempt.cookie)
    flipped = state[:60] + ("A" if state[60] != "A" else "B") + state[61:]
    for bad in (flipped, state[:-1], state + "A", "", "!", foreign, "A" * 9000):
        with pytest.raises(Refused) as caught:
            transactions.open(bad, attempt.cookie)
        assert caught.value.cause is Cause.STATE_INVALID


def test_state_is_good_for_a_quarter_of_an_hour() -> None:
    clock = HandClock()
    transactions = Transactions(Sealer([OLD]), clock)
    attempt, state = transactions.begin("corp", "/", "")
    clock.advance(900)
    assert transactions.open(state, attempt.cookie)[1] is False
    clock.advance(1)
    assert transactions.open(state, attempt.cookie)[1] is True


def test_secret_that_moves_to_the_front_spoils_no_login() -> None:
    """The same attempt leads to the same session, with whichever order of secrets it is completed."""
    clock, before, after = HandClock(), Sealer([OLD, NEW]), Sealer([NEW, OLD])
    attempt, state = Transactions(before, clock).begin("corp", "/", "")
    found, _ = Transactions(after, clock).open(state, attempt.cookie)
    assert found.session_secret(after) == attempt.session_secret(before)
    assert found.verifier == attempt.verifier
