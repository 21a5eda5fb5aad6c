"""Route rules: first match wins, whole segments, the stricter of two readings."""

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.access.paths import Normalizations, read_target
from sidecar.access.rules import Access, Rules, named
from sidecar.config.settings import RuleSettings
from sidecar.errors import Cause, Refused
from sidecar.identity.actor import Actor, ActorType
from sidecar.identity.request import Missing


def rules(*written: dict[str, Any]) -> Rules:
    return Rules(RuleSettings.model_validate(rule) for rule in written)


def access(of: Rules, target: str, method: str = "GET") -> Access:
    return of.requirement_for(method, read_target(target)).access


def test_no_rule_means_authenticated() -> None:
    assert access(rules(), "/x") is Access.AUTHENTICATED
    assert access(rules({"path": "/y", "access": "public"}), "/x") is Access.AUTHENTICATED


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/a", ["/a", "/a?x=1"], ["/a/", "/ab", "/a/b", "/A", "/"]),
        ("/a/**", ["/a", "/a/", "/a/b", "/a/b/c"], ["/ab", "/", "/b/a"]),
        ("/**", ["/", "/a", "/a/b"], []),
        ("/a/*/c", ["/a/b/c", "/a/*/c"], ["/a/c", "/a//c", "/a/b/d/c", "/a/b/c/"]),
        ("/a/*", ["/a/b"], ["/a", "/a/", "/a/b/c"]),
        ("/*/b/**", ["/a/b", "/x/b/c/d"], ["/a", "/a/c/b"]),
    ],
)
def test_patterns(pattern: str, matching: list[str], others: list[str]) -> None:
    """Exact without wildcard; ``*`` is one segment; ``/**`` covers everything below and itself."""
    public = rules({"path": pattern, "access": "public"})
    assert [target for target in matching if access(public, target) is not Access.PUBLIC] == []
    assert [target for target in others if access(public, target) is Access.PUBLIC] == []


def test_first_match_wins() -> None:
    """Order in the file decides, however specific a later pattern is."""
    ordered = rules({"path": "/a/**"}, {"path": "/a/b", "access": "public"}, {"path": "/**", "access": "guest"})
    assert access(ordered, "/a/b") is Access.AUTHENTICATED
    assert access(ordered, "/c") is Access.GUEST


def test_methods_limit_a_rule() -> None:
    version = rules({"path": "/v", "methods": ["GET"], "access": "public"})
    assert access(version, "/v", "GET") is Access.PUBLIC
    assert access(version, "/v", "POST") is Access.AUTHENTICATED
    assert access(version, "/v", "get") is Access.AUTHENTICATED


def test_what_is_asked_of_get_is_asked_of_head() -> None:
    """Services answer HEAD as GET without its body (RFC 9110 9.3.2): it tells what GET would, and may do the same."""
    guarded = rules({"path": "/a", "methods": ["GET"], "require": {"admin": True}}, {"path": "/**", "access": "public"})
    assert len(guarded.requirement_for("HEAD", Normalizations("/a")).requirements) == 1
    assert access(rules({"path": "/a", "methods": ["HEAD"], "access": "public"}), "/a", "GET") is Access.AUTHENTICATED


@pytest.mark.parametrize("target", ["//v", "/v;x", "/v%2f", "/x%2f..v", "/public/a//b", "/public/a%2fb", "/public/a;b"])
def test_ambiguous_paths_are_never_public(target: str) -> None:
    """Two readings: authenticated, even where both would be public."""
    assert access(rules({"path": "/v", "access": "public"}, {"path": "/public/**", "access": "public"}), target) is (
        Access.AUTHENTICATED
    )


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        ("/u/@me", "/u/%40me"),
        ("/u/%40me", "/u/@me"),
        ("/u/a:b/**", "/u/a%3Ab/c"),
        ("/%7Eann", "/~ann"),
        ("/a%2fb", "/a%2Fb"),
        ("/adm", "/adm;%2fx"),
        ("/names/*", "//names/a%2fb"),
        ("/names/*", "/names;v/a%2fb"),
    ],
)
def test_no_spelling_of_a_path_escapes_its_requirement(pattern: str, target: str) -> None:
    """Whatever one service makes of the target, the rule for it is found."""
    guarded = rules({"path": pattern, "require": {"admin": True}}, {"path": "/**", "access": "public"})
    ruling = guarded.requirement_for("GET", read_target(target))
    assert ruling.access is Access.AUTHENTICATED
    assert len(ruling.requirements) == 1


def test_an_encoded_asterisk_in_a_pattern_is_no_wildcard() -> None:
    assert access(rules({"path": "/a/%2A", "access": "public"}), "/a/b") is Access.AUTHENTICATED


def test_requirements_of_both_readings_apply() -> None:
    guarded = rules(
        {"path": "/admin/**", "require": {"groups": ["admins"]}}, {"path": "/x/**", "require": {"roles": ["r"]}}
    )
    assert len(guarded.requirement_for("GET", Normalizations("/x//admin", ("/admin",))).requirements) == 2
    assert len(guarded.requirement_for("GET", read_target("//admin/x")).requirements) == 1
    assert guarded.can_require


def test_requirement_names_what_is_missing() -> None:
    (requirement,) = (
        rules({"path": "/a", "require": {"groups": ["g"], "actorTypes": ["USER"]}})
        .requirement_for("GET", Normalizations("/a"))
        .requirements
    )
    assert requirement.missing(Actor(ActorType.USER, "u", groups=("g", "h"))) is None
    found = requirement.missing(Actor(ActorType.USER, "u", groups=("h",)))
    assert found == Missing(Cause.RULE_GROUPS, "the group g", 'the groups "h"', "rules[0] /a")
    service = requirement.missing(Actor(ActorType.SERVICE, "u", groups=("g",)))
    assert service == Missing(Cause.RULE_ACTOR_TYPE, "the Actor type USER", "SERVICE", "rules[0] /a")
    (admin,) = (
        rules({"path": "/a", "require": {"admin": True}}).requirement_for("GET", Normalizations("/a")).requirements
    )
    assert admin.missing(Actor(ActorType.USER, "u")) == Missing(Cause.RULE_ADMIN, "an admin", "no admin", "rules[0] /a")
    assert admin.missing(Actor(ActorType.USER, "u", is_admin=True)) is None


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["b", "a"], "one of the groups a, b"),
        ([f"g{n}" for n in range(9)], "one of the groups g0, g1, g2, g3, g4 and 4 more"),
        (["a", "Decoders"], "a group that the caller does not have"),  # see the letters that no message may contain
    ],
)
def test_a_message_names_what_is_missing_within_bounds(names: list[str], text: str) -> None:
    assert named("group", names) == text


@pytest.mark.parametrize(
    ("strict", "target"),
    [
        ("/x", "/x/"), ("/x/", "/x"), ("/a/*/purge", "/a/b/purge/"), ("/a/*", "/a/b/"), ("/x", "/x//"),
        ("/x", "/x%2f"), ("/x", "/x/;v"), ("/x", "/x;v/"), ("/x", "/x%2F%2f"), ("/x", "/x%5c"), ("/x", "//x/"),
    ],
)  # fmt: skip
def test_a_final_slash_does_not_lead_around_a_stricter_rule(strict: str, target: str) -> None:
    """Jersey, Spring and Express serve ``/x/`` as ``/x``: what is asked of the one is asked of the other."""
    guarded = rules({"path": strict, "require": {"admin": True}}, {"path": "/**", "access": "public"})
    ruling = guarded.requirement_for("POST", read_target(target))
    assert (ruling.access, len(ruling.requirements)) == (Access.AUTHENTICATED, 1)
    for later in ("public", "guest"):
        before = rules({"path": strict}, {"path": "/**", "access": later})
        assert access(before, target) is Access.AUTHENTICATED
    kept = rules({"path": strict, "require": {"admin": True}})
    assert len(kept.requirement_for("GET", read_target(target)).requirements) == 1


def test_a_final_slash_makes_nothing_less_strict() -> None:
    """The rule that stands first decides; a later one, and one that opens, are for the written path alone."""
    assert access(rules({"path": "/x", "access": "public"}), "/x/") is Access.AUTHENTICATED
    opened = rules({"path": "/x", "access": "public"}, {"path": "/**"})
    assert (access(opened, "/x"), access(opened, "/x/")) == (Access.PUBLIC, Access.AUTHENTICATED)
    first = rules({"path": "/x/", "access": "public"}, {"path": "/x", "require": {"admin": True}})
    assert access(first, "/x/") is Access.PUBLIC
    assert access(rules({"path": "/x", "methods": ["POST"]}, {"path": "/**", "access": "public"}), "/x/") is (
        Access.PUBLIC
    )


OPEN, SHUT = Access.PUBLIC, Access.AUTHENTICATED


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/api/v1/system/version", OPEN),
        ("HEAD", "/api/v1/system/version?x=1", OPEN),
        ("POST", "/api/v1/system/version", SHUT),
        ("GET", "/api/v1/system/version/", SHUT),
        ("GET", "/api/v1/system/version/x", SHUT),
        ("GET", "/api/v1/system/versions", SHUT),
        ("GET", "/api/v1/system/config/jwks", OPEN),
        ("GET", "/api/v1/system/config", SHUT),
        ("POST", "/api/v1/users/login", OPEN),
        ("GET", "/api/v1/users/login", SHUT),
        ("PUT", "/api/v1/users/registrationConfirmation?token=x", OPEN),
        ("GET", "/api/v1/tables", SHUT),
        ("GET", "/api", SHUT),
        ("GET", "/api/v1/tables;v1/users/login", SHUT),
        ("GET", "/api/v1/tables/name/v1%2Fusers%2Flogin", SHUT),
        ("GET", "/api/v1/tables/v1/system/version", SHUT),
        ("GET", "/%61pi/v1/tables", SHUT),
        ("GET", "//api/v1/tables", SHUT),
        ("GET", "/x;/../api/v1/tables", None),
        ("GET", "/api/v1/push/feed/?userId=1&transport=websocket", SHUT),
        ("GET", "/", OPEN),
        ("GET", "/my-data/table", OPEN),
        ("HEAD", "/favicon.png", OPEN),
        ("POST", "/", SHUT),
        ("POST", "/callback", SHUT),
        ("DELETE", "/my-data", SHUT),
    ],
)
def test_openmetadatas_open_paths(method: str, target: str, expected: Access | None) -> None:
    """By whole paths and methods: what only contains an open path is shut."""
    _check_preset("openmetadata", method, target, expected)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/health", OPEN),
        ("GET", "/health/", SHUT),
        ("GET", "/health/live", OPEN),
        ("GET", "/healthy", SHUT),
        ("GET", "/config", OPEN),
        ("POST", "/config", SHUT),
        ("GET", "/config/search/export?x=1", OPEN),
        ("GET", "/config/search", SHUT),
        ("GET", "/actuator/prometheus", OPEN),
        ("GET", "/actuator/env", SHUT),
        ("GET", "/schema-registry/subjects", OPEN),
        ("POST", "/schema-registry/api/subjects/x/versions", OPEN),
        ("GET", "/schema-registryX/subjects", SHUT),
        ("GET", "/public-iceberg/v1/config", OPEN),
        ("GET", "/public-icebergX", SHUT),
        ("GET", "/schema-registry//../entities", None),
        ("GET", "/schema-registry/..%2fentities", None),
        ("GET", "/openapi/check/elastic", OPEN),
        ("GET", "/openapi/up/x", OPEN),
        ("POST", "/openapi/check/elastic", SHUT),
        ("GET", "/openapi/upgrade", SHUT),
        ("POST", "/aspects?action=ingestProposal", SHUT),
        ("GET", "/", SHUT),
    ],
)
def test_datahubs_open_paths(method: str, target: str, expected: Access | None) -> None:
    _check_preset("datahub", method, target, expected)


def _check_preset(preset: str, method: str, target: str, expected: Access | None) -> None:
    if expected is None:
        with pytest.raises(Refused):
            read_target(target)
        return
    assert access(rules({"preset": preset}), target, method) is expected


@pytest.mark.parametrize(
    "target",
    ["/om/api/v1/users", "/a/b/api/x", "/om/v1/tables", "/om/mcp", "/om/swagger.json", "/API/v1/users", "/om/Mcp/x",
     "/om/%61pi/x", "/swagger.json", "/mcp", "/v1"],
)  # fmt: skip
def test_openmetadatas_preset_opens_no_api_below_an_unknown_base_path(target: str) -> None:
    _check_preset("openmetadata", "GET", target, SHUT)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/om/api/v1/system/version", OPEN),
        ("POST", "/om/api/v1/users/login", OPEN),
        ("GET", "/om/api/v1/tables", SHUT),
        ("GET", "/om", OPEN),
        ("GET", "/om/", OPEN),
        ("GET", "/om/my-data", OPEN),
        ("GET", "/om/x/api/v1/users", SHUT),
        ("GET", "/", SHUT),
        ("GET", "/my-data", SHUT),
        ("GET", "/omx/my-data", SHUT),
        ("GET", "/api/v1/system/version", SHUT),
        ("POST", "/api/v1/users/login", SHUT),
    ],
)
def test_a_base_path_moves_the_whole_preset(method: str, target: str, expected: Access) -> None:
    """The catch-all among it: nothing outside is public."""
    assert access(rules({"preset": "openmetadata", "basePath": "/om/"}), target, method) is expected


def test_datahubs_helpers_stay_the_system_clients_below_a_base_path() -> None:
    moved = rules({"preset": "datahub", "basePath": "/a/b"})
    assert access(moved, "/a/b/health") is OPEN
    assert access(moved, "/health") is SHUT
    for target in ("/a/b/auth/x", "/a/b/auth/x/", "/auth/x", "//a/b/auth/x"):
        (needed,) = moved.requirement_for("POST", read_target(target)).requirements
        assert needed.missing(Actor(ActorType.USER, "alice", provider="corp")) is not None


def test_rules_of_ones_own_do_not_move() -> None:
    both = rules({"path": "/open", "access": "public"}, {"preset": "openmetadata", "basePath": "/om"})
    assert (access(both, "/open"), access(both, "/om/open/api")) == (OPEN, SHUT)


def test_rules_before_a_preset_win() -> None:
    feed = {"path": "/api/v1/push/feed/**", "access": "public"}
    assert access(rules(feed, {"preset": "openmetadata"}), "/api/v1/push/feed/") is OPEN
    assert access(rules({"preset": "openmetadata"}, feed), "/api/v1/push/feed/") is SHUT
    both = rules({"preset": "datahub"}, {"preset": "openmetadata"})
    assert access(both, "/schema-registry/x", "POST") is OPEN
    assert access(both, "/api/v1/users/login", "POST") is OPEN


@pytest.mark.parametrize(
    "entry",
    [{}, {"access": "public"}, *({"preset": "datahub", **more} for more in ({"path": "/x"}, {"preset": "airflow"}))]
    + [{"preset": "datahub", "basePath": path} for path in ("a", "/a/../b", "/a b", "/a//b", "/.", "/a;b", "/%61")]
    + [{"path": "/x", "basePath": "/a"}],
)
def test_entry_is_a_rule_or_a_preset(entry: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RuleSettings.model_validate(entry)


def test_preset_keeps_what_the_user_interface_asks_for_the_system_client() -> None:
    ruling = rules({"preset": "datahub"}).requirement_for("POST", read_target("/auth/verifyNativeUserCredentials"))
    (needed,) = ruling.requirements
    assert needed.missing(Actor(ActorType.USER, "__datahub_system", provider="system")) is None
    missing = needed.missing(Actor(ActorType.USER, "__datahub_system", provider="people", is_admin=True))
    rule = "rules[0] preset datahub /auth/**"
    assert missing == Missing(Cause.RULE_PROVIDER, "the provider system", 'the provider "people"', rule)
