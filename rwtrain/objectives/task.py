"""The pretraining task: one forward pass, then every loss by name, each normalised over the whole global batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rwtrain.config.schema import ObjectivesConfig
from rwtrain.data.recipe import Batch, Recipe
from rwtrain.objectives.contrastive import entity_info_nce, paired_info_nce, sigmoid_contrast, two_view_info_nce

TOKEN_LOSSES = {"language_modelling": "text", "masked_modelling": "masked", "captioning": "image"}  # loss -> row kind
LOSSES = (*TOKEN_LOSSES, "text_contrast", "image_contrast", "entity_alignment")


@dataclass
class TaskOutput:
    """Of one micro-batch.

    Attributes:
        total: the scalar to differentiate.
        sums: Σ of each loss over this rank's items, [losses] in the order of `LOSSES`, without gradient.
        gate_openness: mean 1 − g per gate layer, or None.
        scales: inverse temperatures {"text", "image", "entity"}.
    """

    total: torch.Tensor
    sums: torch.Tensor
    gate_openness: torch.Tensor | None
    scales: dict[str, torch.Tensor]


class PretrainingTask:
    """Turns batches into named losses.

    Args:
        recipe: shapes of the micro-batches.
        weights: weight of each loss.
        replicas: ranks × accumulation steps; the engine averages gradients over them, so sums are multiplied by it.
    """

    def __init__(self, recipe: Recipe, weights: ObjectivesConfig, *, replicas: int) -> None:
        self.recipe, self.replicas = recipe, replicas
        self.weights = [float(getattr(weights, name)) for name in LOSSES]

    def counts(self, batch: Batch) -> torch.Tensor:
        """How many items each loss averages over in this micro-batch, [losses] float64 in the order of `LOSSES`."""
        wanted = batch.labels[:, 1:] != -100
        tokens = [wanted[self.recipe.row_range(kind)].sum() for kind in TOKEN_LOSSES.values()]
        items = [batch.pair_valid.sum(), batch.image_valid.sum(), (batch.query_positions >= 0).sum()]
        return torch.stack([value.to(torch.float64) for value in (*tokens, *items)])

    def __call__(self, model: torch.nn.Module, batch: Batch, counts: torch.Tensor) -> TaskOutput:
        """Run the model on one micro-batch of this rank.

        Args:
            batch: already on the model's device.
            counts: `counts` summed over all micro-batches and ranks of the step; losses are divided by it.
        """
        factors = [weight * self.replicas / max(float(count), 1.0) for weight, count in zip(self.weights, counts, strict=True)]
        recipe = self.recipe
        label_weights = torch.zeros(batch.labels.shape, device=batch.labels.device)
        for index, kind in enumerate(TOKEN_LOSSES.values()):
            label_weights[recipe.row_range(kind)] = factors[index]
        knowledge, images = recipe.entity_dim > 0, recipe.images > 0
        out = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            block_sequence_ids=batch.block_sequence_ids,
            labels=batch.labels,
            label_weights=label_weights,
            pool_ids=batch.pool_ids,
            pool_slots=recipe.pool_slots,
            pixel_values=batch.pixel_values if images else None,
            entity_embeds=batch.entity_embeds if knowledge else None,
            entity_positions=batch.entity_positions if knowledge else None,
            query_embeds=batch.query_embeds if knowledge else None,
            query_positions=batch.query_positions if knowledge else None,
        )
        first, second, captions, pictures = out.embeddings.split([recipe.pairs, recipe.pairs, recipe.images, recipe.images])
        zero = out.token_loss * 0
        text = two_view_info_nce(first, second, batch.pair_content, batch.pair_valid, out.text_scale) if recipe.pairs else zero
        image = zero
        if images:
            pairs = (pictures, captions, batch.image_content, batch.image_valid, out.image_scale)
            image = paired_info_nce(*pairs) if out.image_bias is None else sigmoid_contrast(*pairs, out.image_bias)
        entity = zero
        if knowledge:
            queried, asked = batch.query_entities.flatten(), (batch.query_positions >= 0).float().flatten()
            entity = entity_info_nce(out.entity_queries.flatten(0, 1), out.entity_keys.flatten(0, 1), queried, asked, out.entity_scale)
        total = out.token_loss + factors[3] * text + factors[4] * image + factors[5] * entity
        scales = {"text": out.text_scale, "image": out.image_scale} | ({"entity": out.entity_scale} if knowledge else {})
        return TaskOutput(
            total=total,
            sums=torch.stack([*self._token_sums(out.token_losses, batch), *(value.detach().double() for value in (text, image, entity))]),
            gate_openness=out.gate_openness,
            scales={name: value.detach() for name, value in scales.items()},
        )

    def _token_sums(self, token_losses: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
        wanted = batch.labels[:, 1:] != -100
        tokens = [int(wanted[self.recipe.row_range(kind)].sum()) for kind in TOKEN_LOSSES.values()]
        return [part.double().sum() for part in token_losses.split(tokens)]
