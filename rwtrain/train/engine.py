"""The DeepSpeed wall: the only module that knows how a model becomes a DeepSpeed engine."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from rwtrain.config.schema import OptimizerConfig
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining


def build_engine(
    model_config: RefinedWebConfig,
    optimizer_config: OptimizerConfig,
    deepspeed_config: dict[str, Any],
    *,
    steps: int,
    seed: int,
    activation_checkpointing: bool,
) -> Any:
    """A DeepSpeed engine around a freshly initialised model.

    The model is built only through transformers' ZeRO-3 path: under a plain `zero.Init` its weights would keep torch's
    default initialisation and the rotary frequencies would be rounded to bf16.

    Args:
        deepspeed_config: the resolved JSON.
        steps: optimiser steps of the whole run, the length of the schedule.
        seed: of the weights; the same on every rank, so that they agree at any world size.
    """
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        # Otherwise init_distributed compiles a shared-memory op at the first start (45 s, needs a compiler); gloo does without.
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    holder = HfDeepSpeedConfig(deepspeed_config)  # must stay alive while the model is built
    torch.manual_seed(seed)
    model = RefinedWebForPreTraining._from_config(model_config)
    del holder
    if activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        parameter_groups(model, optimizer_config.weight_decay),
        lr=optimizer_config.learning_rate,
        betas=(optimizer_config.beta1, optimizer_config.beta2),
        eps=optimizer_config.epsilon,
    )
    schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, optimizer_config))
    with contextlib.redirect_stdout(None):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=deepspeed_config)
    return engine


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases and temperatures do not."""
    decayed, plain = [], []
    for parameter in model.parameters():
        dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
        (decayed if dimensions >= 2 else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Learning rate of optimiser step `step` (0-based) as a share of the peak."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    shape = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.min_learning_rate_ratio + (1 - config.min_learning_rate_ratio) * shape
