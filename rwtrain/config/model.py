"""The settings of the model's shape."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rwtrain.config.load import Node
from rwtrain.config.presets import PRESETS


class ModelConfig(Node):
    """The trunk's shape; the vocabulary, entity and image widths follow from the data."""

    preset: str | None = None
    """A shape by name (10m, 50m, 125m, 350m, 1b, 3b, 7b, 13b, 70b); the values beside it replace its own."""
    hidden_size: PositiveInt = 512
    """Width of the hidden states."""
    intermediate_size: PositiveInt = 1408
    """Width of the feed-forward layers."""
    num_hidden_layers: PositiveInt = 8
    """Number of transformer layers."""
    num_attention_heads: PositiveInt = 8
    """Query heads."""
    num_key_value_heads: PositiveInt | None = None
    """Key and value heads (grouped-query attention); None for as many as query heads."""
    head_dim: PositiveInt | None = None
    """Width of a head; None for hidden_size / num_attention_heads."""
    hidden_act: str = "silu"
    """Activation of the gated feed-forward layers, by transformers' name."""
    norm_type: Literal["rms_norm", "layer_norm"] = "rms_norm"
    """Kind of norm."""
    norm_position: Literal["pre", "post"] = "pre"
    """x + Sublayer(Norm(x)), or Norm(x + Sublayer(x))."""
    norm_eps: PositiveFloat = 1e-6
    """Epsilon of the norms."""
    qk_norm: bool = False
    """Normalise queries and keys per head."""
    attention_bias: bool = False
    """Biases of the query, key and value projections."""
    attention_output_bias: bool | None = None
    """Bias of the attention's output projection; None for as attention_bias."""
    mlp_bias: bool = False
    """Biases of the feed-forward layers."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of attention weights dropped in training."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary embedding."""
    rope_scaling: dict[str, Any] | None = None
    """Scaling of the rotary embedding as transformers writes it, for example {rope_type: yarn, factor: 4.0}; None for none."""
    max_position_embeddings: PositiveInt = 2048
    """Longest segment in tokens."""
    tie_word_embeddings: bool = True
    """Share the token embedding with the language-model head."""
    embedding_dim: PositiveInt = 256
    """Width of the text and image embeddings."""
    pooling: Literal["mean", "last"] = "mean"
    """What is embedded of a text or an image: the mean of its tokens' states, or the last token's."""
    gate_layers: list[NonNegativeInt] | None = None
    """Layers before which entity vectors enter; None for the middle layer."""
    vision: dict[str, Any] | None = None
    """Vision backbone as a transformers configuration dict with `model_type` and `image_size` (pixels); None, or batch.image_rows 0: a model without images."""
    image_mean: list[float] | None = None
    """Mean of the backbone's pixels per channel, in [0, 1]; None for 0.5. `init.vision` takes it from the folder."""
    image_std: list[float] | None = None
    """Standard deviation of the backbone's pixels per channel; None for 0.5."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        if name is None:
            return values
        if str(name).lower() not in PRESETS:
            raise ValueError(f"no preset {name!r}; known: {', '.join(PRESETS)}")
        preset = PRESETS[str(name).lower()]
        if "num_hidden_layers" in values:  # the preset's gates belong to its own depth
            preset = {key: value for key, value in preset.items() if key != "gate_layers"}
        return preset | values

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        heads, key_value_heads = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if self.head_dim is None and self.hidden_size % heads:
            raise ValueError(f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={heads}")
        head_dim = self.head_dim or self.hidden_size // heads
        if head_dim % 2:
            raise ValueError(f"heads of {head_dim} features are odd, and rotary embeddings need pairs: change num_attention_heads or head_dim")
        if heads % key_value_heads:
            raise ValueError(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={key_value_heads}")
        if self.rope_scaling is not None and "rope_type" not in self.rope_scaling:
            raise ValueError("rope_scaling names no rope_type: linear, dynamic, yarn or llama3, for example {rope_type: linear, factor: 2.0}")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if values is not None and (len(values) != 3 or (self.image_mean is None) != (self.image_std is None)):
                raise ValueError("image_mean and image_std are three numbers each, and are given together")
        outside = [layer for layer in self.gate_layers or [] if layer >= self.num_hidden_layers]
        if outside:
            raise ValueError(f"gate_layers={self.gate_layers}: the layers are 0 to {self.num_hidden_layers - 1}")
        return self
