"""Key sets in files: watched, checked as those from URLs, kept while the file cannot be used."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import Misconfigured
from sidecar.keys.jwks_cache import ProviderKeys
from tests.support.jwks_server import eventually
from tests.support.key_world import A, B, World, kids

LOOK = 5.0


def write(path: Path, *keys: Any) -> None:
    """Put another file in its place, as a mounted Secret changes."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps({"keys": keys}))
    draft.replace(path)


def has_problem(keys: ProviderKeys, text: str) -> bool:
    return text in keys.status().problem


async def of(world: World, path: Path, **settings: Any) -> ProviderKeys:
    return await world.keys(f"file:{path}", **settings)


async def test_keys_are_there_at_once(world: World, tmp_path: Path) -> None:
    """Nothing is asked, and no copy is kept of what is a file already."""
    write(tmp_path / "keys.json", A)
    keys = await of(world, tmp_path / "keys.json", cache_dir=tmp_path / "copies")
    assert kids(keys.candidates("a", "RS256")) == ["a"]
    assert not (tmp_path / "copies").exists()


async def test_changed_file_is_taken_up_and_old_keys_are_withdrawn(world: World, tmp_path: Path) -> None:
    write(tmp_path / "keys.json", A)
    keys = await of(world, tmp_path / "keys.json")
    (a,) = keys.candidates("a", "RS256")
    write(tmp_path / "keys.json", B)
    world.clock.advance(LOOK)
    await eventually(lambda: keys.candidates("b", "RS256"))
    assert not a.live


async def test_unknown_kid_has_the_file_read(world: World, tmp_path: Path) -> None:
    write(tmp_path / "keys.json", A)
    keys = await of(world, tmp_path / "keys.json")
    await eventually(lambda: keys.status().attempted)
    write(tmp_path / "keys.json", A, B)
    assert kids(await keys.refetch("b", "RS256")) == ["b"]


async def test_file_that_cannot_be_used_leaves_the_last_keys_until_they_are_too_old(
    world: World, tmp_path: Path
) -> None:
    """And is taken up again when it can be."""
    path = tmp_path / "keys.json"
    write(path, A)
    keys = await of(world, path, max_stale="5m")
    for content, text in ((None, "cannot be read"), (b"{", "not a JSON document"), (b" " * 600_000, "more than")):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        world.clock.advance(LOOK)
        await eventually(partial(has_problem, keys, text))
        assert kids(keys.candidates("a", "RS256")) == ["a"]
    world.clock.advance(301)
    assert keys.candidates("a", "RS256") == ()
    write(path, A)
    world.clock.advance(LOOK)
    await eventually(lambda: keys.candidates("a", "RS256"))
    assert keys.status().problem == ""


async def test_unchanged_file_is_confirmed_without_being_read(world: World, tmp_path: Path) -> None:
    write(tmp_path / "keys.json", A)
    keys = await of(world, tmp_path / "keys.json", max_stale="5m")
    for _ in range(3):
        world.clock.advance(299)
        await eventually(lambda: keys.status().age == 0)
    assert world.outcomes()["ok"] == 1


def folder(path: Path) -> None:
    path.mkdir()


def absent(_: Path) -> None:
    pass


def empty_set(path: Path) -> None:
    write(path)


def weak(path: Path) -> None:
    write(path, {"kty": "RSA", "kid": "w", "n": "_" * 171, "e": "AQAB"})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (absent, "No such file"),
        (folder, "Is a directory"),
        (os.mkfifo, "no regular file"),
        (empty_set, "no usable key"),
        (weak, "no usable key (1 weak)"),
    ],
)
async def test_file_that_verifies_no_token_is_an_error_of_the_start(
    world: World, tmp_path: Path, make: Any, text: str
) -> None:
    """Also a pipe, without waiting for its writer."""
    make(tmp_path / "keys.json")
    with pytest.raises(Misconfigured) as caught:
        await of(world, tmp_path / "keys.json")
    (problem,) = caught.value.problems
    assert text in str(problem)
    assert str(tmp_path / "keys.json") in str(problem)
