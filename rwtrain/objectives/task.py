"""The pretraining task: one forward pass, then every loss by name, each normalised over the whole global batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rwtrain.config.schema import ObjectivesConfig
from rwtrain.data.recipe import Batch, Recipe
from rwtrain.objectives.contrastive import Negatives, entity_info_nce, paired_info_nce, sigmoid_contrast, two_view_info_nce

TOKEN_LOSSES = {"language_modelling": "text", "masked_modelling": "masked", "captioning": "image"}  # loss -> row kind
LOSSES = (*TOKEN_LOSSES, "text_contrast", "image_contrast", "entity_alignment")


SCALARS = ("text_scale", "image_scale", "entity_scale", "image_bias")


@dataclass
class Cached:
    """What the contrasts of a whole step say about one micro-batch.

    Attributes:
        gradients: of their weighted sum with respect to the micro-batch's features, by name.
        sums: [3] float64, the step's sums of the contrasts in the first micro-batch, zeros in the others.
    """

    gradients: dict[str, torch.Tensor]
    sums: torch.Tensor


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
        self.contrasts = any(self.weights[len(TOKEN_LOSSES) :])
        self.names = LOSSES

    def label_tokens(self, counts: torch.Tensor) -> float:
        """How many tokens go through the language-model head, by `counts`."""
        return float(counts[: len(TOKEN_LOSSES)].sum())

    def counts(self, batch: Batch) -> torch.Tensor:
        """How many items each loss averages over in this micro-batch, [losses] float64 in the order of `LOSSES`."""
        wanted = batch.labels[:, 1:] != -100
        tokens = [wanted[self.recipe.row_range(kind)].sum() for kind in TOKEN_LOSSES.values()]
        items = [batch.pair_valid.sum(), batch.image_valid.sum(), (batch.query_positions >= 0).sum()]
        return torch.stack([value.to(torch.float64) for value in (*tokens, *items)])

    def cache(self, model: torch.nn.Module, batches: Sequence[Batch], counts: torch.Tensor) -> list[Cached]:
        """Gradient caching (Gao et al. 2021, arXiv 2101.06983): contrast the features of all micro-batches of a step with each other.

        Every micro-batch is read once without gradient. The contrasts over the whole global batch then say how each feature should move;
        given that, `__call__` makes the exact gradient of the whole batch at the memory of one micro-batch.

        Args:
            batches: the step's micro-batches of this rank, on the model's device.
            counts: as in `__call__`.
        """
        factors = self._factors(counts)
        random_state = torch.random.get_rng_state()  # dropout must draw the same in the second reading
        with torch.no_grad():
            unlabelled = (dataclasses.replace(batch, labels=torch.full_like(batch.labels, -100)) for batch in batches)
            read = [self._features(self._read(model, batch, factors)) for batch in unlabelled]
        torch.random.set_rng_state(random_state)
        leaves = {name: value if name in SCALARS else torch.cat([features[name] for features in read]) for name, value in read[0].items()}
        for leaf in leaves.values():
            leaf.requires_grad_()
        total, sums = self._contrast(leaves, [self._targets(batch) for batch in batches], factors)
        found = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True))
        shares = {
            name: [grad / len(batches)] * len(batches) if name in SCALARS else grad.chunk(len(batches)) for name, grad in found.items() if grad is not None
        }
        return [Cached({name: parts[index] for name, parts in shares.items()}, sums if index == 0 else torch.zeros_like(sums)) for index in range(len(batches))]

    def __call__(self, model: torch.nn.Module, batch: Batch, counts: torch.Tensor, cached: Cached | None = None) -> TaskOutput:
        """Run the model on one micro-batch of this rank.

        Args:
            batch: already on the model's device.
            counts: `counts` summed over all micro-batches and ranks of the step; losses are divided by it.
            cached: this micro-batch's part of `cache`; without it, its features are contrasted with those of the same micro-batch only.
        """
        factors = self._factors(counts)
        out = self._read(model, batch, factors)
        features = self._features(out)
        if cached is None:
            contrast, sums = self._contrast(features, [self._targets(batch)], factors)
        else:
            sums = cached.sums
            contrast = torch.stack([(features[name] * grad).sum() for name, grad in cached.gradients.items()]).sum()
        scales = {name.removesuffix("_scale"): value.detach() for name, value in features.items() if name.endswith("_scale")}
        return TaskOutput(
            total=out.token_loss + contrast,
            sums=torch.cat((torch.stack(self._token_sums(out.token_losses, batch)), sums)),
            gate_openness=out.gate_openness,
            scales=scales,
        )

    def _factors(self, counts: torch.Tensor) -> list[float]:
        """What the sum of each loss over items is multiplied by."""
        return [weight * self.replicas / max(float(count), 1.0) for weight, count in zip(self.weights, counts, strict=True)]

    def _read(self, model: torch.nn.Module, batch: Batch, factors: list[float]) -> Any:
        recipe = self.recipe
        label_weights = torch.zeros(batch.labels.shape, device=batch.labels.device)
        for index, kind in enumerate(TOKEN_LOSSES.values()):
            label_weights[recipe.row_range(kind)] = factors[index]
        knowledge, images = recipe.entity_dim > 0, recipe.images > 0
        return model(
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
            negative_embeds=batch.negative_embeds if recipe.entity_negatives else None,
        )

    def _features(self, out: Any) -> dict[str, torch.Tensor]:
        """What the contrasts compare in a `RefinedWebPreTrainingOutput`, by name; all but the `SCALARS` have a row for each item."""
        recipe = self.recipe
        first, second, hard, captions, pictures = out.embeddings.split([recipe.pairs, recipe.pairs, recipe.hard_negatives, recipe.images, recipe.images])
        features = {"first": first, "second": second, "text_scale": out.text_scale}
        if recipe.hard_negatives:
            features["hard"] = hard
        features |= {"captions": captions, "pictures": pictures, "image_scale": out.image_scale}
        if out.image_bias is not None:
            features["image_bias"] = out.image_bias
        if out.entity_queries is not None:
            states, vectors = out.entity_queries.flatten(0, 1), out.entity_keys.flatten(0, 1)
            features |= {"entity_states": states, "entity_vectors": vectors, "entity_scale": out.entity_scale}
        if out.entity_negatives is not None:
            features["entity_negatives"] = out.entity_negatives
        return features

    @staticmethod
    def _targets(batch: Batch) -> dict[str, torch.Tensor]:
        names = ("pair_content", "pair_valid", "hard_content", "hard_valid", "image_content", "image_valid", "negative_entities")
        queried = {"entities": batch.query_entities.flatten(), "asked": (batch.query_positions >= 0).float().flatten()}
        return {name: getattr(batch, name) for name in names} | queried

    def _contrast(self, features: dict[str, torch.Tensor], targets: list[dict[str, torch.Tensor]], factors: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
        """(weighted sum of the contrasts, their sums over this rank's items [3] float64), of one or more micro-batches' features."""
        target = {name: torch.cat([part[name] for part in targets]) for name in targets[0]}
        text = image = entity = features["text_scale"].sum() * 0
        if self.recipe.pairs:
            hard = Negatives(features["hard"], target["hard_content"], target["hard_valid"]) if "hard" in features else None
            views = (features["first"], features["second"], target["pair_content"], target["pair_valid"])
            text = two_view_info_nce(*views, features["text_scale"], hard)
        if self.recipe.images:
            pairs = (features["pictures"], features["captions"], target["image_content"], target["image_valid"], features["image_scale"])
            image = sigmoid_contrast(*pairs, features["image_bias"]) if "image_bias" in features else paired_info_nce(*pairs)
        if "entity_states" in features:
            states, vectors = features["entity_states"], features["entity_vectors"]
            drawn = None
            if "entity_negatives" in features:
                drawn = Negatives(features["entity_negatives"], target["negative_entities"], torch.ones_like(target["negative_entities"], dtype=torch.float32))
            entity = entity_info_nce(states, vectors, target["entities"], target["asked"], features["entity_scale"], drawn)
        total = factors[3] * text + factors[4] * image + factors[5] * entity
        return total, torch.stack([value.detach().double() for value in (text, image, entity)])

    def _token_sums(self, token_losses: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
        wanted = batch.labels[:, 1:] != -100
        tokens = [int(wanted[self.recipe.row_range(kind)].sum()) for kind in TOKEN_LOSSES.values()]
        return [part.double().sum() for part in token_losses.split(tokens)]
