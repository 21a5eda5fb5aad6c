"""What stands for a placeholder, and that no value ever becomes structure."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.reading.placeholders import Expansion, Opening, Placeholder, mask, tokens
from sidecar.config.reading.source import Document, SourceError
from sidecar.config.reading.tree import Block, Items, plain

VECTORS = json.loads((Path(__file__).parents[3] / "vectors/config/substitution.json").read_text(encoding="utf-8"))
_TEXT = st.text(alphabet=st.sampled_from("${}:-aX \"'[],#&*!|\n"), max_size=40)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["says"] for vector in VECTORS])
def test_openmetadatas_substitution(vector: dict[str, Any]) -> None:
    """Each vector: one scalar of a file, an environment, and what OpenMetadata would have read or why we refuse."""
    tree, problems = Document("f.yaml", f"first: 1\nkey: {vector['yaml']}\n").resolve(vector["env"])
    fatal = [problem for problem in problems if problem.fatal]
    if "problem" in vector:
        assert [problem.line for problem in fatal] == [2]
        assert vector["problem"] in fatal[0].message
        values = [value for value in vector["env"].values() if len(value) > 2]
        assert not any(value in str(fatal[0]) for value in values)
    else:
        assert not fatal
        assert plain(tree.entries["key"]) == vector["gives"]


def test_values_keep_the_line_they_are_written_on() -> None:
    """Markers take no lines away, comments with placeholders neither."""
    tree, _ = Document("f.yaml", "# ${A}\na: ${A:-1}\n\nb:\n  c: '${B:-2}'\n").resolve({"B": "x"})
    assert [str(tree.entries["a"].origin), tree.entries["b"].origin.line] == ["f.yaml:2", 4]
    block = tree.entries["b"]
    assert isinstance(block, Block)
    assert str(block.entries["c"].origin) == "environment B"


@pytest.mark.parametrize("text", ["${X}: 1", "a: {'${X:-k}': 1}", "? [a]\n: 1"])
def test_keys_come_from_the_file_alone(text: str) -> None:
    """A variable cannot choose which setting it sets."""
    tree, problems = Document("f.yaml", text).resolve({"X": "k"})
    assert any(problem.fatal for problem in problems)
    assert "k" not in json.dumps(plain(tree)).replace("key", "")


def test_an_unset_variable_without_default_is_reported() -> None:
    """Text that stays as written is most likely a mistake."""
    _, problems = Document("f.yaml", "a: ${NOPE}").resolve({})
    assert [(p.path, p.fatal, "NOPE" in p.message) for p in problems] == [("a", False, True)]


def test_values_that_name_each_other_cannot_run_away() -> None:
    """Doubling at each of many levels ends in a problem, at once."""
    environ = {f"V{i}": f"${{V{i + 1}}}" * 10 for i in range(19)} | {"V19": ""}
    _, problems = Document("f.yaml", "a: ${V0}").resolve(environ)
    assert "too many" in problems[0].message


@given(_TEXT)
def test_tokens_lose_nothing(text: str) -> None:
    """Whatever is thrown at it, the lexer gives all of the text back, but for escaping dollars."""
    back = ""
    for token in tokens(text):
        match token:
            case str():
                back += token
            case Placeholder():
                back += token.text
            case Opening(escaped):
                back += "$${" if escaped else "${"
    assert back == text


@given(_TEXT, _TEXT)
def test_expansion_never_fails_unexpectedly(text: str, value: str) -> None:
    """Either text or a refusal (a ValueError), for any file text and any value."""
    masked = mask(text)
    for token in masked.table.values():
        if isinstance(token, Placeholder):
            with contextlib.suppress(ValueError):
                assert isinstance(Expansion({"X": value, "a": text}).expand(token), str)


@given(st.text(max_size=60))
def test_no_value_becomes_structure(value: str) -> None:
    """Around any value the file keeps its shape: two keys, and where the value stands a scalar or a flat list."""
    try:
        document = Document("f.yaml", "list: [a, '${X}']\nvalue: ${X}\nflow: {k: ${X}, l: 1}\nlast: end\n")
    except SourceError:
        pytest.fail("the file itself is sound")
    tree, _ = document.resolve({"X": value})
    found: Any = plain(tree)
    assert list(found) == ["list", "value", "flow", "last"]
    assert found["list"] in (["a", value], ["a", None]) or "$" in value
    assert list(found["flow"]) == ["k", "l"]
    assert found["last"] == "end"
    found = found["value"]
    assert found is None or isinstance(found, str) or all(item is None or isinstance(item, str) for item in found)


def test_a_list_from_a_variable_is_one_level() -> None:
    """Items of such a list are scalars whose source is the variable."""
    tree, _ = Document("f.yaml", "a: ${X}").resolve({"X": "[b, 'c d']"})
    node = tree.entries["a"]
    assert isinstance(node, Items)
    assert {str(value.origin) for value in node.values} == {"environment X"}
