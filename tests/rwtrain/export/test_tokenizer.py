"""The fast tokenizer against sentencepiece itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rwtrain.errors import DataError
from rwtrain.export.tokenizer import build_fast_tokenizer, write_fast_tokenizer

SCRIPTS = st.characters(codec="utf-8", exclude_categories=["Cs"])
WITH_MARKS = st.lists(
    st.one_of(st.sampled_from(["<s>", "</s>", "<image>", "<mask>", "<unk>", "<0x0A>", "▁", "  ", "\n", "the "]), st.text(SCRIPTS, max_size=8))
).map("".join)


@pytest.fixture(scope="module")
def loaded(tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("fast")
    write_fast_tokenizer(tokenizer_file, folder, max_length=100)
    return AutoTokenizer.from_pretrained(folder)


def test_ids_of_real_text(tokenizer_file: Path, loaded: PreTrainedTokenizerBase, paragraphs: list[str]) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
    for text in paragraphs:
        ids = loaded(text)["input_ids"]
        assert ids == [1, *reference.encode(text)]
        assert loaded.decode(ids, skip_special_tokens=True) == text


@settings(max_examples=300, deadline=None)
@given(text=WITH_MARKS)
def test_ids_of_any_text(tokenizer_file: Path, text: str) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_file))
    fast = build_fast_tokenizer(tokenizer_file)
    ids = fast.encode(text, add_special_tokens=False).ids
    assert ids == reference.encode(text)
    assert fast.decode(ids) == reference.decode(ids)


def test_special_tokens_of_the_loaded_tokenizer(loaded: PreTrainedTokenizerBase) -> None:
    names = ("unk_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "image_token_id")
    assert [getattr(loaded, name) for name in names] == [0, 1, 2, 3, 4, 5]
    assert loaded("")["input_ids"] == [1]
    assert 2 not in loaded("text </s>")["input_ids"]
    batch = loaded(["a", "a longer text"], padding=True)
    assert batch["input_ids"][0][0] == 3
    assert loaded("word " * 500, truncation=True)["input_ids"].__len__() == 100


def test_tokenizer_that_changes_text_is_refused(tmp_path: Path, paragraphs: list[str]) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(paragraphs[:50]), model_prefix=str(tmp_path / "m"), vocab_size=400, model_type="bpe", minloglevel=2
    )
    with pytest.raises(DataError, match="normalises text"):
        build_fast_tokenizer(tmp_path / "m.model")
