"""YAML in: text stays text, and what is not plain data is refused where it stands."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.reading.source import Document, SourceError, read
from sidecar.config.reading.tree import plain


def resolve(text: str) -> tuple[object, list[str]]:
    tree, problems = Document("f.yaml", text).resolve({})
    return plain(tree), [str(problem) for problem in problems]


def test_scalars_are_not_retyped() -> None:
    """Only nothing and the null words are null."""
    text = "a: 0123\nb: 1:30\nc: no\nd: 2024-01-01\ne: 1e3\nf: true\ng:\nh: ~\ni: null\nj: 'null'\nk: ''\n"
    assert resolve(text)[0] == {
        "a": "0123", "b": "1:30", "c": "no", "d": "2024-01-01", "e": "1e3", "f": "true",
        "g": None, "h": None, "i": None, "j": "null", "k": "",
    }  # fmt: skip


def test_a_blank_before_the_colon_is_fine() -> None:
    """OpenMetadata's own file writes ``enableSelfSignup :``."""
    assert resolve("enableSelfSignup : true")[0] == {"enableSelfSignup": "true"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "f.yaml:4: b.c: is a duplicate of line 3; keep one"),
        ("a: !!int 1", "f.yaml:1: a: has a YAML tag; tags are not supported, write plain values"),
        (
            "a: !!python/object/apply:os.system [id]",
            "f.yaml:1: a: has a YAML tag; tags are not supported, write plain values",
        ),
        ("a: ! b", "f.yaml:1: a: has a YAML tag; tags are not supported, write plain values"),
        ("a: &x [*x]", "f.yaml:1: a[0]: is an alias without an anchor, or of itself"),
        ("a: *x", "f.yaml:1: a: is an alias without an anchor, or of itself"),
        ("b: &b {c: 1}\na:\n  <<: *b\n", "f.yaml:3: a: has a merge key (<<); write the keys out"),
        ("- a", "f.yaml:1: must be a mapping of section names, such as server: or upstream:"),
    ],
)
def test_what_is_not_plain_data_is_refused_in_its_place(text: str, problem: str) -> None:
    """Every problem names file, line and path."""
    assert resolve(text)[1] == [problem]


def test_aliases_may_be_used_but_not_to_blow_up() -> None:
    """Reuse is fine; a bomb of a few lines is one problem, quickly."""
    assert resolve("a: &x [1]\nb: *x")[0] == {"a": ["1"], "b": ["1"]}
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    problems = resolve("\n".join(lines))[1]
    assert len(problems) == 1
    assert "aliases make the file too large" in problems[0]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: [1\nb: 2", 2, "is not YAML"),
        ("a: [1", 1, "never closed"),
        ('a: "1', 1, "never closed"),
        ("a: 1\n b: 2", 2, "indented too deep"),
        ("a:\n  b: 1\n c: 2", 3, "the indentation of this line differs"),
        ("a:\n\tb: 1", 2, "indent with spaces"),
        ("a:\n  b\n  c: 1", 3, "no colon|second colon"),
        ("a: 1\n---\nb: 2", 2, "more than one YAML document"),
        ("a: 1\nb: \x07", 2, "control character"),
        ("a: " + "[" * 60 + "]" * 60, 1, "nested too deeply"),
        ("a: @x", 1, "put it in quotes"),
        ("a: `x`", 1, "put it in quotes"),
        ("a: *", 1, "put the value in quotes"),
        ("[section]\na=1\n", 2, "no name: value"),
    ],
)
def test_unreadable_text_names_its_line(text: str, line: int, says: str) -> None:
    """Syntax errors are ours, with a line."""
    with pytest.raises(SourceError, match=says) as caught:
        Document("f.yaml", text)
    assert caught.value.line == line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8, too large: one sentence each."""
    (tmp_path / "latin").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "utf-16").write_bytes("a: 1\n".encode("utf-16"))
    (tmp_path / "large").write_bytes(b"#" * (2 << 20))
    for name, says in (
        ("none", "No such file"),
        ("", "Is a directory"),
        ("latin", "Latin-1"),
        ("utf-16", "UTF-16"),
        ("large", "too large"),
    ):
        with pytest.raises(SourceError, match=says):
            read(str(tmp_path / name))


def test_an_empty_file_is_an_empty_configuration() -> None:
    """Nothing, and nothing but comments, are fine."""
    assert resolve("") == ({}, [])
    assert resolve("# only\n# comments ${X}\n") == ({}, [])


@given(st.text(alphabet=st.sampled_from("ab:- \n[]{},'\"#&*!|>?%@`~<${}\t0"), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No other exception than ours, whatever the file holds."""
    with contextlib.suppress(SourceError):
        Document("f.yaml", text).resolve({"a": text})


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfserver: {prefix: /o}\n",
        b"server:\r\n  prefix: /o\r\n",
        b"server:\r  prefix: /o\r",
        b"---\nserver: {prefix: /o}\n...\n",
        b"%YAML 1.2\n---\nserver: {prefix: /o}\n",
        b'{"server": {"prefix": "/o"}}',
        b"# &a\nserver: &a {prefix: /o}\n",
    ],
    ids=["bom", "crlf", "cr", "marks", "directive", "json", "anchor"],
)
def test_a_file_is_read_as_editors_and_tools_write_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    assert plain(read(str(tmp_path / "c.yaml")).resolve({})[0]) == {"server": {"prefix": "/o"}}


@pytest.mark.parametrize("quote", ["\u201c/o\u201d", "\u201e/o\u201c", "\u2018/o\u2019", "\u00ab/o\u00bb"])
def test_a_typographic_quote_is_an_error_of_its_line(quote: str) -> None:
    """Word processors put them in; to YAML they are part of the value."""
    assert resolve(f"a: 1\nserver: {{prefix: {quote}}}\n")[1] == [
        f"f.yaml:2: server.prefix: begins with the typographic quote {quote[0]}; write a straight one"
    ]
    assert not resolve(f"a: '{quote}'\n")[1]
