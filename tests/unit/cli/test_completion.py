"""Completion scripts: the shells accept them, and complete commands, options, values and files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.cli.completion import SHELLS
from sidecar.cli.main import COMMANDS, main

# Completes the words after the script's path as bash does when the user presses the tabulator key.
_BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_shtab_sidecar sidecar "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", shell]) == 0
    path = folder / shell
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sidecar revo", {"revocations"}),
        ("sidecar ", set(COMMANDS)),
        ("sidecar keys ro", {"rotate"}),
        ("sidecar token create --ki", {"--kind"}),
        ("sidecar completion ", set(SHELLS)),
        ("sidecar check --config sid", {"sidecar.yaml"}),
        ("sidecar keys generate --dir fol", {"folder"}),
    ],
)
def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, expected: set[str]) -> None:
    written = script("bash", tmp_path, capsys)
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (work / "sidecar.yaml").touch()
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", _BASH, "bash", written, *line.split(" ")],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (set(done.stdout.split()), done.stderr) == (expected, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_accepts_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str], shell: str) -> None:
    written = script(shell, tmp_path, capsys)
    text = written.read_text(encoding="utf-8")
    assert all(command in text for command in COMMANDS)
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([program, "-n", written], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_missing_extra_is_an_error_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "pip install 'auth-sidecar[completion]'" in shown.err


def test_unknown_shell_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err
