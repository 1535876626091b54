"""Batches: the same global batch at any world size, fixed shapes, mentions and labels in their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import IMAGE_ID, MASK_ID
from rwtrain.errors import ConfigError, DataError
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import PretrainingTask
from rwtrain.train.setup import make_loader, model_config, open_inputs


def configured(settings: dict, *overrides: str) -> TrainConfig:
    config = TrainConfig.model_validate({**settings, "run": "unused"})
    return config if not overrides else TrainConfig.model_validate(apply(config.model_dump(), overrides))


def apply(values: dict, overrides: tuple[str, ...]) -> dict:
    for item in overrides:
        key, value = item.split("=")
        group, leaf = key.split(".")
        values[group][leaf] = int(value)
    return values


def rows_of(config: TrainConfig, *, world_size: int, step: int, kind: str) -> list[list[int]]:
    inputs = open_inputs(config, verify=False)
    found = []
    for micro in range(config.batch.accumulation):
        for rank in range(world_size):
            loader = make_loader(config, inputs, rank=rank, world_size=world_size)
            found += loader.micro_batch(step, micro).input_ids[loader.recipe.row_range(kind)].tolist()
    return found


@pytest.mark.parametrize("kind", ["text", "masked", "pair", "image"])
def test_the_global_batch_does_not_depend_on_ranks_or_accumulation(train_settings: dict, kind: str) -> None:
    one = rows_of(configured(train_settings), world_size=1, step=5, kind=kind)
    assert rows_of(configured(train_settings), world_size=2, step=5, kind=kind) == one
    assert rows_of(configured(train_settings, "batch.accumulation=2"), world_size=1, step=5, kind=kind) == one
    assert rows_of(configured(train_settings), world_size=1, step=6, kind=kind) != one


def test_an_indivisible_batch_is_refused(train_settings: dict) -> None:
    from rwtrain.config.deepspeed import resolve

    with pytest.raises(ConfigError, match=r"batch\.text_rows=4.*multiples of 3"):
        resolve(configured(train_settings), world_size=3)


def shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}


def test_shapes_are_the_same_at_every_step(train_settings: dict) -> None:
    config = configured(train_settings)
    loader = make_loader(config, open_inputs(config, verify=False), rank=1, world_size=2)
    assert len({str(shapes(loader.micro_batch(step, 0))) for step in range(20)}) == 1


@pytest.fixture(scope="module")
def batch(train_settings: dict) -> Batch:
    config = configured(train_settings)
    return make_loader(config, open_inputs(config, verify=False), rank=0, world_size=1).micro_batch(3, 0)


def test_causal_rows_predict_their_own_tokens_but_no_first_one(batch: Batch) -> None:
    labels, ids, positions = batch.labels[:4], batch.input_ids[:4], batch.position_ids[:4]
    labelled = labels != -100
    assert torch.equal(labels[labelled], ids[labelled])
    assert not labelled[positions == 0].any()
    assert labelled.float().mean() > 0.9
    assert (batch.block_sequence_ids[:4] == -1).all()


def test_masked_rows_hide_what_they_ask_for(batch: Batch) -> None:
    labels, ids = batch.labels[4:6], batch.input_ids[4:6]
    assert ((labels != -100) == (ids == MASK_ID)).all()
    assert 0.1 < (ids == MASK_ID).float().mean() < 0.5
    assert not (labels[batch.position_ids[4:6] == 0] != -100).any()


def test_pairs_are_adjacent_spans_of_one_document(batch: Batch, datasets: tuple[Path, Path]) -> None:
    dataset = ShardDataset(datasets[0])
    pooled = batch.pool_ids[6:8]
    for slot in range(4):
        views = [batch.input_ids[6:8][pooled == index][1:].tolist() for index in (slot, slot + 4)]
        document = dataset.tokens(int(batch.pair_content[slot])).tolist()  # in this dataset the content id is the document's number
        joined = views[0] + views[1]
        assert any(document[start : start + len(joined)] == joined for start in range(len(document)))


def test_given_pairs_come_with_their_hard_negatives(train_settings: dict, pair_shards: Path) -> None:
    from rwtrain.data.tokenizer import BOS_ID

    settings = {**train_settings, "data": {**train_settings["data"], "pairs": str(pair_shards)}}
    settings["batch"] = {**settings["batch"], "pair_views": "given", "hard_negatives": True, "entity_negatives": 6}
    config = configured(settings)
    loader = make_loader(config, open_inputs(config, verify=True), rank=0, world_size=1)
    found, dataset = loader.micro_batch(2, 0), ShardDataset(pair_shards)
    by_content = {int(np.uint64(dataset.locate(index)[0].content_id[index]).view(np.int64)): dataset.tokens(index) for index in range(len(dataset))}
    pairs = loader.recipe.pairs
    assert pairs == 2
    seen = set()
    for slot in range(pairs):
        tokens = by_content[int(found.pair_content[slot])]
        starts = np.flatnonzero(tokens == BOS_ID)
        for view, (start, end) in enumerate(zip(starts, [*starts[1:], len(tokens)], strict=True)):
            pooled = found.input_ids[found.pool_ids == slot + view * pairs].tolist()
            assert pooled == tokens[start : end - 1][:16].tolist()
        assert found.hard_valid[slot] == (len(starts) == 3)
        seen.add(len(starts))
    parts = [make_loader(config, open_inputs(config, verify=False), rank=rank, world_size=2).micro_batch(2, 0).negative_entities for rank in range(2)]
    assert torch.equal(torch.cat(parts), found.negative_entities)
    assert torch.equal(found.negative_embeds, torch.from_numpy(np.array(open_inputs(config, verify=False).vectors[found.negative_entities])))
    config = configured({**settings, "data": {**settings["data"], "pairs": settings["data"]["text"]}})
    with pytest.raises(DataError, match="holds no pairs"):
        make_loader(config, open_inputs(config, verify=False), rank=0, world_size=1)


def test_dropout_views_are_one_span_twice(train_settings: dict) -> None:
    settings = {**train_settings, "batch": {**train_settings["batch"], "pair_views": "dropout"}}
    with pytest.raises(ValueError, match="attention_dropout above 0"):
        configured(settings)
    config = configured({**settings, "model": {**settings["model"], "attention_dropout": 0.1}})
    inputs = open_inputs(config, verify=False)
    found = make_loader(config, inputs, rank=0, world_size=1).micro_batch(0, 0)
    for slot in range(4):
        views = [found.input_ids[found.pool_ids == index].tolist() for index in (slot, slot + 4)]
        assert views[0] == views[1]
        assert len(views[0]) == 16
    torch.manual_seed(0)
    model = RefinedWebForPreTraining._from_config(model_config(config, inputs)).train()
    task = PretrainingTask(make_loader(config, inputs, rank=0, world_size=1).recipe, config.objectives, replicas=1)
    features = task._features(task._read(model, found, [0.0] * 3))
    assert not torch.equal(features["first"], features["second"])


def test_image_rows_pool_the_image_and_the_caption_apart(batch: Batch) -> None:
    ids, pools, blocks = batch.input_ids[8:], batch.pool_ids[8:], batch.block_sequence_ids[8:]
    images = batch.pixel_values.shape[0]
    for slot in range(images):
        caption, picture = pools == 8 + slot, pools == 8 + images + slot
        assert (ids[picture] == IMAGE_ID).all()
        assert picture.sum() == 4
        assert not (ids[caption] == IMAGE_ID).any()
        assert len(blocks[caption].unique()) == len(blocks[picture].unique()) == 1


def test_mentions_enter_at_their_last_token_when_read_causally(batch: Batch, datasets: tuple[Path, Path], entity_store: Path) -> None:
    from rwtrain.knowledge.store import EntityStore

    vectors = EntityStore.open(entity_store).vectors
    dataset = ShardDataset(datasets[0])
    known = {}  # the three tokens of a mention -> its entities
    for document in range(len(dataset)):
        tokens = dataset.tokens(document)
        for start, end, entity in zip(*dataset.mentions(document), strict=True):
            known.setdefault(tuple(tokens[start:end].tolist()), set()).add(int(entity))
    checked = 0
    for row in range(4):
        for place, vector in zip(batch.entity_positions[row].tolist(), batch.entity_embeds[row].numpy(), strict=True):
            if place >= 2 and batch.position_ids[row, place] >= 2:
                entities = known[tuple(batch.input_ids[row, place - 2 : place + 1].tolist())]
                assert any(np.array_equal(vector, vectors[entity]) for entity in entities)
                checked += 1
        asked = {place for place in batch.query_positions[row].tolist() if place >= 0}
        assert not asked & set(batch.entity_positions[row].tolist()), "a withheld mention must not enter through the gate"
    assert checked > 0


def test_shards_of_another_tokenizer_are_refused(train_settings: dict, tmp_path: Path, paragraphs: list[str]) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(paragraphs[:100]),
        model_prefix=str(tmp_path / "other"),
        vocab_size=400,
        byte_fallback=True,
        model_type="bpe",
        pad_id=3,
        control_symbols=["<mask>", "<image>"],
        minloglevel=2,
    )
    settings = {**train_settings, "data": {**train_settings["data"], "tokenizer": str(tmp_path / "other.model")}}
    with pytest.raises(DataError, match="another tokenizer"):
        open_inputs(configured(settings), verify=False)


def test_the_configuration_file_and_the_command_line_agree(tmp_path: Path, train_settings: dict) -> None:
    import yaml

    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**train_settings, "run": "r"}))
    assert load_config(TrainConfig, path, ["batch.accumulation=2"]) == configured({**train_settings, "run": "r"}, "batch.accumulation=2").model_copy(
        update={"run": "r"}
    )
