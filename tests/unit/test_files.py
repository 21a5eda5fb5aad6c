"""Changes of watched files are detected, in each way in which files are replaced."""

import os
from pathlib import Path

import pytest

from sidecar.files import FileWatcher


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_text("one")
    return path


@pytest.fixture
def watcher(tmp_path: Path, file: Path) -> FileWatcher:
    return FileWatcher(lambda: [file, *tmp_path.glob("*.pem")])


def test_unchanged_files_are_not_reported(watcher: FileWatcher, file: Path) -> None:
    assert not watcher.changed()
    file.read_text()
    assert not watcher.changed()


def test_a_written_file_is_reported_until_it_is_accepted(watcher: FileWatcher, file: Path) -> None:
    file.write_text("longer")
    assert watcher.changed()
    assert watcher.changed(), "only mark accepts a change"
    watcher.mark()
    assert not watcher.changed()


def test_a_file_with_the_same_size_and_time_that_was_replaced_is_reported(watcher: FileWatcher, file: Path) -> None:
    """``mv`` of a prepared file, with its time set as that of the old one."""
    facts = file.stat()
    other = file.with_name("b")
    other.write_text("two")
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(file)
    assert watcher.changed()


def test_another_target_of_a_symbolic_link_is_reported(tmp_path: Path) -> None:
    """Kubernetes replaces the link ``..data`` when a Secret changes."""
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text("one")
    data = tmp_path / "data"
    data.symlink_to("1")
    watcher = FileWatcher(lambda: [data / "key"])
    new = tmp_path / "new"
    new.symlink_to("2")
    new.replace(data)
    assert watcher.changed()


def test_added_and_removed_files_are_reported(watcher: FileWatcher, file: Path, tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_text("")
    assert watcher.changed()
    watcher.mark()
    file.unlink()
    assert watcher.changed()
    watcher.mark()
    assert not watcher.changed(), "a missing file is a state"
