from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.tokenizer_command import configure  # noqa: F401
from data_prep.tokenizer_training import train_tokenizer
from rwtrain.cli import main
from rwtrain.data.tokenizer import SPECIAL_PIECES, Tokenizer
from rwtrain.errors import RWTrainError
from tests.data_prep.builders import prose

TEXTS = [prose(number) for number in range(30)]


def test_tokenizer_loses_no_byte(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_tokenizer(TEXTS, vocab_size=400))
    tokenizer = Tokenizer(tmp_path)
    for text in (TEXTS[0], "  two  spaces\n\n\ttab", "Ünïcode 日本 😀\u0000end", "a\r\nb \u00a0c"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.byte_ends(ids)[-1] == len(text.encode())
    assert [tokenizer.processor.id_to_piece(index) for index in range(6)] == list(SPECIAL_PIECES.values())


def test_same_text_gives_the_same_model() -> None:
    assert train_tokenizer(TEXTS, vocab_size=350) == train_tokenizer(iter(TEXTS), vocab_size=350)


def test_small_text_gets_a_smaller_vocabulary_with_a_warning(tmp_path: Path, capsys) -> None:
    (tmp_path / "tokenizer.model").write_bytes(train_tokenizer(["hello hello world"], vocab_size=4096))
    assert 262 < Tokenizer(tmp_path).vocab_size < 300
    assert "too small for 4096 pieces" in capsys.readouterr().err


def test_no_text_is_refused() -> None:
    with pytest.raises(RWTrainError, match="no text to train"):
        train_tokenizer([], vocab_size=400)


def test_command_trains_and_shows(tmp_path: Path, capsys) -> None:
    (tmp_path / "text.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    assert main(["tokenizer", "train", str(tmp_path / "text.txt"), "--out", str(tmp_path / "out"), "--vocab-size", "380"]) == 0
    assert main(["tokenizer", "show", str(tmp_path / "out"), "--text", "the lamp"]) == 0
    assert "380 pieces" in capsys.readouterr().out
    (tmp_path / "bad.txt").write_bytes(b"ok\xff")
    assert main(["tokenizer", "train", str(tmp_path / "bad.txt"), "--out", str(tmp_path / "out2")]) == 2
    assert "bad.txt: invalid UTF-8 at byte 2" in capsys.readouterr().err
