"""The memory of one rank, by formula: what the model, DeepSpeed and the activations of a micro-batch take.

The terms follow the code that runs (modeling_refinedweb.py, DeepSpeed 0.19's ZeRO optimisers) and are checked against measured runs by
benchmarks/plan_memory.py. Dimensions in names: as in modeling_refinedweb.py.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rwtrain.data.recipe import Recipe
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import LOSS_CHUNK_TOKENS
from rwtrain.train.flops import Parameters, count_parameters

FP32 = 4
DEFAULTS = {  # DeepSpeed's own (deepspeed/runtime/zero/config.py), in elements
    "reduce_bucket_size": 500_000_000,
    "allgather_bucket_size": 500_000_000,
    "sub_group_size": 1_000_000_000,
    "stage3_max_live_parameters": 1_000_000_000,
    "stage3_max_reuse_distance": 1_000_000_000,
    "stage3_prefetch_bucket_size": 50_000_000,
}


@dataclass(frozen=True)
class Precision:
    """How ZeRO is set up.

    Attributes:
        bytes: of a parameter, gradient or activation element: 2 with bf16 or fp16, 4 with fp32.
        stage: ZeRO stage.
        offload_optimizer, offload_parameters: they live in the host's memory.
        zero: the resolved "zero_optimization" settings.
    """

    bytes: int
    stage: int
    offload_optimizer: bool
    offload_parameters: bool
    zero: dict[str, Any]

    @classmethod
    def of(cls, deepspeed_config: dict[str, Any]) -> Precision:
        zero = deepspeed_config.get("zero_optimization", {})
        half = any(deepspeed_config.get(kind, {}).get("enabled") for kind in ("bf16", "fp16"))
        on_host = [zero.get(name, {}).get("device", "none") != "none" for name in ("offload_optimizer", "offload_param")]
        return cls(2 if half else FP32, int(zero.get("stage", 0)), on_host[0], on_host[1], zero)

    def elements(self, name: str) -> int:
        return int(self.zero.get(name, DEFAULTS[name]))


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at its fullest moment.

    Attributes:
        parameters: held all the time; `gathered` at once by ZeRO-3.
        optimizer: fp32 weights and both averages; `update` is what an update needs for a moment, at another time than activations.
        buffers: DeepSpeed's buckets.
        activations: kept for the backward pass; `working`: what the busiest operation needs beside them.
        host: of the rank's offloaded states, in the host's memory.
    """

    parameters: float
    gathered: float
    gradients: float
    optimizer: float
    update: float
    buffers: float
    activations: float
    working: float
    host: float

    @property
    def total(self) -> float:
        steady = self.parameters + self.gradients + self.optimizer + self.buffers
        return steady + max(self.gathered + self.activations + self.working, self.update)

    def as_dict(self) -> dict[str, float]:
        return asdict(self) | {"total": self.total}


def rank_memory(
    config: RefinedWebConfig,
    recipe: Recipe,
    precision: Precision,
    *,
    world_size: int,
    checkpoint_every: int,
    label_tokens: float,
    cpu: bool = False,
    average: bool = False,
) -> Memory:
    """The memory of one rank.

    Args:
        checkpoint_every: every how many layers activations are recomputed, 0 for never.
        label_tokens: tokens of the micro-batch with a language-modelling loss.
        cpu: the rank runs on a CPU, where reserved memory counts only once it is used.
        average: the optimiser keeps a moving average of the weights.
    """
    parameters = count_parameters(config)
    states = _states(parameters, precision, world_size=world_size, cpu=cpu, kept=3 if average else 2)
    chunk = LOSS_CHUNK_TOKENS["cpu" if cpu else "cuda"]
    activations, working = _activations(config, recipe, precision.bytes, checkpoint_every=checkpoint_every, label_tokens=label_tokens, chunk=chunk)
    return Memory(**states, activations=activations, working=working)


def _states(parameters: Parameters, precision: Precision, *, world_size: int, cpu: bool, kept: int) -> dict[str, float]:
    """`kept`: float32 numbers of each parameter that the optimiser keeps beside the weights."""
    total, size, stage = parameters.total, precision.bytes, precision.stage
    share = total / world_size
    master = FP32 if size < FP32 or stage > 0 else 0  # ZeRO copies fp32 parameters too; plain fp32 updates them in place
    owned = share if stage else float(total)
    held = (size if stage < 3 else 0) * total + (size * share if stage == 3 else 0)
    optimizer = owned * (master + kept * FP32)
    gradients = size * (total if stage < 2 else share)
    bucket = min(precision.elements("reduce_bucket_size"), total) if cpu else precision.elements("reduce_bucket_size")
    temporaries = 2 * FP32 if cpu else FP32  # of AdamW: sqrt, and on a CPU its quotient
    at_once = min(owned, precision.elements("sub_group_size")) if stage == 3 else owned
    if stage == 0 and size == FP32:
        at_once = float(parameters.embedding)  # the largest tensor: updated one by one
    update = at_once * ((FP32 if stage or size < FP32 else 0) + temporaries)
    host = 0.0
    if precision.offload_optimizer:
        host += optimizer + (FP32 * owned)
        optimizer, update = 0.0, 0.0
        gradients = 0.0 if stage >= 2 else gradients
    if precision.offload_parameters and stage == 3:
        host, held = host + held, 0.0
    gathered = 0.0
    if stage == 3 and world_size > 1:
        live = min(precision.elements("stage3_max_live_parameters"), precision.elements("stage3_max_reuse_distance") / 2)
        gathered = size * min(total, live + precision.elements("stage3_prefetch_bucket_size") + parameters.largest_module)
    if cpu:  # the device's memory is the host's
        optimizer, host = optimizer + host, 0.0
    return {
        "parameters": float(held),
        "gathered": float(gathered),
        "gradients": float(gradients),
        "optimizer": float(optimizer),
        "update": float(update),
        "buffers": float(bucket * size) if stage else 0.0,
        "host": host,
    }


def layer_activation_bytes(config: RefinedWebConfig, seq_len: int, size: int) -> float:
    """Bytes that one trunk layer keeps for the backward pass, per token (two norms, attention, feed-forward, its share of the mask)."""
    width = config.hidden_size
    norm = 2 * size * width + (FP32 * width + FP32 if config.norm_type == "rms_norm" else 2 * FP32)  # RMSNorm keeps its input in float32
    heads = config.num_attention_heads * config.head_dim
    attention = 4 * size * heads + FP32 * config.num_attention_heads + size * seq_len  # q, repeated k and v, output; log-sums; the mask as numbers
    return 2 * norm + attention + 4 * size * config.intermediate_size


def _activations(config: RefinedWebConfig, recipe: Recipe, size: int, *, checkpoint_every: int, label_tokens: float, chunk: int) -> tuple[float, float]:
    """(kept for the backward pass, needed beside it at the busiest moment)."""
    width, seq_len, layers = config.hidden_size, recipe.config.seq_len, config.num_hidden_layers
    tokens = recipe.rows * seq_len
    layer = layer_activation_bytes(config, seq_len, size) * tokens
    recomputed = -(-layers // checkpoint_every) if checkpoint_every else 0
    kept = (layers - recomputed) * layer + recomputed * size * width * tokens
    kept += tokens * (seq_len + 2 * size * config.head_dim + size * width + (FP32 + 2 * size) * width)  # mask, rotary, embeddings, last norm
    kept += label_tokens * 2 * size * width + size * config.vocab_size * width  # inputs of the head, and its gradients, made in the forward pass
    if recipe.images and config.vision_config is not None:
        vision = config.vision_config
        patch = vision.num_hidden_layers * size * (8 * vision.hidden_size + 2 * vision.intermediate_size) + 4 * size * width
        kept += recipe.images * (config.image_seq_length * patch + 3 * FP32 * vision.image_size**2)
    if config.entity_dim:
        kept += recipe.rows * recipe.config.mentions_per_row * (len(config.gate_layers) * 6 * size * width + FP32 * config.entity_dim)
        kept += len(config.gate_layers) * size * width * tokens
    logits = min(chunk, label_tokens) * config.vocab_size * (FP32 + (size if size < FP32 else 0))
    head = logits + (FP32 + size) * config.vocab_size * width
    backward = tokens * size * (3 * config.intermediate_size + 2 * width)  # gradients inside a feed-forward
    return kept, max(head, backward + (layer if recomputed else 0))
