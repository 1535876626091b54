"""Mixtures: proportions against exact fractions, seeking, and whole batches of two sources."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwtrain.config.load import dump_yaml
from rwtrain.config.schema import DataConfig, TrainConfig
from rwtrain.data.mixture import LONGEST_PERIOD, Mixture, period_counts
from rwtrain.data.order import sample_at, share_of_batch
from rwtrain.data.shards import Document, ShardDataset, ShardWriter
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, Tokenizer
from rwtrain.errors import ConfigError
from rwtrain.train.checkpoint import commit, temporary_folder
from rwtrain.train.setup import check_identity, identity, make_loader, open_inputs, prepare_run_folder

WEIGHTS = st.lists(st.decimals(min_value="0.01", max_value="9.99", places=2), min_size=1, max_size=7)


@settings(max_examples=80, deadline=None)
@given(weights=WEIGHTS)
def test_every_prefix_has_the_proportions_within_one_sample(weights: list) -> None:
    total = sum(map(Fraction, weights))
    mixture = Mixture([float(weight) for weight in weights])
    source, own = mixture.locate(np.arange(mixture.period + 50))
    for number, weight in enumerate(weights):
        seen = np.cumsum(source == number)
        share = Fraction(weight) / total  # |seen − n · share| < 1, in whole numbers
        ideal = np.arange(1, len(source) + 1) * share.numerator
        assert np.abs(seen * share.denominator - ideal).max() < share.denominator
        assert np.array_equal(own[source == number], np.arange(seen[-1]))  # none left out, none twice
    assert mixture.counts == [share * mixture.period for share in (Fraction(weight) / total for weight in weights)]


def test_weights_are_decimals_and_long_periods_are_rounded() -> None:
    assert period_counts([0.7, 0.2, 0.1]) == [7, 2, 1]
    assert period_counts([1, 1, 2.5]) == [2, 2, 5]
    assert period_counts([3.0]) == [1]
    rounded = period_counts([0.123456789, 0.876543211, 1e-9])
    assert rounded[2] == 1
    assert sum(rounded) == pytest.approx(LONGEST_PERIOD, abs=1)
    assert rounded[0] / LONGEST_PERIOD == pytest.approx(0.123456789, abs=1e-6)


def test_ten_billion_positions_on_is_as_near_as_the_beginning() -> None:
    """A simulated corpus of three sources with billions of rows: position, source and row at 10^10 need nothing from the positions before."""
    mixture, sizes, far = Mixture([0.55, 0.4, 0.05]), (4_000_000_007, 90_000_001, 12_345_678), 10**10
    began = time.process_time()
    source, own = mixture.locate(np.arange(far - 20, far + 20))
    rows = [int(sample_at(position, sizes[number], 3 + int(number))) for number, position in zip(source, own, strict=True)]
    assert time.process_time() - began < 0.5
    assert np.bincount(source).tolist() == [22, 16, 2]  # two periods of 20
    assert own[source == 0][10:12].tolist() == [far * 11 // 20 - 1, far * 11 // 20]  # exactly 55% of the ten billion before
    assert all(0 <= row < sizes[number] for number, row in zip(source, rows, strict=True))


def test_4096_ranks_consume_every_sample_of_every_source_once_per_epoch() -> None:
    """Sources of 4,096 x 6 and 4,096 x 2 rows mixed 3 : 1, global batches of 4,096 ranks x 2 micro-batches x 1 row: four steps are an epoch of both."""
    ranks, accumulation, sizes = 4096, 2, (4096 * 6, 4096 * 2)
    mixture, seen = Mixture([3, 1]), ([], [])  # type: ignore[var-annotated]
    for step in range(8):
        for index in range(accumulation):
            for rank in range(ranks):
                (position,) = share_of_batch(step, index=index, accumulation=accumulation, rank=rank, world_size=ranks, items=1)
                seen[0].append(position)
    source, own = mixture.locate(np.array(seen[0]))
    for number, size in enumerate(sizes):
        rows = sample_at(own[source == number], size, number)
        assert len(rows) == 2 * size
        for epoch in (rows[:size], rows[size:]):
            assert np.array_equal(np.sort(epoch), np.arange(size))
        assert not np.array_equal(rows[:size], rows[size:])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, train_settings: dict, tokenizer_file: Path) -> dict:
    """The settings of the tiny run over two text sources whose tokens tell them apart: 300 in the second only."""
    tokenizer, folder = Tokenizer(tokenizer_file), tmp_path_factory.mktemp("mixed")
    with ShardWriter(folder / "text", vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash) as writer:
        for number in range(50):
            writer.add(Document(doc_id=str(number), tokens=np.array([BOS_ID, *[300 + number] * 40, EOS_ID]), content_id=number))
    sources = [{"path": train_settings["data"]["text"], "weight": 0.75}, {"path": str(folder / "text"), "weight": 0.25}]
    return {**train_settings, "data": {**train_settings["data"], "text": sources}}


def configured(settings: dict, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"run": "unused", **settings, **changes})


def test_batches_hold_both_sources_and_do_not_depend_on_the_number_of_ranks(mixed: dict) -> None:
    config = configured(mixed)
    inputs = open_inputs(config, verify=False)
    one = [make_loader(config, inputs, rank=0, world_size=1).micro_batch(step, 0) for step in range(4)]
    of_second = [((batch.input_ids[:4] >= 300) & (batch.input_ids[:4] == batch.input_ids[:4].roll(1, 1))).float().mean(1) > 0.5 for batch in one]
    assert [int(rows.sum()) for rows in of_second] == [1, 1, 1, 1]  # of four text rows
    assert all(int(batch.pair_valid.sum()) == len(batch.pair_valid) for batch in one)
    two = [make_loader(config, inputs, rank=rank, world_size=2).micro_batch(3, 0).input_ids[:2] for rank in (0, 1)]
    assert one[3].input_ids[:4].tolist() == [row for part in two for row in part.tolist()]


def test_a_run_is_not_continued_with_another_mixture(mixed: dict, tmp_path: Path) -> None:
    config = configured(mixed, run=str(tmp_path))
    inputs = open_inputs(config, verify=False)
    prepare_run_folder(config, inputs, world_size=1)
    (temporary_folder(tmp_path / "checkpoints", 1)).mkdir(parents=True)
    commit(tmp_path / "checkpoints", 1, {"world_size": 1, "files": {}})
    check_identity(config, inputs)
    first, second = mixed["data"]["text"]
    other = configured(mixed, run=str(tmp_path), data={**mixed["data"], "text": [first, {**second, "weight": 0.5}]})
    with pytest.raises(ConfigError, match=r"data\.text \(3 of [0-9a-f]{8}… \+ 1 of [0-9a-f]{8}… then, 3 of [0-9a-f]{8}… \+ 2 of"):
        check_identity(other, open_inputs(other, verify=False))


def test_a_single_folder_is_written_and_identified_as_before(train_settings: dict, mixed: dict) -> None:
    config = configured(train_settings)
    assert f"text: {train_settings['data']['text']}\n" in dump_yaml(config)
    digest = identity(config, open_inputs(config, verify=False))["data.text"]
    assert isinstance(digest, str)
    assert configured(mixed) == TrainConfig.model_validate(configured(mixed).model_dump())
    assert DataConfig.model_validate({"text": ["a", "b"], "tokenizer": "t"}).text[1].weight == 1
    with pytest.raises(ValueError, match="at least 1 item"):
        DataConfig.model_validate({"text": [], "tokenizer": "t"})


def test_packing_plans_are_made_once_and_damaged_ones_again(
    train_settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from rwtrain.data import plan_cache

    made: list[int] = []
    pack = plan_cache.pack
    monkeypatch.setattr(plan_cache, "pack", lambda lengths, seq_len: made.append(seq_len) or pack(lengths, seq_len))
    dataset = ShardDataset(train_settings["data"]["text"])
    plans = [plan_cache.packing_plan(dataset, 64, tmp_path / "cache") for _ in range(3)]
    assert made == [64]
    fresh = pack(dataset.lengths, 64)
    for plan in plans:
        for name in plan_cache.COLUMNS:
            assert np.array_equal(getattr(plan, name), getattr(fresh, name))
        assert not plan.document.flags.owndata  # a view of the file
    plan_cache.packing_plan(dataset, 128, tmp_path / "cache")
    assert made == [64, 128]
    (file,) = (tmp_path / "cache").glob("packing-64-*.arrow")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert np.array_equal(plan_cache.packing_plan(dataset, 64, tmp_path / "cache").document, fresh.document)
    assert made == [64, 128, 64]
    assert "damaged" in caplog.text
