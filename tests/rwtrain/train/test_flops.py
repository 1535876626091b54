"""Parameters and operations: against numbers worked out by hand, against torch's own counters on real modules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rwtrain.config.model import ModelConfig
from rwtrain.config.presets import PRESETS
from rwtrain.config.schema import BatchConfig, ObjectivesConfig, TrainConfig
from rwtrain.data.recipe import BatchBuilder, Recipe
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import PretrainingTask
from rwtrain.train.flops import count_parameters, expected_label_tokens, micro_batch_flops
from rwtrain.train.setup import image_shape, shape_model

NAMED = {"10m": 10e6, "50m": 50e6, "125m": 125e6, "350m": 350e6, "1b": 1e9, "3b": 3e9, "7b": 7e9, "13b": 13e9, "70b": 70e9}


def configuration(model: dict, batch: dict | None = None) -> TrainConfig:
    data = {"text": "t", "tokenizer": "k", "images": "i"}
    return TrainConfig.model_validate({"run": "r", "steps": 1, "data": data, "model": model, "batch": {"image_rows": 4, "text_rows": 4, **(batch or {})}})


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_are_as_large_as_their_names_and_the_formula_counts_a_real_model(preset: str) -> None:
    config = configuration({"preset": preset})
    assert config.model.vision is not None
    model = shape_model(config, vocab_size=32_000, entity_dim=128, image_tokens=image_shape(config.model.vision)[1])
    counted = count_parameters(model)
    with torch.device("meta"):
        actual = sum(parameter.numel() for parameter in RefinedWebForPreTraining(model).parameters())
    assert counted.total == actual
    assert counted.embedding + counted.head + counted.layers == pytest.approx(NAMED[preset], rel=0.08)


def test_biases_and_wide_heads_are_counted() -> None:
    """Qwen2-like biases, Qwen3-like heads: D 8, I 16, 2 query heads and 1 key head of 6, one layer, by hand."""
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 6}
    more = {"attention_bias": True, "attention_output_bias": False, "qk_norm": True, "mlp_bias": True, "vision": None}
    config = configuration(shape | more, {"image_rows": 0})
    model = shape_model(config, vocab_size=50, entity_dim=0, image_tokens=0)
    by_hand = 8 * (12 + 6 + 6) + 12 * 8 + (12 + 6 + 6) + 2 * 6 + 3 * 8 * 16 + 2 * 16 + 8 + 2 * 8
    assert count_parameters(model).layer == by_hand
    with torch.device("meta"):
        actual = sum(parameter.numel() for parameter in RefinedWebForPreTraining(model).parameters())
    assert count_parameters(model).total == actual


def test_llama_2_7b_has_its_published_size() -> None:
    """6,738,415,616 parameters (the sum of the public checkpoint's tensors)."""
    model = shape_model(configuration({"preset": "7b"}), vocab_size=32_000, entity_dim=0, image_tokens=0)
    counted = count_parameters(model)
    assert counted.total - counted.rest + 4096 == 6_738_415_616  # ours has an embedding head and temperatures instead of the last norm alone


def test_presets_give_way_to_values_beside_them() -> None:
    model = ModelConfig.model_validate({"preset": "1B", "num_hidden_layers": 4, "vision": None})
    assert (model.hidden_size, model.num_hidden_layers, model.vision, model.gate_layers) == (2048, 4, None, None)
    with pytest.raises(ValueError, match=r"no preset '2b'; known: 10m, .*70b"):
        ModelConfig.model_validate({"preset": "2b"})
    with pytest.raises(ValueError, match="hidden_size=2048 is not a multiple of num_attention_heads=12"):
        ModelConfig.model_validate({"preset": "1b", "num_attention_heads": 12})


def test_operations_of_a_text_model_by_hand() -> None:
    """2 layers, D 8, I 16, 2 heads of 4, vocabulary 50, 3 rows of 10 tokens, 12 labels."""
    shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vision": None}
    config = configuration(shape, {"seq_len": 10, "image_rows": 0, "text_rows": 3})
    model = shape_model(config, vocab_size=50, entity_dim=0, image_tokens=0)
    recipe = Recipe.derive(config.batch, world_size=1, image_tokens=0, entity_dim=0)
    found = micro_batch_flops(model, recipe, label_tokens=12, world_size=1)
    per_token = 2 * (4 * 8 * 8 + 3 * 8 * 16) + 2 * 2 * 10 * 8  # q, k, v, o and the feed-forward; scores and values over 10 places
    assert found["trunk"] == 3 * 30 * 2 * per_token
    assert found["head"] == 6 * 12 * 8 * 50
    assert found["images"] == found["knowledge"] == found["contrast"] == 0


def test_operations_of_an_image_by_hand() -> None:
    """A ViT of 1 layer, width 32, feed-forward 64, 4 patches of 14 x 14 x 3; projector 32 -> 16 -> 16."""
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    config = configuration({"hidden_size": 16, "num_attention_heads": 2, "vision": vision}, {"seq_len": 64, "image_rows": 1, "caption_tokens": 12})
    model = shape_model(config, vocab_size=50, entity_dim=0, image_tokens=4)
    recipe = Recipe.derive(config.batch.model_copy(update={"text_rows": 1}), world_size=1, image_tokens=4, entity_dim=0)
    assert recipe.images == 64 // (4 + 2 * 12)
    patches = 4 * 3 * 14 * 14 * 32
    trunk = 4 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 4 * 4 * 32
    projector = 4 * (32 * 16 + 16 * 16)
    assert micro_batch_flops(model, recipe, label_tokens=0, world_size=1)["images"] == recipe.images * (2 * 2 * patches + 3 * 2 * (trunk + projector))


def test_operations_of_a_convolutional_image_encoder_by_hand() -> None:
    """A ResNet: 7 x 7 over 3 channels to 16 x 16 x 8, pooled to 8 x 8, two 3 x 3 over 8 channels; the pixels need no gradient."""
    vision = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic", "image_size": 32}
    config = configuration({"hidden_size": 16, "num_attention_heads": 2, "vision": vision}, {"seq_len": 96, "image_rows": 1, "caption_tokens": 12})
    model = shape_model(config, vocab_size=50, entity_dim=0, image_tokens=64)
    recipe = Recipe.derive(config.batch.model_copy(update={"text_rows": 1}), world_size=1, image_tokens=64, entity_dim=0)
    stem, block = 7 * 7 * 3 * 8 * 16 * 16, 2 * 9 * 8 * 8 * 8 * 8
    projector = 64 * (8 * 16 + 16 * 16)
    assert micro_batch_flops(model, recipe, label_tokens=0, world_size=1)["images"] == 2 * (2 * stem + 3 * block + 3 * projector)
    norms = 2 * 8 * 3  # scale and shift of three batch norms over 8 channels
    assert count_parameters(model).vision == 7 * 7 * 3 * 8 + 2 * 9 * 8 * 8 + norms + 2 * 8 + (8 + 1) * 16 + (16 + 1) * 16


@pytest.mark.parametrize("entity_dim", [0, 24])
def test_operations_equal_those_torch_counts_in_a_whole_step(entity_dim: int) -> None:
    """Forward and backward of every loss on a real model; what checkpointing or the tiles compute twice is no work of the model."""
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "vision_use_head": False}
    shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "vision": vision}
    batch = BatchConfig(seq_len=96, text_rows=2, masked_rows=1, pair_rows=2, image_rows=2, view_tokens=16, caption_tokens=12, mentions_per_row=4)
    config = configuration({**shape, "embedding_dim": 32}, batch.model_dump())
    model_config = shape_model(config, vocab_size=200, entity_dim=entity_dim, image_tokens=4)
    model_config._attn_implementation = "eager"
    recipe = Recipe.derive(config.batch, world_size=1, image_tokens=4, entity_dim=entity_dim)
    model = RefinedWebForPreTraining(model_config)
    builder = BatchBuilder(recipe, 28)
    draw = np.random.default_rng(0)
    builder.input_ids[:] = draw.integers(10, 200, builder.input_ids.shape)
    builder.labels[: recipe.text_rows] = draw.integers(10, 200, (recipe.text_rows, 96))
    builder.pair_valid[:] = builder.image_valid[:] = 1
    builder.pair_content[:] = np.arange(recipe.pairs)
    builder.image_content[:] = np.arange(recipe.images)
    made = builder.finish(None, {})
    task = PretrainingTask(recipe, ObjectivesConfig(), replicas=1)
    counts = task.counts(made)
    with FlopCounterMode(display=False) as counter:
        task(model, made, counts).total.backward()
    found = micro_batch_flops(model_config, recipe, label_tokens=float(counts[:3].sum()), world_size=1)
    repeated = found["contrast"] - 3 * 2 * recipe.pool_slots * 64 * 32  # a third of the similarities is made again for the backward pass
    assert counter.get_total_flops() == pytest.approx(sum(found.values()) + repeated / 3, rel=0.01)


def test_expected_labels_of_a_full_batch() -> None:
    batch = BatchConfig(seq_len=100, text_rows=4, masked_rows=2, image_rows=2, caption_tokens=10, mask_rate=0.3)
    recipe = Recipe.derive(batch, world_size=2, image_tokens=16, entity_dim=0)
    assert expected_label_tokens(recipe) == 2 * 99 + 1 * 30 + 2 * 9  # two images of 16 + 2 x 10 tokens in the row of 100
