from __future__ import annotations

import platform
from pathlib import Path

import pytest

from data_prep.work import remove_leftovers
from rwtrain.files import atomic_folder, atomic_path


@pytest.mark.parametrize("atomic", [atomic_path, atomic_folder])
def test_the_same_process_number_on_two_hosts_gets_two_temporary_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic) -> None:
    names = set()
    for host in ("node-1.cluster", "node-2.cluster", "odd/../host name", "n" * 300):
        monkeypatch.setattr(platform, "node", lambda host=host: host)
        with atomic(tmp_path / "out") as temporary:
            names.add(temporary.name)
            assert temporary.parent == tmp_path
            target = temporary / "part" if temporary.is_dir() else temporary
            target.write_text(host)
    assert len(names) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers_of_other_hosts_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "elsewhere.cluster")
    for name, atomic in (("file", atomic_path), ("folder", atomic_folder)):
        with atomic(tmp_path / name) as temporary:
            left = temporary.name
            if not temporary.is_dir():
                temporary.write_text("whole")
        (tmp_path / left).write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
