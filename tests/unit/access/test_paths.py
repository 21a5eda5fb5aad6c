"""Rules apply to every path that an upstream might read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.access.paths import Normalizations, read_target
from sidecar.errors import Cause, Refused


@pytest.mark.parametrize(
    "target",
    [
        "/a/./b", "/a/../b", "/..", "/.", "/a/..", "/%2e%2e/b", "/%2E./b", "/.%2e/b", "/a/%2e", "/a%2f..%2fb",
        "/a/..;/b", "/a/..;x=1/b", "/%2e%2e;x/b", "/a/.%2f./b/..", "/a//../b", "/a%5c..%5cb", "/a\\b", "/a\\..\\b",
        "/a%00b", "/a\x00b", "/a\x01b", "/a b", "/a\x7f", "/a#b", "/#", "/a%", "/a%2", "/a%zz", "/%c0%ae%c0%ae/b",
        "/%c0%afb", "/a/é", "", "*", "a/b", "http://h/a", "//../a", "?x=/a", "/a/;/../b", "/..%3Bx/b",
    ],
)  # fmt: skip
def test_what_must_not_reach_a_rule_is_refused(target: str) -> None:
    """Dot segments in every disguise, control bytes, backslash, fragments, broken escapes and odd forms: 400."""
    with pytest.raises(Refused) as refusal:
        read_target(target)
    assert (refusal.value.status, refusal.value.cause) == (400, Cause.PATH_AMBIGUOUS)


@pytest.mark.parametrize(
    ("target", "readings"),
    [
        ("/", Normalizations("/")),
        ("/api/v1/tables", Normalizations("/api/v1/tables")),
        ("/api/v1/tables/", Normalizations("/api/v1/tables/")),
        ("/a?x=/../b%2f", Normalizations("/a")),
        ("/.well-known/x", Normalizations("/.well-known/x")),
        ("/a..b/...", Normalizations("/a..b/...")),
        ("/%61%7E%2D", Normalizations("/a~-")),
        ("/urn%3Ali%3a%28x%29/%40me/%2a", Normalizations("/urn:li:(x)/@me/%2A")),
        (
            "/name/a%2Fb%20c%2541%C3%A9",
            Normalizations("/name/a%2Fb%20c%2541%C3%A9", ("/name/a/b%20c%2541%C3%A9",)),
        ),
        ("//x", Normalizations("//x", ("/x",))),
        ("/a//b///c", Normalizations("/a//b///c", ("/a/b/c",))),
        ("/a;v=1/b;w", Normalizations("/a;v=1/b;w", ("/a/b",))),
        ("/a%3bv/b", Normalizations("/a%3Bv/b", ("/a;v/b", "/a/b"))),
        ("/a%5Cb", Normalizations("/a%5Cb", ("/a/b",))),
    ],
)
def test_readings(target: str, readings: Normalizations) -> None:
    """What may stand in a segment as it is, is decoded; slashes, parameters and encoded slashes give more readings."""
    assert read_target(target) == readings


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/adm;%2fx", "/adm"),  # parameters are dropped before escapes are read: Jetty, Tomcat
        ("/adm;%2fx", "/adm/x"),  # or after
        ("//names/a%2fb", "/names/a%2Fb"),  # slashes are merged, an encoded one is not read
        ("/names;v/a%2fb", "/names/a%2Fb"),
        ("/names%2fa%5cb", "/names/a%5Cb"),
        ("/names;v/%3bb", "/names/%3Bb"),  # an encoded semicolon begins no parameters
        ("//names;v/a%2fb%5cc", "/names/a/b/c"),
    ],
)
def test_a_service_that_reads_some_of_it_is_thought_of(target: str, seen: str) -> None:
    """Services differ in what they undo, and in which order: whatever one may see is a reading."""
    assert seen in read_target(target).others


@given(st.text(alphabet=st.sampled_from("/.%2eEfF5cC;\\#?ab0 \x00é"), max_size=40))
def test_no_reading_has_a_dot_segment(target: str) -> None:
    """Whatever is sent: refused, or no reading climbs, and nothing else is ever raised."""
    try:
        readings = read_target(target)
    except Refused:
        return
    for reading in (readings.strict, *readings.others):
        assert reading.startswith("/")
        assert not {".", ".."} & set(reading.split("/"))
        assert "\\" not in reading


def test_long_plain_paths_are_read_in_linear_time() -> None:
    """A path made to confuse a backtracking pattern costs no more than another."""
    with pytest.raises(Refused):
        read_target("/" + "a" * 15_000 + "\\")


def test_long_paths_have_few_readings() -> None:
    """Every reading takes time from other requests; a name with encoded slashes has two, however long."""
    assert len(read_target("/a" + "%2F" * 4_000).others) == 2
    assert len(read_target("/a;%3B%2F%5C//").others) > 8
    with pytest.raises(Refused):
        read_target("/a;%3B%2F%5C//" * 1_000)
