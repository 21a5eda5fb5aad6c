"""``sidecar keys generate``: what it writes and prints can be used as it is."""

import argparse
import json
from pathlib import Path

import pytest
import yaml

from sidecar.cli import keys as command
from sidecar.config.settings import JwtTokenConfiguration
from sidecar.keys.key_files import KeyFileError
from sidecar.keys.signing import SigningKeys


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    options = parser.parse_args(["keys", *arguments])
    code: int = options.run(options)
    return code


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "Ed25519"])
def test_printed_block_works_when_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str) -> None:
    folder = tmp_path / "with: space #1"
    assert run("generate", "--dir", str(folder), "--type", algorithm, "--kid", "my:key#1") == 0
    printed = capsys.readouterr().out
    block = yaml.safe_load(printed)["jwtTokenConfiguration"]
    keys = SigningKeys(JwtTokenConfiguration.model_validate(block))
    assert (keys.signing.kid, keys.signing.algorithm) == ("my:key#1", algorithm)
    assert [entry["kid"] for entry in json.loads(keys.public_key_set()[0])["keys"]] == ["my:key#1"]
    written = sorted(folder.iterdir())
    assert [path.name for path in written] == [
        "private_key.der",
        "private_key.pem",
        "public_key.der",
        "public_key.pem",
    ]
    assert all(str(path) in printed for path in written)
    assert [path.stat().st_mode & 0o777 for path in written] == [0o600, 0o600, 0o644, 0o644]


def test_kid_defaults_to_the_thumbprint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", "--dir", str(tmp_path))
    block = yaml.safe_load(capsys.readouterr().out)["jwtTokenConfiguration"]
    assert block["keyId"] == SigningKeys(JwtTokenConfiguration.model_validate({**block, "keyId": ""})).signing.kid


@pytest.mark.parametrize("name", ["private_key.pem", "public_key.der"])
def test_existing_file_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(KeyFileError, match="nothing was written"):
        run("generate", "--dir", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="--dir"):
        run("generate", "--dir", str(tmp_path / "file" / "keys"))


@pytest.mark.parametrize("kid", ["", "a b", "é", "x" * 129, "a\nb"])
def test_kid_that_cannot_stand_in_a_header_is_a_usage_error(tmp_path: Path, kid: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run("generate", "--dir", str(tmp_path), "--kid", kid)
    assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == []
