"""A packed row against its segments alone: all four ways of reading, with images and mentions."""

from __future__ import annotations

import pytest
import torch

from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch, Recipe
from rwtrain.data.tokenizer import IMAGE_ID, PAD_ID
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.train.setup import make_loader, model_config, open_inputs


@pytest.fixture(scope="module")
def parts(train_settings: dict) -> tuple[RefinedWebForPreTraining, Recipe, Batch]:
    settings = {**train_settings, "batch": {**train_settings["batch"], "seq_len": 512}}
    settings["model"] = {**settings["model"], "gate_layers": [0, 1]}
    config = TrainConfig.model_validate({**settings, "run": "unused"})
    inputs = open_inputs(config, verify=False)
    loader = make_loader(config, inputs, rank=0, world_size=1)
    torch.manual_seed(0)
    shape = model_config(config, inputs)
    shape.gate_bias_init = 0.0  # half open: a mention at a wrong place shows
    model = RefinedWebForPreTraining._from_config(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model, loader.recipe, next(batch for batch in (loader.micro_batch(step, 0) for step in range(200)) if well_mixed(batch, loader.recipe))


def well_mixed(batch: Batch, recipe: Recipe) -> bool:
    """Whether text and masked rows hold more segments than rows."""
    begins = (batch.position_ids == 0) & (batch.input_ids != PAD_ID)
    return all(int(begins[rows].sum()) > rows.stop - rows.start for rows in map(recipe.row_range, ("text", "masked")))


def read(model: RefinedWebForPreTraining, batch: Batch, recipe: Recipe, row: slice, part: slice, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(label losses, embeddings [pool slots, C]) of some rows' places `part`, with what lies in them."""

    def inside(positions: torch.Tensor) -> torch.Tensor:
        return torch.where((positions >= part.start) & (positions < part.stop), positions - part.start, -1)

    with torch.no_grad():
        out = model(
            input_ids=batch.input_ids[row, part],
            position_ids=batch.position_ids[row, part],
            block_sequence_ids=batch.block_sequence_ids[row, part],
            labels=batch.labels[row, part],
            label_weights=torch.ones(batch.labels[row, part].shape),
            pool_ids=batch.pool_ids[row, part],
            pool_slots=recipe.pool_slots,
            pixel_values=pixels,
            entity_embeds=batch.entity_embeds[row],
            entity_positions=inside(batch.entity_positions[row]),
            query_embeds=batch.query_embeds[row],
            query_positions=inside(batch.query_positions[row]),
        )
    return out.token_losses, out.embeddings


@pytest.mark.parametrize("kind", ["text", "masked", "pair", "image"])
def test_a_packed_row_is_the_sum_of_its_segments(parts: tuple[RefinedWebForPreTraining, Recipe, Batch], kind: str) -> None:
    model, recipe, batch = parts
    rows = recipe.row_range(kind)
    whole, embeddings = read(model, batch, recipe, rows, slice(0, recipe.config.seq_len), batch.pixel_values)
    losses, segments, mentions, image = [], 0, 0, 0
    for row in range(rows.start, rows.stop):
        starts = torch.nonzero(batch.position_ids[row] == 0).flatten().tolist()
        for start, stop in zip(starts, [*starts[1:], recipe.config.seq_len], strict=True):
            part = slice(start, stop)
            if (batch.input_ids[row, part] == PAD_ID).all():
                continue
            images = int((batch.input_ids[row, part] == IMAGE_ID).sum()) // recipe.image_tokens
            pixels = batch.pixel_values[image : image + images] if images else batch.pixel_values[:1]
            found, alone = read(model, batch, recipe, slice(row, row + 1), part, pixels)
            image += images
            losses.append(found)
            segments += 1
            mentions += int(((batch.entity_positions[row] >= start) & (batch.entity_positions[row] < stop)).sum())
            for slot in set(batch.pool_ids[row, part].tolist()) - {-1}:
                torch.testing.assert_close(alone[slot], embeddings[slot], rtol=1e-5, atol=1e-5)
    assert segments > rows.stop - rows.start
    assert mentions > 0 or kind == "image"
    assert image == (recipe.images if kind == "image" else 0)
    torch.testing.assert_close(torch.cat(losses), whole, rtol=1e-5, atol=1e-5)
    assert float(torch.cat(losses).double().sum()) == pytest.approx(float(whole.double().sum()), rel=1e-6)
