"""Parameters and arithmetic of a model, by formula.

A multiply-add counts as two operations. The backward pass of a matrix product costs twice its forward pass where both factors need a
gradient, once where only the weight does. Attention counts all S² places of a row, as Chowdhery et al. 2022 (PaLM, appendix B) do,
although half of a causal row is masked. Norms, activations and the softmax are left out (below 1%), and so is what activation
checkpointing computes twice: these are the operations the model needs, so that MFU compares across settings.
Dimensions in names: as in modeling_refinedweb.py and recipe.py.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import torch

from rwtrain.data.recipe import Recipe
from rwtrain.model.configuration_refinedweb import RefinedWebConfig

FORWARD_AND_BACKWARD = 3  # 1 + 2
WEIGHT_ONLY = 2  # the input needs no gradient


@dataclass(frozen=True)
class Parameters:
    """Number of parameters of each part.

    Attributes:
        layer: of one trunk layer; `layers` of all.
        head: of the language-model head, 0 if it shares the embedding.
        gates: entity projection, gates, query and key heads.
        vision: image encoder and its projector.
        rest: last norm, embedding projection, temperatures.
    """

    embedding: int
    head: int
    layer: int
    layers: int
    gates: int
    vision: int
    rest: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.layers + self.gates + self.vision + self.rest

    @property
    def largest_module(self) -> int:
        """Of the modules that ZeRO-3 gathers as one."""
        return max(self.embedding, self.layer)


def count_parameters(config: RefinedWebConfig) -> Parameters:
    """How many parameters a model of this configuration has, part by part."""
    width, head_dim = config.hidden_size, config.head_dim
    norm = width * (2 if config.norm_type == "layer_norm" else 1)
    projections = layer_matrices(config)
    biases = 0
    if config.attention_bias:
        biases += (config.num_attention_heads + 2 * config.num_key_value_heads) * head_dim
    if config.attention_output_bias:
        biases += width
    if config.mlp_bias:
        biases += 2 * config.intermediate_size + width
    layer = projections + biases + 2 * norm + (2 * head_dim if config.qk_norm else 0)
    gates = 0
    if config.entity_dim:
        gate = 2 * width * width + width
        gates = config.entity_dim * width + len(config.gate_layers) * gate + (width + config.entity_dim) * config.embedding_dim + 1
    vision = 0
    if config.vision_config is not None:
        vision_width = config.vision_width
        projector = 2 * vision_width + (vision_width + 1) * width + (width + 1) * width
        vision = _vision_tower(_key(config))[0] + projector
    return Parameters(
        embedding=config.vocab_size * width,
        head=0 if config.tie_word_embeddings else config.vocab_size * width,
        layer=layer,
        layers=layer * config.num_hidden_layers,
        gates=gates,
        vision=vision,
        rest=(norm if config.norm_position == "pre" else 0) + width * config.embedding_dim + 2 + (config.image_logit_bias_init is not None),
    )


def layer_matrices(config: RefinedWebConfig) -> int:
    """Elements of the matrices of one trunk layer."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)


def micro_batch_flops(config: RefinedWebConfig, recipe: Recipe, *, label_tokens: float, world_size: int) -> dict[str, float]:
    """Operations of one rank for one micro-batch, forward and backward, by what they are spent on.

    Args:
        label_tokens: tokens of the micro-batch that carry a language-modelling loss.
        world_size: ranks whose features the contrasts see.

    Returns:
        {"trunk", "head", "images", "knowledge", "contrast"}; empty slots count, since they are computed.
    """
    width, seq_len = config.hidden_size, recipe.config.seq_len
    tokens = recipe.rows * seq_len
    attention = 4 * seq_len * config.num_attention_heads * config.head_dim  # scores and their product with the values, per token
    layer = 2 * layer_matrices(config) + attention
    found = {
        "trunk": FORWARD_AND_BACKWARD * tokens * config.num_hidden_layers * layer,
        "head": FORWARD_AND_BACKWARD * 2 * label_tokens * width * config.vocab_size,
        "images": 0.0,
        "knowledge": 0.0,
        "contrast": FORWARD_AND_BACKWARD * 2 * recipe.pool_slots * width * config.embedding_dim,
    }
    if recipe.images:
        tower = _vision_tower(_key(config))
        projector = FORWARD_AND_BACKWARD * 2 * config.image_seq_length * (config.vision_width * width + width * width)
        found["images"] = float(recipe.images * (tower[1] + projector))
    if config.entity_dim:
        mentions, queries = recipe.rows * recipe.config.mentions_per_row, recipe.rows * recipe.config.queries_per_row
        gates = FORWARD_AND_BACKWARD * len(config.gate_layers) * 2 * mentions * 2 * width * width
        projection = WEIGHT_ONLY * 2 * mentions * config.entity_dim * width
        keys = queries + recipe.entity_negatives
        heads = 2 * (FORWARD_AND_BACKWARD * width * queries + WEIGHT_ONLY * config.entity_dim * keys) * config.embedding_dim
        found["knowledge"] = float(gates + projection + heads)
        found["contrast"] += _similarities(queries, keys * world_size, config.embedding_dim)
    found["contrast"] += _similarities(2 * recipe.pairs, (2 * recipe.pairs + recipe.hard_negatives) * world_size, config.embedding_dim)
    found["contrast"] += 2 * _similarities(recipe.images, recipe.images * world_size, config.embedding_dim)
    return found


def _similarities(queries: int, keys: int, width: int) -> float:
    return float(FORWARD_AND_BACKWARD * 2 * queries * keys * width)


def _key(config: RefinedWebConfig) -> str:
    return json.dumps(config.vision_config.to_dict(), sort_keys=True, default=str)


@functools.lru_cache(maxsize=8)
def _vision_tower(key: str) -> tuple[int, int]:
    """(parameters, operations of one image forward and backward) of any transformers image encoder, counted on a model without data."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModel

    settings = json.loads(key)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device("meta"):
        tower = AutoModel.from_config(config, attn_implementation="eager").eval()
        pixels = torch.empty(1, 3, config.image_size, config.image_size)
    with FlopCounterMode(display=False) as counter:
        tower(pixel_values=pixels).last_hidden_state.sum().backward()
    return sum(parameter.numel() for parameter in tower.parameters()), int(counter.get_total_flops())


def expected_label_tokens(recipe: Recipe) -> float:
    """Label tokens of a full micro-batch: all of text rows, the hidden ones of masked rows, the longest captions."""
    return (
        recipe.text_rows * (recipe.config.seq_len - 1)
        + recipe.masked_rows * recipe.config.seq_len * recipe.config.mask_rate
        + recipe.images * (recipe.config.caption_tokens - 1)
    )
