"""Route rules: first match wins, whole segments, the stricter of two readings."""

from typing import Any

import pytest

from sidecar.access.paths import Readings, read_target
from sidecar.access.rules import Access, Rules
from sidecar.config.settings import RuleSettings
from sidecar.identity.actor import Actor, ActorType


def rules(*written: dict[str, Any]) -> Rules:
    return Rules(RuleSettings.model_validate(rule) for rule in written)


def access(of: Rules, target: str, method: str = "GET") -> Access:
    return of.ruling(method, read_target(target)).access


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
    ruling = guarded.ruling("GET", read_target(target))
    assert ruling.access is Access.AUTHENTICATED
    assert len(ruling.requirements) == 1


def test_an_encoded_asterisk_in_a_pattern_is_no_wildcard() -> None:
    assert access(rules({"path": "/a/%2A", "access": "public"}), "/a/b") is Access.AUTHENTICATED


def test_requirements_of_both_readings_apply() -> None:
    guarded = rules(
        {"path": "/admin/**", "require": {"groups": ["admins"]}}, {"path": "/x/**", "require": {"roles": ["r"]}}
    )
    assert len(guarded.ruling("GET", Readings("/x//admin", ("/admin",))).requirements) == 2
    assert len(guarded.ruling("GET", read_target("//admin/x")).requirements) == 1
    assert guarded.can_require


def test_requirement_names_what_is_missing() -> None:
    (requirement,) = (
        rules({"path": "/a", "require": {"groups": ["g"], "actorTypes": ["USER"]}})
        .ruling("GET", Readings("/a"))
        .requirements
    )
    assert requirement.missing(Actor(ActorType.USER, "u", groups=("g", "h"))) == ""
    assert requirement.missing(Actor(ActorType.USER, "u", groups=("h",))) == "groups"
    assert requirement.missing(Actor(ActorType.SERVICE, "u", groups=("g",))) == "actor type"
    (admin,) = rules({"path": "/a", "require": {"admin": True}}).ruling("GET", Readings("/a")).requirements
    assert admin.missing(Actor(ActorType.USER, "u")) == "admin"
    assert admin.missing(Actor(ActorType.USER, "u", is_admin=True)) == ""
