"""Claims become an Actor by OpenMetadata's rules, minus the holes that the vectors name as deviations."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Reason, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.claim_path import ClaimPath
from sidecar.identity.claims import MAX_GROUPS, PrincipalPolicy, actor_name, make_actor
from sidecar.identity.names import MAX_PRINCIPAL

VECTORS = yaml.safe_load(
    (Path(__file__).parents[2] / "vectors" / "tokens" / "principals.yaml").read_text(encoding="utf-8")
)
PATHS = {"username_claim", "email_claim", "address_claim"}


def policy(**changes: Any) -> PrincipalPolicy:
    values: dict[str, Any] = {
        "provider": "corp",
        "principal_claims": ("email", "preferred_username", "sub"),
        "principal_domain": "open-metadata.org",
        "reserved": frozenset({"anonymous"}),
        "is_bot_name": lambda name: name == "robot",
        "admin_names": frozenset({"admin", "root", "corp/boss"}),
        **changes,
    }
    values["principal_claims"] = tuple(map(ClaimPath, values["principal_claims"]))
    values.update({name: ClaimPath(values[name]) for name in PATHS & values.keys()})
    values["admin_names"] = frozenset(values["admin_names"])
    values["allowed_domains"] = frozenset(values.get("allowed_domains", ()))
    return PrincipalPolicy(**values)


def actor(claims: dict[str, Any], **changes: Any) -> Actor:
    return make_actor(claims, policy(**changes))


@pytest.mark.parametrize("case", VECTORS, ids=[f"{n}-{case['claims']}" for n, case in enumerate(VECTORS)])
def test_vector(case: dict[str, Any]) -> None:
    if "refused" in case:
        with pytest.raises(Refused) as refusal:
            actor(case["claims"], **case.get("policy", {}))
        assert [refusal.value.reason.value, refusal.value.cause.value] == case["refused"]
        return
    made = actor(case["claims"], **case.get("policy", {}))
    assert {name: getattr(made, name) for name in case["actor"]} == case["actor"]


def test_length_of_a_principal_is_bounded() -> None:
    assert actor({"sub": "s" * MAX_PRINCIPAL}).id == "s" * MAX_PRINCIPAL
    with pytest.raises(Refused):
        actor({"sub": "s" * (MAX_PRINCIPAL + 1)})


def test_actor_carries_what_the_token_says_of_itself() -> None:
    made = actor({"iss": "i", "sub": "Sam", "jti": "7", "iat": 1, "exp": 2.5}, authenticator="jwt")
    assert (made.issuer, made.provider, made.subject, made.token_id) == ("i", "corp", "Sam", "7")
    assert (made.issued_at, made.expires_at, made.authenticator) == (1, 2.5, "jwt")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["b", "a", "b"], ("b", "a")),
        ("one, two", ("one, two",)),
        (["a", 5, None, ["b"], {"c": 1}, "", True], ("a",)),
        (5, ()),
        (None, ()),
        ({"a": 1}, ()),
        ([], ()),
        ([str(n) for n in range(MAX_GROUPS + 5)], tuple(str(n) for n in range(MAX_GROUPS))),
    ],
)
def test_groups_and_roles_are_lists_of_texts(value: object, expected: tuple[str, ...]) -> None:
    made = actor(
        {"sub": "sam", "realm_access": {"roles": value}, "groups": value},
        groups_claim=ClaimPath("groups"),
        roles_claim=ClaimPath("realm_access.roles"),
    )
    assert made.groups == expected
    assert made.roles == expected


def test_no_groups_without_a_claim_for_them() -> None:
    assert actor({"sub": "sam", "groups": ["a"], "roles": ["b"]}).groups == ()


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ({"kind": "bot"}, ActorType.SERVICE),
        ({"kind": ["x", "job"]}, ActorType.SERVICE),
        ({"kind": "Bot"}, ActorType.USER),
        ({"kind": None}, ActorType.USER),
        ({}, ActorType.USER),
    ],
)
def test_type_by_claim(claim: dict[str, Any], expected: ActorType) -> None:
    made = actor({"sub": "sam", **claim}, service_claim=ClaimPath("kind"), service_values=frozenset({"bot", "job"}))
    assert made.type is expected


def test_type_of_all_actors_of_a_provider() -> None:
    assert actor({"sub": "sam"}, actor_type=ActorType.SERVICE).type is ActorType.SERVICE


_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_NAMES = ("email", "preferred_username", "isBot", "email_verified", "roles", "EMAIL", "kind")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(_NAMES, _VALUE)), st.booleans())
def test_any_claims_end_in_a_sound_actor_or_a_refusal(claims: dict[str, Any], own: bool) -> None:
    """Whatever name comes out is one line, shows, has no ``@`` and, from others, no slash."""
    try:
        made = actor(claims, own_issuer=own, roles_claim=ClaimPath("roles"), service_claim=ClaimPath("kind"))
    except Refused:
        return
    assert made.id
    assert made.id.isprintable()
    assert not set(made.id) & {" ", "@"}
    assert own or "/" not in made.id
    assert own or made.id not in {"anonymous", "robot"}


def test_refusal_for_a_missing_email_verified_says_which_setting_asks_for_it() -> None:
    """For the log: the provider, and what to write for one that sends none."""
    with pytest.raises(Refused) as refusal:
        actor({"email": "sam@acme.com"}, needs_verified=True)
    assert "emailVerified: absentIsVerified" in refusal.value.detail
    assert "corp" in refusal.value.detail
    assert "acme" not in refusal.value.detail


@pytest.mark.parametrize("text", ["Jane@Corp.com", "corp/Jane@Corp.com", "Sam"])
def test_verbatim_actor_id_is_as_written(text: str) -> None:
    assert actor_name(text, verbatim=True) == text


@pytest.mark.parametrize("text", ["", "a b", "(x)sam@acme.com", "a@b@c", "@x/sam", "\u212aate"])
def test_verbatim_actor_id_that_no_token_could_carry(text: str) -> None:
    with pytest.raises(Refused):
        actor_name(text, verbatim=True)


@pytest.mark.parametrize("text", ["", "a b", "sam@acme.com", "a\n", "@"])
def test_actor_id_that_no_token_could_carry(text: str) -> None:
    with pytest.raises(Refused) as refusal:
        actor_name(text)
    assert refusal.value.reason is Reason.PRINCIPAL_INVALID


def test_actor_id_is_in_lower_case() -> None:
    assert actor_name("Ingestion-Bot") == "ingestion-bot"
