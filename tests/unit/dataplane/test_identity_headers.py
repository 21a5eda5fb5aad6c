"""The identity headers: their names, their encoding, and how long they are kept."""

from dataclasses import replace

import pytest

from sidecar.authn.base import Accepted
from sidecar.dataplane.identity_headers import (
    NAMES,
    IdentityHeaders,
    Statements,
    UpstreamCredentialSource,
    encode_list,
    encode_value,
    normal_name,
)
from sidecar.errors import Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.metrics import Metrics
from tests.support import forge

ANN = Actor(
    ActorType.USER, "ann", issuer="https://i", provider="corp", email="ann@example.com", groups=("a", "b"), token_id="t"
)


class Minter:
    """Numbers its tokens."""

    def __init__(self) -> None:
        self.minted = 0

    def token_for(self, actor: Actor, *, with_groups: bool = True) -> str:
        self.minted += 1
        return f"{actor.id}.{self.minted}"

    def authorization_for(self, actor: Actor) -> str:
        return f"Bearer {self.token_for(actor)}"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def accepted(actor: Actor = ANN) -> Accepted:
    return Accepted(actor, forge.public(forge.RSA, "RS256"))


def headers(
    *,
    assertion: Statements | None = None,
    credential: UpstreamCredentialSource | None = None,
    max_bytes: int = 3072,
    max_total_bytes: int = 8192,
    clock: Clock | None = None,
) -> IdentityHeaders:
    return IdentityHeaders(
        strip=("X_Company.User",),
        max_bytes=max_bytes,
        max_total_bytes=max_total_bytes,
        assertion=assertion,
        credential=credential,
        now=clock or Clock(),
        metrics=Metrics(),
    )


def lines(block: bytes) -> dict[str, str]:
    parts = [line.partition(": ") for line in block.decode("ascii").split("\r\n")[:-1]]
    assert len({name for name, _, _ in parts}) == len(parts)
    return {name: value for name, _, value in parts}


def test_a_check_gets_the_complete_set_blank_where_there_is_no_value() -> None:
    bare = Actor(ActorType.SERVICE, "etl")
    block = headers().check_block(accepted(bare), trusted=True)
    assert lines(block) == {
        **dict.fromkeys(NAMES, ""),
        "X-Auth-Request-User": "etl",
        "X-Auth-Request-Preferred-Username": "etl",
        "X-Auth-Actor-Type": "SERVICE",
        "X-Auth-Actor-Urn": "urn:li:corpuser:etl",
    }
    assert lines(headers().check_block(None, trusted=True)) == dict.fromkeys(NAMES, "")


def test_the_service_gets_no_blank_ones() -> None:
    block = lines(headers().forward_block(accepted(replace(ANN, groups=()))))
    assert set(NAMES) - set(block) == {"X-Auth-Request-Groups", "X-Auth-Client", "X-Auth-Scopes", "X-Auth-Acting"}
    assert headers().forward_block(None) == b""


def test_minted_tokens_go_to_trusted_peers_and_the_service_only() -> None:
    made = headers(assertion=Minter(), credential=Minter())
    caller = accepted()
    trusted, untrusted = lines(made.check_block(caller, trusted=True)), lines(made.check_block(caller, trusted=False))
    assert (trusted["Authorization"], trusted["X-Auth-Assertion"]) == ("Bearer ann.1", "ann.1")
    assert "Authorization" not in untrusted
    assert untrusted["X-Auth-Assertion"] == ""
    assert lines(made.check_block(None, trusted=True))["X-Auth-Assertion"] == ""
    assert lines(made.forward_block(caller))["Authorization"] == "Bearer ann.2"


def test_without_an_actor_the_callers_credential_is_overwritten() -> None:
    """A proxy that copies the minted credential would else let the caller's own through on a public path."""
    made = headers(credential=Minter())
    assert lines(made.check_block(None, trusted=True))["Authorization"] == ""
    assert "Authorization" not in lines(made.check_block(None, trusted=False))


def test_for_whom_nothing_may_be_minted_nothing_is_sent() -> None:
    class Refusing:
        def authorization_for(self, actor: Actor) -> str:
            return ""

    made = headers(credential=Refusing())
    assert "Authorization" not in lines(made.forward_block(accepted()))
    assert lines(made.check_block(accepted(), trusted=True))["Authorization"] == ""


def test_the_block_is_made_once_and_minted_tokens_are_renewed() -> None:
    minter, clock = Minter(), Clock()
    made, caller = headers(credential=minter, clock=clock), accepted()
    first = made.forward_block(caller)
    clock.now = 29.9
    assert made.forward_block(caller) is first
    clock.now = 30.1
    assert made.forward_block(caller) is not first
    assert minter.minted == 2
    without = headers(clock=clock)
    kept = without.forward_block(other := accepted())
    clock.now = 1e9
    assert without.forward_block(other) is kept


def test_too_many_groups_are_left_blank_for_the_service_too() -> None:
    many = replace(ANN, groups=tuple(f"group-{number}" for number in range(50)))
    made = headers(max_bytes=500)
    assert "X-Auth-Request-Groups" not in lines(made.forward_block(accepted(many)))
    assert lines(made.check_block(accepted(many), trusted=False))["X-Auth-Request-Groups"] == ""
    assert lines(made.check_block(accepted(), trusted=False))["X-Auth-Request-Groups"] == "a,b"


class Verbose:
    """Statements of 400 bytes and 10 for each group, or credentials of ``size`` bytes."""

    def __init__(self, size: int = 0) -> None:
        self._size = size
        self.asked: list[bool] = []

    def token_for(self, actor: Actor, *, with_groups: bool = True) -> str:
        self.asked.append(with_groups)
        return "s" * (400 + (10 * len(actor.groups) if with_groups else 0))

    def authorization_for(self, actor: Actor) -> str:
        return "c" * self._size


def in_groups(number: int) -> Actor:
    return replace(ANN, groups=tuple(f"g{index:03}" for index in range(number)))


@pytest.mark.parametrize(
    ("groups", "credential", "header", "assertion"),
    [
        (100, 100, 499, 1400),  # about 1,400 with all lines: everything fits
        (100, 800, 0, 1400),  # the groups header is left out first
        (100, 1300, 0, 400),  # then the assertion's groups
        (0, 1900, 0, 400),
    ],
)
@pytest.mark.parametrize("way", ["forward", "check"])
def test_the_whole_budget_counts_assertion_and_credential(
    groups: int, credential: int, header: int, assertion: int, way: str
) -> None:
    made = headers(assertion=Verbose(), credential=Verbose(credential), max_total_bytes=2800)
    caller = accepted(in_groups(groups))
    block = made.forward_block(caller) if way == "forward" else made.check_block(caller, trusted=True)
    sent = lines(block)
    assert len(block) <= 2800
    assert len(sent.get("X-Auth-Request-Groups", "")) == header
    assert len(sent["X-Auth-Assertion"]) == assertion
    assert len(sent["Authorization"]) == credential, "a credential is never left out"


@pytest.mark.parametrize("way", ["forward", "check"])
def test_what_does_not_fit_without_groups_either_is_refused(way: str) -> None:
    """And stays so without being minted again for every request."""
    assertion = Verbose()
    made, caller = headers(assertion=assertion, credential=Verbose(2500), max_total_bytes=2800), accepted(in_groups(9))
    for _ in range(3):
        with pytest.raises(Refused) as failure:
            made.forward_block(caller) if way == "forward" else made.check_block(caller, trusted=True)
        assert (failure.value.status, failure.value.reason) == (503, Reason.TOO_LARGE)
        assert "2800" in failure.value.detail
    assert assertion.asked == [True, False]


def test_a_statement_that_cannot_fit_is_not_signed_first() -> None:
    assertion = Verbose()
    headers(assertion=assertion, max_total_bytes=2800).forward_block(accepted(in_groups(1000)))
    assert assertion.asked == [False]


def test_untrusted_peers_have_a_budget_for_what_they_get() -> None:
    made = headers(credential=Verbose(2700), max_total_bytes=2800)
    assert "Authorization" not in lines(made.check_block(accepted(in_groups(100)), trusted=False))
    with pytest.raises(Refused):
        made.check_block(accepted(replace(ANN, token_id="t" * 2700)), trusted=False)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("ann@example.com", "ann@example.com"), ("a b", "a%20b"), ("100%", "100%25"), ("é", "%C3%A9"), ("a,b", "a,b"),
        ("x\r\nX-Evil: 1", "x%0D%0AX-Evil:%201"), ("\0\x7f\t", "%00%7F%09"), ("\ud800", "?"), ("", ""),
        ("☃", "%E2%98%83"),
    ],
)  # fmt: skip
def test_values_are_visible_ascii(value: str, encoded: str) -> None:
    assert encode_value(value) == encoded


def test_members_of_lists_cannot_become_two() -> None:
    assert encode_list(["a,b", "c d", "%", ""]) == "a%2Cb,c%20d,%25,"


@pytest.mark.parametrize(
    "name",
    [
        *NAMES, "x_auth_request_user", "X.Auth.Request.User", "X-AUTH_Request.User", "Remote-User", "remote_user",
        "X-WEBAUTH-USER", "x-webauth_user", "X-DataHub-Delegated-For-Anything", "X_DataHub_Delegated_For_Id",
        "X-Company-User", "x.company.user", "X-Auth-Assertion", "X-Auth-Status", "X-Auth-Request-Roles",
        "X-Auth!Request!User", "Remote|User", "X#Auth$Actor%Urn", "x&company'user", "X*Remote+User", "X^WEBAUTH`USER",
        "X~DataHub~Actor",
    ],
)  # fmt: skip
def test_identity_is_never_taken_from_a_caller(name: str) -> None:
    assert headers().is_stripped(normal_name(name))


@pytest.mark.parametrize("name", ["X-Auth", "X-Auth-Request", "Authorization", "X-DataHub-Client-Mode", "X-Company"])
def test_other_names_are_not_ours(name: str) -> None:
    assert not headers().is_stripped(normal_name(name))


@pytest.mark.parametrize(
    ("is_bot", "may", "passes"), [(True, True, True), (True, False, False), (False, True, False), (False, False, False)]
)
def test_only_bots_that_may_impersonate_do(is_bot: bool, may: bool, passes: bool) -> None:
    actor = replace(ANN, is_bot=is_bot, may_impersonate=may)
    assert IdentityHeaders.may_pass_impersonation("x-impersonate-user", accepted(actor)) is passes
    assert IdentityHeaders.may_pass_impersonation("x-impersonate-user", None) is False
    assert IdentityHeaders.may_pass_impersonation("x-other", None) is True
