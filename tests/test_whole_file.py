"""A file is whole under its name, or it is the one of before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hrda_core.whole_file import whole_file, write_whole


def test_a_file_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a folder that is not there yet" / "file.bin"
    with whole_file(path) as file:
        file.write(b"a part")
        assert not path.exists()
        file.write(b" and the rest")
    assert path.read_bytes() == b"a part and the rest"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    write_whole(path, b"old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_durable_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file.bin", []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((path.exists(), os.fstat(handle).st_size)))
    write_whole(path, b"1234")
    assert seen == [(False, 4)]
    write_whole(path, b"5678", durable=False)
    assert len(seen) == 1 and path.read_bytes() == b"5678"


def test_others_may_read_it(tmp_path: Path) -> None:
    """As any file that is made with the umask of the process; a temporary file of the system would be its owner's alone."""
    plain = tmp_path / "plain"
    plain.touch()
    write_whole(tmp_path / "whole", b"")
    assert (tmp_path / "whole").stat().st_mode == plain.stat().st_mode
