"""Figures of gaps and of the memorisation check, against a model and data whose answers are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.apps import writing
from benchmarks.apps.writing import gap_figures, memorisation_figures, stands
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import Tokenizer


@pytest.fixture
def app(tokenizer_file: Path) -> Any:
    """Gives every token a probability of 1/16."""
    return SimpleNamespace(
        tokenizer=Tokenizer(tokenizer_file), token_log_probabilities=lambda rows: [np.full(len(row) - 1, np.log(1 / 16), np.float32) for row in rows]
    )


def test_perplexity_of_gaps(app: Any, paragraphs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def both_sides(_: Any, before: np.ndarray, gap: np.ndarray, after: np.ndarray) -> np.ndarray:
        seen.append(np.concatenate((before, gap, after)).tolist())
        return np.full(len(gap), np.log(1 / 4 if len(gap) == 1 else 1 / 8), np.float32)

    monkeypatch.setattr(writing, "gap_log_probabilities", both_sides)
    found = gap_figures(app, paragraphs[:20], 60)
    sizes = [len(each) - 2 * writing.CONTEXT_TOKENS for each in seen]
    assert found["gaps"] == 60
    assert found["tokens"] == sum(sizes)
    assert set(sizes) == set(range(1, 9))
    assert found["perplexity, left alone"] == pytest.approx(16)
    assert found["perplexity, both sides, gaps of 1 to 1"] == pytest.approx(4)
    assert found["perplexity, both sides, gaps of 5 to 8"] == pytest.approx(8)
    assert found["perplexity, both sides"] == pytest.approx(np.exp(np.log([4 if size == 1 else 8 for size in sizes for _ in range(size)]).mean()))
    texts = [app.tokenizer.encode(text).tolist() for text in paragraphs[:20]]
    assert all(any(piece == text[start : start + len(piece)] for text in texts for start in range(len(text))) for piece in seen[:3])


def test_planted_spans_are_counted(app: Any, datasets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_writing_cost", lambda _: 0.001)
    held_out = ["".join(chr(97 + letter) for letter in np.random.default_rng(0).integers(0, 26, 4000))]
    found = memorisation_figures(app, datasets[0], tmp_path / "memory", held_out, count=8)
    assert found["planted spans"] == found["planted spans found"] == found["planted spans found at exactly their place"] == 8
    assert found["other alarms beside them"] == found["alarms in held-out text"] == found["alarms in the same tokens shuffled"] == 0
    assert found["writing, µs a token"] == pytest.approx(1000)
    known = app.tokenizer.decode(ShardDataset(datasets[0]).tokens(4)[1:-1])
    found = memorisation_figures(app, datasets[0], tmp_path / "memory", [*held_out, known], count=1)
    assert found["alarms in held-out text"] == found["of them true: the tokens stand in the training data"] == 1


def test_tokens_that_stand_in_the_data(datasets: tuple[Path, Path]) -> None:
    dataset = ShardDataset(datasets[0])
    tokens = np.asarray(dataset.tokens(len(dataset) - 1))[3:60]
    assert stands(dataset, tokens)
    assert not stands(dataset, tokens[::-1])
