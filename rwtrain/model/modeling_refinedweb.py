"""The RefinedWeb trunk: a Llama-shaped transformer that reads packed segments, images and entity vectors.

Copied as-is into exported folders: imports torch, transformers and its sibling files only.
Parameter names of the trunk are Llama's, so Llama-family weights load into it.
Dimensions in names: B rows, S tokens of a row, D hidden size, M mention slots of a row, E entity vector width, I images, P tokens of an image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .configuration_refinedweb import RefinedWebConfig

# What transformers calls the key-value cache: `cache` since 5.24, `past_key_values` before. The model is called with either.
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


class RefinedWebRMSNorm(nn.Module):
    """Root mean square normalisation (Zhang & Sennrich 2019), computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        wide = hidden.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(hidden.dtype)


def make_norm(config: RefinedWebConfig, size: int | None = None) -> nn.Module:
    """The norm that the configuration asks for, over `size` (default: the hidden size) features."""
    norm = RefinedWebRMSNorm if config.norm_type == "rms_norm" else nn.LayerNorm
    return norm(size or config.hidden_size, eps=config.norm_eps)


class RefinedWebRotaryEmbedding(nn.Module):
    """Rotary position embedding (Su et al. 2021) with transformers' scaling variants; frequencies stay in float32."""

    inv_freq: torch.Tensor

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__()
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        rope_init = self.compute_default_rope_parameters if self.rope_type == "default" else ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = rope_init(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: RefinedWebConfig, **_: Any) -> tuple[torch.Tensor, float]:
        """(inverse frequencies [head_dim / 2] float32, attention scaling)."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / config.rope_parameters["rope_theta"] ** exponents, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = position_ids[..., None].float() * self.inv_freq.to(device=x.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.attention_scaling).to(x.dtype), (angles.sin() * self.attention_scaling).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply the rotary embedding to x [B, heads, S, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat((-second, first), dim=-1) * sin.unsqueeze(1)


def eager_attention_forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(QKᵀ/√d_k)V (Vaswani et al. 2017, equation 1) in plain operations, returning the attention weights too."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class RefinedWebAttention(nn.Module):
    """Grouped-query multi-head attention: Concat(head_1 … head_h) W^O."""

    def __init__(self, config: RefinedWebConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_output_bias)
        if config.qk_norm:
            self.q_norm = RefinedWebRMSNorm(self.head_dim, config.norm_eps)
            self.k_norm = RefinedWebRMSNorm(self.head_dim, config.norm_eps)

    def forward(
        self,
        hidden_BSD: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        shape = (*hidden_BSD.shape[:-1], -1, self.head_dim)
        query, key, value = (projection(hidden_BSD).view(shape) for projection in (self.q_proj, self.k_proj, self.v_proj))
        if self.config.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        query, key = rotate(query, *position_embeddings), rotate(key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.config.attention_dropout if self.training else 0.0
        output, weights = attend(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)
        return self.o_proj(output.reshape(*hidden_BSD.shape[:-1], -1).contiguous()), weights


class RefinedWebMLP(nn.Module):
    """Gated feed-forward layer (SwiGLU, Shazeer 2020)."""

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))


class RefinedWebDecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each with a residual: x + Sublayer(Norm(x)), or Norm(x + Sublayer(x)) when post-norm."""

    def __init__(self, config: RefinedWebConfig, layer_idx: int) -> None:
        super().__init__()
        self.post_norm = config.norm_position == "post"
        self.self_attn = RefinedWebAttention(config, layer_idx)
        self.mlp = RefinedWebMLP(config)
        self.input_layernorm = make_norm(config)
        self.post_attention_layernorm = make_norm(config)

    def forward(self, hidden_BSD: torch.Tensor, **attention_arguments: Any) -> torch.Tensor:
        if self.post_norm:
            hidden_BSD = self.input_layernorm(hidden_BSD + self.self_attn(hidden_BSD, **attention_arguments)[0])
            return self.post_attention_layernorm(hidden_BSD + self.mlp(hidden_BSD))
        hidden_BSD = hidden_BSD + self.self_attn(self.input_layernorm(hidden_BSD), **attention_arguments)[0]
        return hidden_BSD + self.mlp(self.post_attention_layernorm(hidden_BSD))


class RefinedWebGateLinear(nn.Linear):
    """W_g[h; k] + b_g; a class of its own so that its bias starts at `gate_bias_init`."""


class RefinedWebEntityGate(nn.Module):
    """g = σ(W_g[h_t; k_t] + b_g); h'_t = g ⊙ h_t + (1 − g) ⊙ k_t, at the tokens that carry an entity."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate = RefinedWebGateLinear(2 * hidden_size, hidden_size)

    def forward(self, hidden_BSD: torch.Tensor, entity_BMD: torch.Tensor, positions_BM: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states with entities mixed in, and the gates [B, M, D]; slots with position −1 change nothing."""
        index_BMD = positions_BM.clamp(min=0)[..., None].expand_as(entity_BMD)
        state_BMD = hidden_BSD.gather(1, index_BMD)
        gate_BMD = torch.sigmoid(self.gate(torch.cat((state_BMD, entity_BMD), dim=-1)))
        change_BMD = (1 - gate_BMD) * (entity_BMD - state_BMD) * (positions_BM >= 0)[..., None]
        return hidden_BSD.scatter_add(1, index_BMD, change_BMD.to(hidden_BSD.dtype)), gate_BMD


class RefinedWebImageProjector(nn.Module):
    """Map vision features [I, P, vision width] to the trunk's width."""

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.norm = nn.LayerNorm(width)
        self.linear_1 = nn.Linear(width, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(self.norm(features))))


@dataclass
class RefinedWebModelOutput(BaseModelOutputWithPast):
    """`gates`: one tensor [B, M, D] per gate layer, in layer order; None when no entities were given."""

    gates: tuple[torch.Tensor, ...] | None = None


class RefinedWebPreTrainedModel(PreTrainedModel):
    config: RefinedWebConfig
    config_class = RefinedWebConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RefinedWebDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": RefinedWebDecoderLayer, "attentions": RefinedWebAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RefinedWebGateLinear):
            init.constant_(module.bias, self.config.gate_bias_init)


def unit_rms(vectors: torch.Tensor) -> torch.Tensor:
    """Scale vectors [..., E] to root mean square 1, so that the model does not depend on the scale of the entity table; zeros stay zeros."""
    wide = vectors.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-12)


def image_blocks(input_ids: torch.Tensor, image_token_id: int, image_seq_length: int) -> torch.Tensor:
    """Block ids [B, S] that make every image's tokens attend to each other; −1 (causal) elsewhere."""
    is_image = input_ids == image_token_id
    block = (is_image.cumsum(dim=1) - 1) // max(image_seq_length, 1)
    return torch.where(is_image, block, -1)


def check_blocks(position_ids: torch.Tensor, block_ids: torch.Tensor) -> None:
    """Raise `ValueError` if a block [B, S] reaches over the end of a segment: its tokens would see another segment."""
    position_ids = position_ids.expand_as(block_ids)
    begins = torch.nn.functional.pad(position_ids[:, 1:] != position_ids[:, :-1] + 1, (1, 0))
    inside = block_ids >= 0
    row = torch.arange(len(block_ids), device=block_ids.device)[:, None].expand_as(block_ids)
    blocks, block = torch.unique(torch.stack((row[inside], block_ids[inside]), dim=1), dim=0, return_inverse=True)
    segment = begins.cumsum(1)[inside]
    first = segment.new_full((len(blocks),), block_ids.shape[1]).scatter_reduce(0, block, segment, "amin")
    last = segment.new_zeros(len(blocks)).scatter_reduce(0, block, segment, "amax")
    if (first != last).any():
        row_and_id = blocks[first != last][0].tolist()
        raise ValueError(f"block_sequence_ids: row {row_and_id[0]}, block {row_and_id[1]} lies in several segments. Give every segment ids of its own.")


class RefinedWebModel(RefinedWebPreTrainedModel):
    """The trunk with its image encoder, entity gates and embedding head."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"logit_(scale|bias)$", r"^entity_(query|key)\."]

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(RefinedWebDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        self.rotary_emb = RefinedWebRotaryEmbedding(config)
        self.embedding_projection = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)
        if config.entity_dim:
            self.entity_projection = nn.Linear(config.entity_dim, config.hidden_size, bias=False)
            self.entity_gates = nn.ModuleDict({str(layer): RefinedWebEntityGate(config.hidden_size) for layer in config.gate_layers})
        if config.vision_config is not None:
            self.vision_tower = AutoModel.from_config(config.vision_config)
            self._any_size = "interpolate_pos_encoding" not in inspect.signature(type(self.vision_tower).forward).parameters
            self.image_projector = RefinedWebImageProjector(config)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value  # type: ignore[assignment]

    def vision_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The image encoder's states: [I, 3, height, width], RGB in [−1, 1] → [I, P, vision width].

        Images of another size than the backbone's are read where it can interpolate its position embedding, or has none.
        The places of a convolutional feature map become tokens row by row.
        """
        if self.config.image_mean is not None and self.config.image_std is not None:
            mean, std = (pixel_values.new_tensor(values)[:, None, None] for values in (self.config.image_mean, self.config.image_std))
            pixel_values = (pixel_values * 0.5 + 0.5 - mean) / std
        size = getattr(self.config.vision_config, "image_size", None)
        other = {} if size is None or tuple(pixel_values.shape[-2:]) == (size, size) or self._any_size else {"interpolate_pos_encoding": True}
        features = self.vision_tower(pixel_values=pixel_values.to(self.image_projector.norm.weight.dtype), **other).last_hidden_state
        return features.flatten(2).transpose(1, 2) if features.dim() == 4 else features  # [I, C, H, W]

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Trunk inputs of images: [I, 3, height, width], RGB in [−1, 1] → [I, P, D]."""
        features = self.vision_features(pixel_values)
        size = getattr(self.config.vision_config, "image_size", None)
        if features.shape[1] != self.config.image_seq_length and tuple(pixel_values.shape[-2:]) == (size, size):
            raise ValueError(f"The image encoder gives {features.shape[1]} tokens per image, image_seq_length says {self.config.image_seq_length}.")
        return self.image_projector(features)

    def embed_inputs(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> tuple[torch.Tensor, int]:
        """(token embeddings with image placeholders replaced, in order, by image features; tokens of an image). Surplus images are encoded but unused."""
        embeds_BSD = self.embed_tokens(input_ids)
        if pixel_values is None:
            return embeds_BSD, 0
        features = self.image_features(pixel_values).to(embeds_BSD.dtype)
        is_image = (input_ids == self.config.image_token_id)[..., None].expand_as(embeds_BSD)
        if not torch.compiler.is_compiling() and int(is_image[..., 0].sum()) > features.shape[0] * features.shape[1]:
            raise ValueError(f"{int(is_image[..., 0].sum())} image placeholder tokens, but pixel_values holds only {features.shape[0]} images.")
        return embeds_BSD.masked_scatter(is_image, features), features.shape[1]

    @can_return_tuple
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        block_sequence_ids: torch.Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> RefinedWebModelOutput:
        """Read rows of packed segments.

        Args:
            input_ids: [B, S]; `inputs_embeds` [B, S, D] may stand for it.
            attention_mask: [B, S], 0 at padding.
            position_ids: [B, S]; a restart at 0 begins a new segment, and segments do not see each other.
            pixel_values: [I, 3, height, width], in the order of their placeholder runs in `input_ids`.
            entity_embeds: [B, M, E] entity vectors; `entity_positions` [B, M] says at which token each enters, −1 for an empty slot.
            block_sequence_ids: [B, S]; equal ids ≥ 0 see each other in both directions, −1 is causal.
                Default: causal, with the tokens of each image as one block.
            cache: the newer name of `past_key_values`.
        """
        past_key_values = cache if past_key_values is None else past_key_values
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if inputs_embeds is None:
            assert input_ids is not None  # by the check above
            inputs_embeds, image_tokens = self.embed_inputs(input_ids, pixel_values)
            if block_sequence_ids is None and pixel_values is not None:
                block_sequence_ids = image_blocks(input_ids, self.config.image_token_id, image_tokens)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device)[None] + seen
        if block_sequence_ids is not None and not self.training and not torch.compiler.is_compiling():  # training batches are built without such
            check_blocks(position_ids, block_sequence_ids)
        named_cache: dict[str, Any] = {CACHE: past_key_values}
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            block_sequence_ids=block_sequence_ids,
            **named_cache,
        )
        entity_BMD = None if entity_embeds is None else self.entity_projection(unit_rms(entity_embeds).to(inputs_embeds.dtype))
        rotary = self.rotary_emb(inputs_embeds, position_ids=position_ids)
        hidden_BSD, gates = inputs_embeds, []
        for index, layer in enumerate(self.layers):
            if entity_BMD is not None and str(index) in self.entity_gates:
                hidden_BSD, gate = self.entity_gates[str(index)](hidden_BSD, entity_BMD, entity_positions)
                gates.append(gate)
            hidden_BSD = layer(hidden_BSD, position_embeddings=rotary, attention_mask=mask, past_key_values=past_key_values, **kwargs)
        return RefinedWebModelOutput(
            last_hidden_state=self.norm(hidden_BSD),
            gates=tuple(gates) or None,
            **named_cache,
        )

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: Any) -> torch.Tensor:
        """L2-normalised embeddings [B, embedding_dim]: each row is read in both directions, then averaged over its tokens or taken at the last."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        blocks = torch.where(attention_mask.bool(), 0, -1)
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        hidden = self(input_ids, attention_mask, position_ids, block_sequence_ids=blocks, **inputs).last_hidden_state
        return self._embed(hidden, attention_mask)

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """L2-normalised embeddings [I, embedding_dim] of images: their tokens are read by the trunk, then averaged or taken at the last."""
        embeds = self.image_features(pixel_values)
        blocks = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        hidden = self(inputs_embeds=embeds, block_sequence_ids=blocks).last_hidden_state
        return self._embed(hidden, torch.ones_like(blocks))

    def _embed(self, hidden_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        if self.config.pooling == "last":
            last = (mask_BS * torch.arange(mask_BS.shape[1], device=mask_BS.device)).argmax(1)
            pooled = hidden_BSD[torch.arange(len(last), device=last.device), last]
        else:
            weight = mask_BS[..., None].to(hidden_BSD.dtype)
            pooled = (hidden_BSD * weight).sum(1) / weight.sum(1)
        return nn.functional.normalize(self.embedding_projection(pooled).float(), dim=-1)


__all__ = ["RefinedWebModel", "RefinedWebPreTrainedModel"]
