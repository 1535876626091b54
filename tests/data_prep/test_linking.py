from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_prep import linking
from data_prep.linking import linker_hash, token_spans


def mention(start: int, end: int, entity: int = 7) -> SimpleNamespace:
    return SimpleNamespace(start=start, end=end, entity=entity, score=1.0)


# Tokens of "Ada Löwe lives": [Ada][ L][öwe][ li][ves]; ö is two bytes.
TEXT = "Ada Löwe lives"
BYTE_ENDS = np.array([3, 5, 9, 12, 15])


@pytest.mark.parametrize(
    ("mentions", "expected"),
    [
        ([mention(0, 3)], ([0], [1], [7])),
        ([mention(4, 8)], ([1], [3], [7])),
        ([mention(5, 8)], ([2], [3], [7])),
        ([mention(9, 11)], ([3], [4], [7])),  # begins after the space of its token
        ([mention(10, 13)], ([3], [5], [7])),  # splits tokens at both ends
        ([mention(0, 14)], ([0], [5], [7])),
        ([mention(4, 6, 1), mention(6, 8, 2)], ([1], [3], [1])),  # overlap after widening: the later goes
        ([mention(9, 14, 2), mention(0, 3, 1)], ([0, 3], [1, 5], [1, 2])),
        ([], ([], [], [])),
    ],
)
def test_mentions_become_whole_tokens(mentions, expected) -> None:
    assert token_spans(TEXT, mentions, BYTE_ENDS) == expected


def test_a_change_of_the_linker_or_of_its_code_changes_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linker.json").write_text("{}")
    (tmp_path / "linker.safetensors").write_bytes(b"names")
    before = linker_hash(str(tmp_path))
    assert linker_hash(str(tmp_path)) == before
    (tmp_path / "linker.safetensors").write_bytes(b"Names")
    changed = linker_hash(str(tmp_path))
    assert changed != before
    code = tmp_path / "code" / "rwtrain" / "model"
    code.mkdir(parents=True)
    original = Path(linking.__file__).parents[1] / "rwtrain" / "model" / "linking_refinedweb.py"
    (code / "linking_refinedweb.py").write_text(original.read_text() + "# one more line\n")
    monkeypatch.setattr(linking, "__file__", str(tmp_path / "code" / "data_prep" / "linking.py"))
    assert linker_hash(str(tmp_path)) != changed
