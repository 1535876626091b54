"""Configuration of the RefinedWeb model. Copied as-is into exported folders: imports torch and transformers only."""

from __future__ import annotations

import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig


class RefinedWebConfig(PreTrainedConfig):
    """One trunk that encodes and generates, entity vectors injected through gates, an image encoder that feeds the trunk.

    Args:
        vocab_size: number of token ids.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim: trunk shape.
        max_position_embeddings: longest segment, in tokens.
        norm_type: "rms_norm" or "layer_norm".
        norm_position: "pre" (x + Sublayer(Norm(x))) or "post" (Norm(x + Sublayer(x))).
        norm_eps: epsilon of every norm.
        qk_norm: normalise queries and keys per head before the rotary embedding.
        attention_bias: biases of the query, key and value projections; attention_output_bias of the output projection, None for as attention_bias.
        rope_parameters: transformers' rotary settings; None for theta 10,000 without scaling.
        entity_dim: width of the external entity vectors; 0 builds a model without knowledge.
        gate_layers: layers before which entity vectors enter.
        gate_bias_init: initial gate bias; sigmoid(4) = 0.98 keeps 98% of the hidden state, so training starts as the plain model.
        embedding_dim: width of the text and image embeddings that the contrastive losses compare.
        pooling: "mean" over the tokens of a text or image, or the state of its "last" token.
        logit_scale_init: initial value of the learnable log inverse temperature.
        logit_scale_max: upper bound of the log inverse temperature.
        image_logit_bias_init: initial value of the learnable bias of the sigmoid image contrast; None: there is none, for InfoNCE.
        classifier_dropout: dropout before the heads of tasks_refinedweb.py.
        vision_config: configuration (or its dict, with `model_type`) of any transformers vision backbone; None for text only.
        vision_width: features per token of the backbone; None: what its configuration says, or the last of several stages.
        image_seq_length: tokens the backbone yields for one image; the places of a feature map [C, H, W] count as H · W tokens.
        image_mean, image_std: what the backbone wants its pixels normalised with, per channel; None for 0.5, as pixel_values are.
        image_token_id, mask_token_id: reserved ids of the image placeholder and of masked-out tokens.
    """

    model_type = "refinedweb"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    sub_configs = {"vision_config": AutoConfig}

    vocab_size: int = 32000
    hidden_size: int = 512
    intermediate_size: int = 1408
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = None  # type: ignore[assignment]  # None is replaced in __post_init__, here and below
    head_dim: int = None  # type: ignore[assignment]
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    norm_type: str = "rms_norm"
    norm_position: str = "pre"
    norm_eps: float = 1e-6
    qk_norm: bool = False
    attention_bias: bool = False
    attention_output_bias: bool = None  # type: ignore[assignment]
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    rope_parameters: dict[str, Any] = None  # type: ignore[assignment]
    use_cache: bool = True
    tie_word_embeddings: bool = True
    entity_dim: int = 0
    gate_layers: list[int] = None  # type: ignore[assignment]
    gate_bias_init: float = 4.0
    embedding_dim: int = 256
    pooling: str = "mean"
    logit_scale_init: float = math.log(1 / 0.07)
    logit_scale_max: float = math.log(100.0)
    image_logit_bias_init: float | None = None
    classifier_dropout: float = 0.1
    vision_config: Any = None
    vision_width: int = None  # type: ignore[assignment]
    image_seq_length: int = 0
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = 3
    mask_token_id: int = 4
    image_token_id: int = 5

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.attention_output_bias is None:
            self.attention_output_bias = self.attention_bias
        if self.gate_layers is None:
            self.gate_layers = [self.num_hidden_layers // 2] if self.entity_dim else []
        if isinstance(self.vision_config, dict):
            vision = dict(self.vision_config)
            self.vision_config = AutoConfig.for_model(vision.pop("model_type"), **vision)
        if self.vision_width is None and self.vision_config is not None:
            self.vision_width = last_width(self.vision_config)
        super().__post_init__(**kwargs)
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Raise `ValueError` for shapes that cannot be built."""
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(f"num_attention_heads={self.num_attention_heads} is not a multiple of num_key_value_heads={self.num_key_value_heads}.")
        if self.norm_type not in ("rms_norm", "layer_norm"):
            raise ValueError(f"norm_type={self.norm_type!r}: choose rms_norm or layer_norm.")
        if self.norm_position not in ("pre", "post"):
            raise ValueError(f"norm_position={self.norm_position!r}: choose pre or post.")
        if self.pooling not in ("mean", "last"):
            raise ValueError(f"pooling={self.pooling!r}: choose mean or last.")
        if self.gate_layers and not self.entity_dim:
            raise ValueError("gate_layers is set but entity_dim is 0: set entity_dim to the width of the entity vectors, or gate_layers to [].")
        if any(not 0 <= layer < self.num_hidden_layers for layer in self.gate_layers):
            raise ValueError(f"gate_layers={self.gate_layers}: the layers are 0 to {self.num_hidden_layers - 1}.")


def last_width(vision_config: Any) -> int | None:
    """Features per token that a vision backbone's configuration promises: `hidden_size`, or the last of `hidden_sizes`; None if it has neither."""
    width = getattr(vision_config, "hidden_size", None)
    stages = getattr(vision_config, "hidden_sizes", None)
    return width or (stages[-1] if stages else None)


__all__ = ["RefinedWebConfig"]
