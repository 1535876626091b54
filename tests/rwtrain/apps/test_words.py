"""Words of training data: those that stand there often enough, and are no names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from rwtrain.apps.model import AppModel
from rwtrain.apps.rewriting import Costs
from rwtrain.apps.words import count_words, read_words
from rwtrain.cli import main
from rwtrain.errors import ConfigError, DataError


def test_words_are_those_of_the_texts(app: AppModel, datasets: tuple[Path, Path], paragraphs: list[str]) -> None:
    found = set(count_words(app, datasets[0], least=3))
    counts = Counter(word for text in paragraphs for word in re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)?", text))
    common = [word for word, _ in counts.most_common(200) if word.islower()]
    assert set(common) <= found
    assert all(counts[word] >= 3 for word in found)
    names = [word for word, count in counts.items() if word.istitle() and count >= 3 and counts[word.lower()] * 20 < count]
    assert names
    assert not found & {name.lower() for name in names}
    with pytest.raises(ConfigError, match="--least"):
        count_words(app, datasets[0], least=1_000_000)


def test_a_list_is_written_read_and_used(app: AppModel, datasets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "words.txt"
    main(["write", "words", str(datasets[0]), "--model", str(app.folder), "--out", str(file)])
    assert read_words(file) == set(count_words(app, datasets[0]))
    capsys.readouterr()
    main(["write", "correct", "this is it", "--model", str(app.folder), "--words", str(file)])
    assert capsys.readouterr().out.strip()
    never = [word for kind in Costs.__dataclass_fields__ for word in ("--cost", f"{kind}=inf")]
    main(["write", "correct", "tihs is it", "--model", str(app.folder), "--words", str(file), *never])
    assert capsys.readouterr().out.strip() == "tihs is it"
    with pytest.raises(SystemExit):
        main(["write", "correct", "x", "--model", str(app.folder), "--cost", "speling=1"])
    assert "speling" in capsys.readouterr().err
    (tmp_path / "empty").write_text("\n")
    for path in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(DataError, match="one word a line"):
            read_words(path)
