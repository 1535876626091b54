from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.fast_encode import COARSE, FINE, FastEncoder, _encode_known, _fine_classes, part_pattern
from data_prep.tokenizer_training import train_tokenizer
from data_prep.words import code_points
from rwtrain.data.tokenizer import Tokenizer
from tests.data_prep.builders import prose


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(train_tokenizer([prose(number) for number in range(20)] + ["naïve café — “so” 12,345"] * 9, vocab_size=450))
    return Tokenizer(folder)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from(" \n\t the lamp of and\u2581<s>é日12.,"), st.characters(codec="utf-8"))))
def test_ids_are_those_of_sentencepiece(tokenizer: Tokenizer, text: str) -> None:
    assert FastEncoder(tokenizer).encode(text).tolist() == tokenizer.processor.encode(text)


def test_real_text_has_the_same_ids_and_forgets_nothing(tokenizer: Tokenizer, monkeypatch) -> None:
    monkeypatch.setattr("data_prep.fast_encode.SLOTS", 64)
    encoder = FastEncoder(tokenizer)
    assert encoder.part is FINE
    for number in range(40):
        text = prose(number) + "\n\n  " + prose(number + 1)
        assert encoder.encode(text).tolist() == tokenizer.processor.encode(text)


@pytest.mark.parametrize("change", [{"model_type": "unigram"}, {"split_by_whitespace": False}, {"add_dummy_prefix": True}, {"user_defined_symbols": ["a b"]}])
def test_models_that_merge_across_words_are_left_to_sentencepiece(change) -> None:
    options = {"model_type": "bpe", "normalization_rule_name": "identity", "add_dummy_prefix": False, "remove_extra_whitespaces": False, "byte_fallback": True}
    model = io.BytesIO()
    lines = [prose(number) for number in range(20)]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=380, minloglevel=2, **(options | change))
    assert part_pattern(model.getvalue()) is None


def test_kinds_are_those_of_the_pattern() -> None:
    text = "a  b\n\n c_d 12²x — 日本語\t\u0301e\u00a0f "
    serialized = train_tokenizer([prose(number) for number in range(20)], vocab_size=320)
    assert part_pattern(serialized) is FINE
    classes, codes = _fine_classes(), code_points(text)
    parts, position = [], 0
    while position < len(text):  # with nothing remembered, every call gives the next part
        _, position, end, _ = _encode_known(
            codes, position, classes, np.zeros(4, np.uint64), np.zeros((4, 2), np.int32), np.zeros(1, np.int32), np.zeros(99, np.int32), 0
        )
        parts.append(text[position:end])
        position = end
    assert parts == FINE.findall(text)


def test_words_with_marks_are_cut_coarsely() -> None:
    serialized = train_tokenizer(["नमस्ते दुनिया यह एक परीक्षा है"] * 50, vocab_size=320)
    assert part_pattern(serialized) is COARSE
