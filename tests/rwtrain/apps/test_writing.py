"""Writing: the stream is what the model says, settings do what they say, repeated training text is named, gaps are filled."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from rwtrain.apps.answering import WritingReader
from rwtrain.apps.infilling import fill, gap_log_probabilities
from rwtrain.apps.memorisation import SPAN_TOKENS, MemorisationIndex, build_index
from rwtrain.apps.model import AppModel, cache_of
from rwtrain.apps.passages import Passage
from rwtrain.apps.writing import Sampling, write, write_tokens
from rwtrain.data.tokenizer import BOS_ID, MASK_ID
from rwtrain.errors import ConfigError
from rwtrain.model.processing_refinedweb import RefinedWebProcessor

PROMPT = "In the beginning entity 3 was"


def text_of(app: AppModel, sampling: Sampling, **options: object) -> str:
    return "".join(piece.text for piece in write(app, PROMPT, sampling, **options))


def test_greedy_writing_equals_generate(app: AppModel, processor: RefinedWebProcessor) -> None:
    inputs = processor(text=[PROMPT], link=True, mode="causal")
    expected = app.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    found = list(write_tokens(app, PROMPT, Sampling(max_new_tokens=12, temperature=0, repetition_penalty=1)))
    assert found == expected[: len(found)]
    assert len(found) >= 5


def test_the_cache_is_read_under_its_present_name(app: AppModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with warnings.catch_warnings(action="error"):
        assert len(list(write_tokens(app, PROMPT, Sampling(max_new_tokens=3, seed=1)))) == 3
        assert WritingReader(app).read("Who was born in London?", Passage(0, "The king was born in London.", "", "a", 0, 28)).end
    assert caplog.text == ""
    for name in ("cache", "past_key_values"):
        monkeypatch.setattr("rwtrain.apps.model.CACHE", name)
        assert cache_of(ModelOutput({name: (output := object())})) is output


def test_same_seed_same_text_whatever_the_global_generator(app: AppModel) -> None:
    sampling = Sampling(max_new_tokens=15, seed=5)
    torch.manual_seed(1)
    first = text_of(app, sampling)
    torch.manual_seed(2)
    assert text_of(app, sampling) == first
    assert text_of(app, Sampling(max_new_tokens=15, seed=6)) != first


def test_stop_text_is_not_shown(app: AppModel) -> None:
    whole = text_of(app, Sampling(max_new_tokens=20, seed=1))
    stop = whole[10:13]
    pieces = list(write(app, PROMPT, Sampling(max_new_tokens=20, seed=1, stop=(stop,))))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finished == "stop"


def test_long_writing_goes_on_past_the_row_length(app: AppModel) -> None:
    tokens = list(write_tokens(app, PROMPT * 30, Sampling(max_new_tokens=app.max_tokens + 20, temperature=2.0, top_k=0, top_p=1.0)))
    assert len(tokens) > app.max_tokens


def test_training_text_is_warned_about(app: AppModel, datasets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_index(datasets[0], tmp_path / "index")
    index = MemorisationIndex.open(tmp_path / "index", tokenizer_hash=app.tokenizer.hash)
    from rwtrain.data.shards import ShardDataset

    planted = np.asarray(ShardDataset(datasets[0]).tokens(2))[1 : SPAN_TOKENS + 6].tolist()
    monkeypatch.setattr("rwtrain.apps.writing.write_tokens", lambda *_, **__: iter(planted))
    pieces = list(write(app, PROMPT, Sampling(max_new_tokens=200), memorised=index))
    assert sum(bool(piece.warning) for piece in pieces) == 6
    monkeypatch.setattr("rwtrain.apps.writing.write_tokens", lambda *_, **__: iter(planted[::-1]))
    assert not any(piece.warning for piece in write(app, PROMPT, Sampling(max_new_tokens=200), memorised=index))


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}, {"repetition_penalty": 9.0}, {"seed": 2**63}])
def test_impossible_settings(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_gap_probabilities_equal_one_masked_pass_for_one_token(app: AppModel) -> None:
    before, gap, after = (app.tokenizer.encode(part) for part in ("The history of", " a", " people is long"))
    gap = gap[:1]
    row = torch.tensor([[BOS_ID, *before, MASK_ID, *after]])
    logits = app.model(input_ids=row, block_sequence_ids=torch.zeros_like(row)).logits[0, len(before)].double()
    assert gap_log_probabilities(app, before, gap, after)[0] == pytest.approx(float(logits.log_softmax(-1)[gap[0]].detach()), abs=1e-4)


def test_fillings_are_sorted_and_of_every_length(app: AppModel) -> None:
    found = fill(app, "The king of", "was born in London.", max_tokens=4)
    assert [filling.score for filling in found] == sorted((filling.score for filling in found), reverse=True)
    assert {filling.tokens for filling in found} <= {1, 2, 3, 4}
    assert len(found) >= 2
