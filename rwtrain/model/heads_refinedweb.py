"""The RefinedWeb model with its heads: generation, and the pretraining forward pass that serves every loss at once.

Copied as-is into exported folders: imports torch, transformers and its sibling files only.
Dimensions in names: as in modeling_refinedweb.py; T label tokens, V vocabulary, N pooled slots, Q entity queries of a row, C embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast, ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_refinedweb import RefinedWebConfig
from .modeling_refinedweb import CACHE, RefinedWebModel, RefinedWebPreTrainedModel, unit_rms

# Tokens whose logits exist at once. On a processor small chunks stay near its caches (bf16, 32k vocabulary: 1.7 times the speed of 2,048).
LOSS_CHUNK_TOKENS = {"cpu": 512, "cuda": 4096}


class WeightedLinearCrossEntropy(torch.autograd.Function):
    """Σ_t w_t · cross-entropy(softmax(h_t Wᵀ), label_t) without the [T, V] logits: chunks of tokens, gradients made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: torch.Tensor, weight_VD: torch.Tensor, labels_T: torch.Tensor, weights_T: torch.Tensor, chunk: int) -> Any:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        losses_T = torch.empty(len(labels_T), dtype=torch.float64 if hidden_TD.dtype == torch.float64 else torch.float32, device=hidden_TD.device)
        scale = weights_T.abs().max().clamp(min=torch.finfo(weights_T.dtype).tiny) if len(weights_T) else weights_T.new_ones(())
        grad_hidden_TD = torch.empty_like(hidden_TD) if needs_grad else None
        grad_weight_VD = torch.zeros(weight_VD.shape, dtype=losses_T.dtype, device=weight_VD.device) if needs_grad else None
        for start in range(0, len(labels_T), chunk):
            part = slice(start, start + chunk)
            log_shares = torch.log_softmax(hidden_TD[part] @ weight_VD.T, -1, dtype=losses_T.dtype)
            label = labels_T[part, None]
            losses_T[part] = -log_shares.gather(1, label).squeeze(1)
            if grad_hidden_TD is None or grad_weight_VD is None:
                continue
            error = log_shares.exp_()
            error.scatter_add_(1, label, torch.full_like(label, -1, dtype=error.dtype))
            error = error.mul_((weights_T[part] / scale)[:, None].to(error.dtype)).to(hidden_TD.dtype)
            grad_hidden_TD[part] = error @ weight_VD
            grad_weight_VD += error.T @ hidden_TD[part]
        if grad_hidden_TD is not None and grad_weight_VD is not None:
            ctx.save_for_backward(grad_hidden_TD, grad_weight_VD.to(weight_VD.dtype), scale)
        ctx.mark_non_differentiable(losses_T)
        return (losses_T * weights_T).sum(), losses_T

    @staticmethod
    def backward(ctx: Any, grad_total: torch.Tensor, _: torch.Tensor) -> Any:
        grad_hidden_TD, grad_weight_VD, scale = ctx.saved_tensors
        factor = grad_total * scale
        return (grad_hidden_TD * factor).to(grad_hidden_TD.dtype), (grad_weight_VD * factor).to(grad_weight_VD.dtype), None, None, None


class RefinedWebHead(nn.Linear):
    """The language-model head; with labels it returns losses instead of logits, so the logits of a batch never exist at once."""

    def forward(self, hidden: torch.Tensor, labels_T: torch.Tensor | None = None, weights_T: torch.Tensor | None = None) -> Any:
        if labels_T is None:
            return super().forward(hidden)
        return WeightedLinearCrossEntropy.apply(hidden, self.weight, labels_T, weights_T, LOSS_CHUNK_TOKENS.get(hidden.device.type, 4096))


class RefinedWebForCausalLM(RefinedWebPreTrainedModel, GenerationMixin):
    """Generation from text, images and entity vectors; also carries the contrastive temperatures and the entity heads."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__(config)
        self.model = RefinedWebModel(config)
        self.lm_head = RefinedWebHead(config.hidden_size, config.vocab_size, bias=False)
        self.text_logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init))
        self.image_logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init))
        if config.image_logit_bias_init is not None:
            self.image_logit_bias = nn.Parameter(torch.full((1,), config.image_logit_bias_init))
        if config.entity_dim:
            self.entity_query = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)
            self.entity_key = nn.Linear(config.entity_dim, config.embedding_dim, bias=False)
            self.entity_logit_scale = nn.Parameter(torch.full((1,), config.logit_scale_init))
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RefinedWebForCausalLM):
            for name, parameter in module.named_parameters(recurse=False):
                if not getattr(parameter, "_is_hf_initialized", False):
                    parameter.fill_((self.config.image_logit_bias_init or 0.0) if name == "image_logit_bias" else self.config.logit_scale_init)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: RefinedWebHead) -> None:
        self.lm_head = value

    def get_text_features(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.model.get_text_features(*args, **kwargs)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(pixel_values)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        pixel_values: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        block_sequence_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits [B, S, V]; other inputs as in `RefinedWebModel.forward`; `labels` [B, S] use −100 for ignored tokens."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache if past_key_values is None else past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            entity_embeds=entity_embeds,
            entity_positions=entity_positions,
            block_sequence_ids=block_sequence_ids,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, keep])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: outputs.get(CACHE)},
        )

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Images and entities belong to the prompt: they enter with the first forward pass and live in the cache after it."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]
        cache = inputs.get(CACHE)
        if cache is not None and cache.get_seq_length() > 0:
            for name in ("pixel_values", "entity_embeds", "entity_positions", "block_sequence_ids"):
                inputs.pop(name, None)
        return inputs


@dataclass
class RefinedWebPreTrainingOutput(ModelOutput):
    """What the objectives need from one pass.

    Attributes:
        token_loss: Σ_t weight_t · cross-entropy_t, a scalar with gradient.
        token_losses: cross-entropy of each label token in reading order, [T] without gradient.
        embeddings: L2-normalised embedding of each pooled slot, [N, C].
        entity_queries, entity_keys: L2-normalised mention states and projected entity vectors, [B, Q, C] each.
        entity_negatives: L2-normalised projected vectors of further entities, [K, C].
        text_scale, image_scale, entity_scale: inverse temperatures, [1].
        image_bias: bias of the sigmoid image contrast, [1].
        gate_openness: mean 1 − g over occupied mention slots, per gate layer, without gradient.
    """

    token_loss: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    entity_queries: torch.Tensor | None = None
    entity_keys: torch.Tensor | None = None
    entity_negatives: torch.Tensor | None = None
    text_scale: torch.Tensor | None = None
    image_scale: torch.Tensor | None = None
    entity_scale: torch.Tensor | None = None
    image_bias: torch.Tensor | None = None
    gate_openness: torch.Tensor | None = None


class RefinedWebForPreTraining(RefinedWebForCausalLM):
    """The same parameters; one forward pass over a packed batch yields what every pretraining loss needs."""

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        block_sequence_ids: torch.Tensor,
        labels: torch.Tensor,
        label_weights: torch.Tensor,
        pool_ids: torch.Tensor,
        pool_slots: int,
        pixel_values: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        query_embeds: torch.Tensor | None = None,
        query_positions: torch.Tensor | None = None,
        negative_embeds: torch.Tensor | None = None,
    ) -> RefinedWebPreTrainingOutput:
        """Read one micro-batch.

        Args:
            labels: [B, S] target ids aligned with `input_ids` (the token before predicts them), −100 where there is none.
            label_weights: [B, S] float32 weight of each label's loss.
            pool_ids: [B, S] pooled slot of each token, −1 for none; `pool_slots` is their number N.
            query_embeds: [B, Q, E] entity vectors to be recognised from context at `query_positions` [B, Q] (−1: empty slot).
            negative_embeds: [K, E] vectors of further entities.
            Others: as in `RefinedWebModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            position_ids=position_ids,
            block_sequence_ids=block_sequence_ids,
            pixel_values=pixel_values,
            entity_embeds=entity_embeds,
            entity_positions=entity_positions,
        )
        hidden_BSD = outputs.last_hidden_state
        wanted = labels[:, 1:] != -100
        token_loss, token_losses = self.lm_head(hidden_BSD[:, :-1][wanted], labels[:, 1:][wanted], label_weights[:, 1:][wanted])
        result = RefinedWebPreTrainingOutput(
            token_loss=token_loss,
            token_losses=token_losses,
            embeddings=self._pool(hidden_BSD, pool_ids, pool_slots),
            text_scale=self._inverse_temperature(self.text_logit_scale),
            image_scale=self._inverse_temperature(self.image_logit_scale),
        )
        if self.config.image_logit_bias_init is not None:
            result.image_bias = self.image_logit_bias.float()
        if query_embeds is not None and query_positions is not None:
            index = query_positions.clamp(min=0)[..., None].expand(-1, -1, hidden_BSD.shape[-1])
            result.entity_queries = _normalize(self.entity_query(hidden_BSD.gather(1, index)))
            keys = query_embeds.flatten(0, 1) if negative_embeds is None else torch.cat((query_embeds.flatten(0, 1), negative_embeds))
            projected = _normalize(self.entity_key(unit_rms(keys).to(hidden_BSD.dtype)))
            asked = query_positions.numel()
            result.entity_keys = projected[:asked].view(*query_positions.shape, -1)
            result.entity_negatives = None if negative_embeds is None else projected[asked:]
            result.entity_scale = self._inverse_temperature(self.entity_logit_scale)
        if outputs.gates is not None and entity_positions is not None:
            result.gate_openness = gate_openness(outputs.gates, entity_positions)
        return result

    def _pool(self, hidden_BSD: torch.Tensor, pool_ids: torch.Tensor, slots: int) -> torch.Tensor:
        flat = torch.where(pool_ids < 0, slots, pool_ids).flatten()
        ones = torch.ones(len(flat), dtype=torch.float32, device=flat.device)
        counts = torch.zeros(slots + 1, dtype=torch.float32, device=flat.device).index_add_(0, flat, ones)
        if self.config.pooling == "last":
            last = flat.new_zeros(slots + 1).scatter_reduce(0, flat, torch.arange(len(flat), device=flat.device), "amax")[:slots]
            states = hidden_BSD.flatten(0, 1)[last] * (counts[:slots, None] > 0)  # the embedding of an empty slot is zero
            return _normalize(self.model.embedding_projection(states))
        sums = torch.zeros(slots + 1, hidden_BSD.shape[-1], dtype=torch.float32, device=flat.device)
        sums = sums.index_add(0, flat, hidden_BSD.flatten(0, 1).float())
        means = (sums / counts.clamp(min=1)[:, None])[:slots]
        return _normalize(self.model.embedding_projection(means.to(hidden_BSD.dtype)))

    def _inverse_temperature(self, logit_scale: torch.Tensor) -> torch.Tensor:
        return logit_scale.float().clamp(max=self.config.logit_scale_max).exp()


def gate_openness(gates: tuple[torch.Tensor, ...], entity_positions: torch.Tensor) -> torch.Tensor:
    """Mean 1 − g over the occupied mention slots, [gate layers] float32; 0 without mentions."""
    occupied = (entity_positions >= 0).float()
    total = occupied.sum().clamp(min=1)
    return torch.stack([((1 - gate.detach().float()).mean(-1) * occupied).sum() / total for gate in gates])


def _normalize(vectors: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(vectors.float(), dim=-1)


__all__ = ["RefinedWebForCausalLM", "RefinedWebForPreTraining"]
