"""What a run will take, before it starts: memory, communication, time and money, from formulas with stated assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Recipe
from rwtrain.errors import ConfigError, RWTrainError
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.train.flops import count_parameters, expected_label_tokens, layer_matrices, micro_batch_flops
from rwtrain.train.hardware import Device
from rwtrain.train.memory import FP32, Memory, Precision, rank_memory
from rwtrain.train.setup import image_shape, shape_model

ATTAINABLE = 0.55  # of the peak by the model's matrix products; 1B to 8B models reach 0.40 to 0.58 on H100 in published runs
USABLE_MEMORY = 0.92  # the rest: CUDA context, NCCL buffers, fragmentation
HOST_GB_S = 25.0  # host to device, each direction
NODE_GPUS = 8  # of a node, where it is not said
WORLD_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
DAY_S = 86_400.0


@dataclass(frozen=True)
class Cluster:
    """Where a run is to take place.

    Attributes:
        gpus: per node; `network_gb_s`: between nodes, per GPU, each direction.
    """

    nodes: int
    gpus: int
    device: Device
    network_gb_s: float = 50.0
    price_per_gpu_hour: float | None = None

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus

    @property
    def bandwidth(self) -> float:
        """Bytes per second of the slowest link of a ring over all ranks."""
        return 1e9 * (self.device.link_gb_s if self.nodes == 1 else min(self.device.link_gb_s, self.network_gb_s))


@dataclass(frozen=True)
class Widths:
    """What the data decides about the model: read from the files where they are here, else assumed (and listed)."""

    vocab_size: int
    entity_dim: int
    image_tokens: int
    assumed: tuple[str, ...]

    @classmethod
    def of(cls, config: TrainConfig, *, vocab_size: int | None = None, entity_dim: int | None = None) -> Widths:
        assumed = []
        if vocab_size is None and Path(config.data.tokenizer).exists():
            from rwtrain.data.tokenizer import Tokenizer

            vocab_size = Tokenizer(config.data.tokenizer).vocab_size
        if vocab_size is None:
            vocab_size = 32_000
            assumed.append(f"vocabulary of {vocab_size:,} ({config.data.tokenizer} is not here; --vocab-size)")
        if config.data.entity_store is None:
            entity_dim = 0
        elif entity_dim is None and Path(config.data.entity_store).exists():
            from rwtrain.knowledge.store import EntityStore

            entity_dim = int(EntityStore.open(config.data.entity_store).vectors.shape[1])
        elif entity_dim is None:
            entity_dim = 128
            assumed.append(f"entity vectors of width {entity_dim} ({config.data.entity_store} is not here; --entity-dim)")
        images = config.model.vision is not None and config.batch.image_rows > 0
        return cls(vocab_size, entity_dim, image_shape(config.model.vision)[1] if images and config.model.vision else 0, tuple(assumed))


@dataclass(frozen=True)
class Plan:
    """The figures of one run on one cluster."""

    world_size: int
    accumulation: int
    rows: int
    tokens_per_step: int
    model_flops: float
    memory: Memory
    communication: dict[str, float]
    compute_s: float
    communication_s: float
    update_s: float
    step_s: float
    mfu: float
    checkpoint_bytes: float
    device: Device
    steps: int
    price_per_gpu_hour: float | None

    @property
    def fits(self) -> bool:
        return self.memory.total <= USABLE_MEMORY * self.device.memory_gb * 1e9

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / self.step_s

    @property
    def days(self) -> float:
        return self.steps * self.step_s / DAY_S

    @property
    def gpu_hours(self) -> float:
        return self.days * 24 * self.world_size

    @property
    def cost(self) -> float | None:
        return None if self.price_per_gpu_hour is None else self.gpu_hours * self.price_per_gpu_hour

    def as_dict(self) -> dict[str, Any]:
        """Plain values, bytes and seconds."""
        plain = ("world_size", "accumulation", "tokens_per_step", "compute_s", "communication_s", "update_s", "step_s", "mfu", "checkpoint_bytes", "steps")
        derived = ("fits", "tokens_per_s", "days", "gpu_hours", "cost")
        return {
            **{name: getattr(self, name) for name in plain + derived},
            "rows_per_micro_batch": self.rows,
            "model_flops_per_step": self.model_flops,
            "memory": self.memory.as_dict(),
            "communication_bytes": self.communication,
            "tokens": self.tokens_per_step * self.steps,
        }


def make_plan(config: TrainConfig, cluster: Cluster, widths: Widths, *, accumulation: int | None = None) -> Plan:
    """The plan of one configuration, whether it fits or not.

    Args:
        accumulation: replaces batch.accumulation.

    Raises:
        ConfigError: the configuration cannot run on this number of ranks.
    """
    if accumulation is not None:
        config = config.model_copy(update={"batch": config.batch.model_copy(update={"accumulation": accumulation})})
    world_size, steps_per_update = cluster.world_size, config.batch.accumulation
    precision = Precision.of(resolve(config, world_size=world_size))
    model = shape_model(config, vocab_size=widths.vocab_size, entity_dim=widths.entity_dim, image_tokens=widths.image_tokens)
    recipe = Recipe.derive(config.batch, world_size=world_size, image_tokens=widths.image_tokens, entity_dim=widths.entity_dim)
    if config.batch.image_rows and recipe.images_per_row == 0:
        raise ConfigError(
            f"an image ({widths.image_tokens} tokens) and two captions of {config.batch.caption_tokens} tokens do not fit a row of {config.batch.seq_len}: "
            "raise batch.seq_len or lower batch.caption_tokens."
        )
    labels = expected_label_tokens(recipe)
    every = config.engine.activation_checkpointing
    flops = sum(micro_batch_flops(model, recipe, label_tokens=labels, world_size=world_size).values()) * steps_per_update
    recomputed = _recomputed_flops(model, recipe, every) * steps_per_update
    communication = communication_bytes(count_parameters(model).total, precision, world_size=world_size, accumulation=steps_per_update)
    peak = cluster.device.peak_tflops * 1e12 / (2 if precision.bytes == FP32 else 1)
    compute_s = (flops + recomputed) / (peak * ATTAINABLE)
    gather_s, reduce_s = communication["gather"] / cluster.bandwidth, communication["reduce"] / cluster.bandwidth
    overlap = bool(precision.zero.get("overlap_comm"))
    hidden_s = gather_s + (reduce_s if overlap else 0.0)
    shown_s = 0.0 if overlap else reduce_s
    update_s = _update_s(count_parameters(model).total, precision, cluster)
    step_s = max(compute_s, hidden_s) + shown_s + update_s
    total, average = count_parameters(model).total, config.optimizer.ema_decay is not None
    return Plan(
        world_size=world_size,
        accumulation=steps_per_update,
        rows=recipe.rows,
        tokens_per_step=recipe.rows * config.batch.seq_len * world_size * steps_per_update,
        model_flops=flops * world_size,
        memory=rank_memory(model, recipe, precision, world_size=world_size, checkpoint_every=every, label_tokens=labels, average=average),
        communication=communication,
        compute_s=compute_s,
        communication_s=hidden_s + shown_s,
        update_s=update_s,
        step_s=step_s,
        mfu=flops / step_s / (cluster.device.peak_tflops * 1e12),
        checkpoint_bytes=float(total * (precision.bytes + ((3 if precision.bytes < FP32 or precision.stage else 2) + average) * FP32)),
        device=cluster.device,
        steps=config.steps,
        price_per_gpu_hour=cluster.price_per_gpu_hour,
    )


def _recomputed_flops(model: RefinedWebConfig, recipe: Recipe, every: int) -> float:
    if not every:
        return 0.0
    layers = -(-model.num_hidden_layers // every)
    attention = 4 * recipe.config.seq_len * model.num_attention_heads * model.head_dim
    return float(layers * recipe.rows * recipe.config.seq_len * (2 * layer_matrices(model) + attention))


def communication_bytes(parameters: int, precision: Precision, *, world_size: int, accumulation: int) -> dict[str, float]:
    """Bytes that each rank sends in one optimiser step, in ring collectives: (n − 1)/n of the data for each gather or scatter.

    Stage 0 and 1 reduce once, at the last micro-batch; 2 and 3 at each one; 3 gathers the weights for each forward and backward pass,
    the lower sharded ones once for the update (Rajbhandari et al. 2020, section 7).
    """
    ring = parameters * precision.bytes * (world_size - 1) / world_size
    gathers = {0: 1, 1: 1, 2: 1, 3: 2 * accumulation}[precision.stage]  # an all-reduce of stage 0 is a scatter and a gather
    reductions = accumulation if precision.stage >= 2 else 1
    return {"gather": ring * gathers, "reduce": ring * reductions}


def _update_s(parameters: int, precision: Precision, cluster: Cluster) -> float:
    owned = parameters / cluster.world_size if precision.stage else parameters
    if precision.offload_optimizer:
        return owned * 2 * precision.bytes / (HOST_GB_S * 1e9) + owned * 28 / 100e9  # gradients down, weights up; AdamW at the host's memory speed
    return owned * (7 * FP32 + 2 * precision.bytes) / (cluster.device.memory_gb_s * 1e9)  # reads 4, writes 3 numbers, and the model's copy


def largest_micro_batch(config: TrainConfig, cluster: Cluster, widths: Widths) -> Plan | None:
    """The plan with the fewest accumulation steps, that is the largest micro-batch, that fits; None if none does."""
    rows = [count for count in (config.batch.text_rows, config.batch.masked_rows, config.batch.pair_rows, config.batch.image_rows) if count]
    shared = math.gcd(*rows)
    if shared % cluster.world_size:
        return None
    share = shared // cluster.world_size
    for accumulation in (number for number in range(1, share + 1) if share % number == 0):
        plan = make_plan(config, cluster, widths, accumulation=accumulation)
        if plan.fits:
            return plan
    return None


def check(config: TrainConfig, cluster: Cluster, widths: Widths) -> Plan:
    """The plan of a configuration that can run.

    Raises:
        ConfigError: it cannot, with the reason and what would help.
    """
    plan = make_plan(config, cluster, widths)
    if plan.fits:
        return plan
    needed, there = plan.memory.total / 1e9, USABLE_MEMORY * cluster.device.memory_gb
    advice = []
    best = largest_micro_batch(config, cluster, widths)
    if best is not None:
        advice.append(f"batch.accumulation={best.accumulation}")
    if not config.engine.activation_checkpointing:
        advice.append("engine.activation_checkpointing=true")
    if Precision.of(resolve(config, world_size=cluster.world_size)).stage < 3:
        advice.append("the zero3 overlay")
    if not plan.memory.host:
        advice.append("the offload overlay")
    raise ConfigError(
        f"memory: one rank needs {needed:.1f} GB, a {cluster.device.name} has {there:.1f} GB to use ({_largest_terms(plan.memory)}). "
        f"Try {' or '.join([*advice, 'more or larger GPUs'])}."
    )


def smallest_cluster(config: TrainConfig, device: Device, widths: Widths, *, network_gb_s: float, price_per_gpu_hour: float | None) -> Cluster:
    """The fewest nodes of `NODE_GPUS` GPUs, in powers of two, on which a configuration can run as it is.

    Raises:
        ConfigError: there is none, with the reason on one node.
    """
    problem: RWTrainError | None = None
    for world_size in WORLD_SIZES:
        cluster = Cluster(world_size // NODE_GPUS, NODE_GPUS, device, network_gb_s, price_per_gpu_hour)
        try:
            check(config, cluster, widths)
        except RWTrainError as error:
            problem = problem or error
        else:
            return cluster
    assert problem is not None
    raise problem


def _largest_terms(memory: Memory) -> str:
    terms = {name: value for name, value in memory.as_dict().items() if name not in ("total", "host")}
    return ", ".join(f"{name} {value / 1e9:.1f}" for name, value in sorted(terms.items(), key=lambda item: -item[1])[:3])


def scaling(config: TrainConfig, cluster: Cluster, widths: Widths) -> list[tuple[int, Plan | None, Plan | None, str]]:
    """Over world sizes: (ranks, plan at the configured global batch or None, plan at the configured rows per rank or None, reason)."""
    found: list[tuple[int, Plan | None, Plan | None, str]] = []
    rows = {name: getattr(config.batch, name) for name in ("text_rows", "masked_rows", "pair_rows", "image_rows")}
    for ranks in WORLD_SIZES:
        gpus = min(cluster.gpus, ranks)
        there = Cluster(-(-ranks // gpus), gpus, cluster.device, cluster.network_gb_s, cluster.price_per_gpu_hour)
        strong, weak, reason = None, None, ""
        if there.world_size != ranks:
            found.append((ranks, None, None, f"{ranks} is not a multiple of {gpus} GPUs per node"))
            continue
        try:
            strong = largest_micro_batch(config, there, widths) or check(config, there, widths)
        except RWTrainError as error:
            reason = str(error).split(". Try")[0].rstrip(".")
        scaled = {name: count * ranks / cluster.world_size for name, count in rows.items()}
        if all(count == int(count) for count in scaled.values()):
            batch = config.batch.model_copy(update={name: int(count) for name, count in scaled.items()})
            try:
                weak = check(config.model_copy(update={"batch": batch}), there, widths)
            except RWTrainError as error:
                reason = reason or str(error)
        found.append((ranks, strong, weak, reason))
    return found
