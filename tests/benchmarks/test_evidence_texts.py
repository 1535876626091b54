"""The parts of the text evidence runs that decide what is compared: splits, hidden mentions, shuffling, views, the ranking loss."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.evidence.fewrel import Sentence, Span, held_out, split_sentences
from benchmarks.evidence.knowledge import openness, place_sentence, shuffled
from benchmarks.evidence.similarity import COSENT_SCALE, cosent, view
from benchmarks.evidence.texts import mean_loss, rows_of, wikitext_articles, word_count, write_shards
from rwtrain.config.schema import BatchConfig
from rwtrain.data.recipe import BatchBuilder, Recipe
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, MASK_ID, Tokenizer


def test_wikitext_articles(tmp_path: Path) -> None:
    text = " \n = First = \n \n Some <unk> text . \n = = Part = = \n More . \n \n = Second one = \n \n Its text . \n"
    (tmp_path / "wikitext2").mkdir()
    with gzip.open(tmp_path / "wikitext2" / "test.txt.gz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    first, second = wikitext_articles(tmp_path, "test")
    assert first.startswith(" = First = \n")
    assert first.endswith(" More . \n \n")
    assert second == " = Second one = \n \n Its text . \n"
    assert word_count([second]) == 4 + 3 + 3, "words and line ends"


def test_shards_and_loss_of_rows(tmp_path: Path, tokenizer_file: Path) -> None:
    tokenizer = Tokenizer(tokenizer_file)
    texts = ["The moon is far away.", "A second text about the sun."]
    shards = write_shards(tmp_path / "shards", texts, tokenizer, mentions=[[SimpleNamespace(start=4, end=8, entity=7)], []], store_hash="x")
    starts, ends, entities = shards.mentions(0)
    assert tokenizer.decode(shards.tokens(0)[starts[0] : ends[0]]).strip() == "moon"
    assert entities.tolist() == [7]
    rows = rows_of(shards, 4)
    assert rows.flatten().tolist() == np.concatenate([shards.tokens(0), shards.tokens(1)])[: rows.numel()].tolist()

    class Uniform(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm_head = torch.nn.Linear(2, 10)
            torch.nn.init.zeros_(self.lm_head.weight)
            torch.nn.init.zeros_(self.lm_head.bias)

        @staticmethod
        def model(input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 2))

    assert mean_loss(Uniform(), rows % 10, batch=2) == pytest.approx(math.log(10))


def test_entities_of_the_unseen_test_are_not_in_training() -> None:
    store = SimpleNamespace(external_id=lambda row: f"Q{row}")
    draw = np.random.default_rng(0)
    sentences = []
    for number in range(400):
        given, found = draw.integers(60, size=2)
        spans = [Span(0, 3, int(given), True)] if number % 4 else []
        sentences.append(Sentence(f"sentence {number}", "sport", [*spans, Span(4, 7, int(found), False)]))
    splits = split_sentences(sentences, store)  # type: ignore[arg-type]
    trained = {span.entity for sentence in splits["train"] for span in sentence.spans}
    tested = {span.entity for sentence in splits["unseen"] for span in sentence.spans if span.given}
    assert tested
    assert all(held_out(store, entity) for entity in tested)  # type: ignore[arg-type]
    assert not any(held_out(store, entity) for entity in trained)  # type: ignore[arg-type]
    assert all(not held_out(store, span.entity) for sentence in splits["seen"] for span in sentence.spans if span.given)  # type: ignore[arg-type]


def test_hidden_mention(datasets: tuple[Path, Path]) -> None:
    from rwtrain.data.shards import ShardDataset

    dataset = ShardDataset(datasets[0])
    document = next(index for index in range(len(dataset)) if len(dataset.mentions(index)[0]) > 2 and len(dataset.tokens(index)) < 200)
    config = BatchConfig(seq_len=256, text_rows=0, masked_rows=1, mentions_per_row=32, queries_per_row=2)
    builder = BatchBuilder(Recipe(config, 0, 1, 0, 0, image_tokens=0, entity_dim=4), 0)
    place_sentence(builder, 0, dataset, document, hidden=1, pool=0)
    tokens, (starts, ends, entities) = np.asarray(dataset.tokens(document)), dataset.mentions(document)
    hidden = np.arange(starts[1], ends[1])
    assert (builder.input_ids[0, hidden] == MASK_ID).all()
    assert builder.labels[0, hidden].tolist() == tokens[hidden].tolist()
    assert (builder.pool_ids[0] == 0).sum() == len(tokens)
    assert (builder.labels[0] != -100).sum() == len(hidden)
    assert (builder.query_positions[0, 0], builder.query_rows[0, 0]) == (ends[1] - 1, entities[1])
    places = builder.entity_positions[0][builder.entity_positions[0] >= 0]
    assert not set(places) & set(hidden), "no vector enters at the hidden mention"
    assert starts[0] in places, "the others' vectors do"


def test_shuffled_vectors_are_others() -> None:
    vectors = np.arange(50, dtype=np.float32)[:, None].repeat(3, 1)
    found = shuffled(vectors, 1)
    assert (found != vectors).all()
    assert sorted(found[:, 0]) == sorted(vectors[:, 0])


def test_openness_by_frequency() -> None:
    found = openness([(0, [0.1, 0.2]), (1, [0.3, 0.4]), (4, [0.5, 0.6]), (2, [0.7, 0.8])], [1, 3])
    assert found == {"layer 1": [[0, 0.1], [1, 0.3], [2, pytest.approx(0.6)]], "layer 3": [[0, 0.2], [1, 0.4], [2, pytest.approx(0.7)]]}


def test_cosent_is_the_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(6, 4, generator=draw, dtype=torch.float64), dim=1) for _ in range(2))
    scores = torch.tensor([5.0, 1.0, 3.0, 3.0, 0.0, 2.5], dtype=torch.float64)
    cosines = [float(a @ b) for a, b in zip(first, second, strict=True)]
    expected = math.log(1 + sum(math.exp(COSENT_SCALE * (cosines[j] - cosines[i])) for i in range(6) for j in range(6) if scores[i] > scores[j]))
    assert float(cosent(first, second, scores)) == pytest.approx(expected, rel=1e-12)


def test_views_keep_order_and_begin_mark() -> None:
    row = np.array([BOS_ID, *range(10, 40), EOS_ID])
    kept = [view(row, np.random.default_rng(seed)) for seed in range(50)]
    assert all(found[0] == BOS_ID and (np.diff(found[1:-1]) > 0).all() for found in kept)
    assert 0.6 < np.mean([len(found) - 1 for found in kept]) / (len(row) - 1) < 0.8
    assert view(np.array([BOS_ID, 9]), np.random.default_rng(0)).tolist() == [BOS_ID, 9]
