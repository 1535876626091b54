"""The DeepSpeed wall: the only module that knows how a model becomes a DeepSpeed engine."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel

from rwtrain.config.schema import OptimizerConfig
from rwtrain.errors import ConfigError
from rwtrain.model.configuration_refinedweb import RefinedWebConfig
from rwtrain.train.zero import AVERAGE


def build_engine(
    model_class: type[PreTrainedModel],
    model_config: RefinedWebConfig,
    optimizer_config: OptimizerConfig,
    deepspeed_config: dict[str, Any],
    *,
    steps: int,
    seed: int,
    activation_checkpointing: int,
) -> Any:
    """A DeepSpeed engine around a freshly initialised model.

    The model is built only through transformers' ZeRO-3 path: under a plain `zero.Init` its weights would keep torch's
    default initialisation and the rotary frequencies would be rounded to bf16.

    Args:
        deepspeed_config: the resolved JSON.
        steps: optimiser steps of the whole run, the length of the schedule.
        seed: of the weights; the same on every rank, so that they agree at any world size.
        activation_checkpointing: recompute every n-th layer in the backward pass, 0 for none.

    Raises:
        ConfigError: the device does not support the precision that is asked for.
    """
    deepspeed = _import_deepspeed()
    from transformers.integrations import HfDeepSpeedConfig

    if deepspeed_config.get("fp16", {}).get("enabled") and not deepspeed.get_accelerator().is_fp16_supported():
        raise ConfigError("engine.overlays: this device does not support fp16. Use the bf16 or the fp32 overlay.")
    deepspeed.init_distributed(verbose=False)
    holder = HfDeepSpeedConfig(deepspeed_config)  # must stay alive while the model is built
    model: Any = model_class._from_config(model_config)
    initialize_weights(model, seed=seed, partitioned=holder.is_zero3())
    del holder
    if activation_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        for index, layer in enumerate(model.model.layers):
            layer.gradient_checkpointing = index % activation_checkpointing == 0
    optimizer = _optimizer(model, optimizer_config, deepspeed_config)

    def start_schedule(basic_optimizer: torch.optim.Optimizer) -> LambdaLR:
        for state in basic_optimizer.state.values():
            state["step"].zero_()  # ZeRO stage 0 counts its empty step, which would change the first updates
        for group in basic_optimizer.param_groups:
            group["lr"] = optimizer_config.learning_rate * group["lr_scale"]
        return LambdaLR(basic_optimizer, lambda step: learning_rate_factor(step, steps, optimizer_config))

    with contextlib.redirect_stdout(None):
        engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, lr_scheduler=start_schedule, config=deepspeed_config)
    return engine


def _import_deepspeed() -> Any:
    """DeepSpeed, set up for this machine: without compilers, and quiet."""
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*is deprecated", category=FutureWarning)  # inside DeepSpeed, at every step
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if not torch.cuda.is_available():
        # Otherwise init_distributed compiles a shared-memory op at the first start (45 s, needs a compiler); gloo does without.
        from deepspeed import ops

        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _import_muon()
    return deepspeed


def _import_muon() -> None:
    """Import DeepSpeed's Muon without compiling it.

    DeepSpeed imports it to ask whether the optimiser is one; its decorators would load torch's compiler, 2 s in every rank, for functions that are
    never called.
    """
    from deepspeed.runtime import compiler

    compile_ = getattr(compiler, "compile", None)
    if compile_ is None:  # another release
        return
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        with contextlib.suppress(ImportError):  # another release keeps it elsewhere
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_


def _optimizer(model: PreTrainedModel, config: OptimizerConfig, deepspeed_config: dict[str, Any]) -> AdamW:
    """The optimiser, its learning rate still 0: the schedule sets it, as DeepSpeed may take an empty step before."""
    zero_stage = deepspeed_config.get("zero_optimization", {}).get("stage", 0)
    plain = not zero_stage and not any(deepspeed_config.get(kind, {}).get("enabled") for kind in ("bf16", "fp16"))
    return (SkippingAdamW if plain else AdamW)(
        parameter_groups(model, config.weight_decay, layer_decay=config.layer_decay),
        ema_decay=config.ema_decay,
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
    )


class AdamW(torch.optim.AdamW):
    """AdamW that can keep an exponential moving average of the weights.

    The average is one more state, "ema", of the tensors that are updated: the float32 shards that DeepSpeed makes. So it is distributed, saved,
    loaded and redistributed like Adam's own averages. Update t (from 1) uses the decay min(ema_decay, (1 + t) / (10 + t)), so that the
    average forgets the initial weights soon.

    Args:
        ema_decay: None keeps no average, and drops one that a checkpoint brought along.
    """

    def __init__(self, groups: Any, *, ema_decay: float | None = None, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.ema_decay = ema_decay

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        updated = [parameter for group in self.param_groups for parameter in group["params"] if parameter.grad is not None]
        if self.ema_decay is None:
            for parameter in updated:
                self.state[parameter].pop(AVERAGE, None)
            return super().step(closure)
        begun = {parameter: parameter.detach().clone() for parameter in updated if AVERAGE not in self.state[parameter]}
        result = super().step(closure)
        for parameter in updated:
            state = self.state[parameter]
            if parameter in begun:
                state[AVERAGE] = begun[parameter]
            count = float(state["step"])
            state[AVERAGE].lerp_(parameter, 1 - min(self.ema_decay, (1 + count) / (10 + count)))
        return result


class SkippingAdamW(AdamW):
    """AdamW that makes no update from gradients that are not finite, as DeepSpeed's optimisers do; for fp32 without ZeRO, where none of them is used.

    Attributes:
        overflow: whether the last update was dropped; DeepSpeed's engine asks for it.
    """

    overflow = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        norms = [parameter.grad.norm() for group in self.param_groups for parameter in group["params"] if parameter.grad is not None]
        self.overflow = bool(norms) and not bool(torch.isfinite(torch.stack(norms)).all())  # gradients are reduced: all ranks see the same
        return None if self.overflow else super().step(closure)


def initialize_weights(model: PreTrainedModel, *, seed: int, partitioned: bool) -> None:
    """Draw the initial weights anew, so that they depend on `seed` alone: not on ZeRO stage, precision or number of ranks.

    transformers walks the modules in another way with ZeRO-3 than without, and skips some of a custom model's.

    Args:
        partitioned: the parameters are ZeRO-3 shards, to be gathered module by module.
    """
    import deepspeed
    from transformers.initialization import guard_torch_init_functions

    def visit(module: torch.nn.Module, owner: PreTrainedModel) -> None:
        for child in module.children():
            visit(child, child if isinstance(child, PreTrainedModel) else owner)
        parameters = [parameter for part in (module, *module.children()) for parameter in part.parameters(recurse=False)]
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0, enabled=partitioned and bool(parameters)):
            if not partitioned or deepspeed.comm.get_rank() == 0:
                owner._init_weights(module)

    torch.manual_seed(seed)
    with torch.no_grad(), guard_torch_init_functions(), _draw_in_float32():
        visit(model, model)


@contextlib.contextmanager
def _draw_in_float32() -> Iterator[None]:
    """Torch draws other numbers for other precisions; here every precision gets float32's, rounded."""
    from transformers import initialization

    functions = initialization.TORCH_INIT_FUNCTIONS
    original: dict[str, Any] = dict(functions)

    def widened(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def drawn(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if tensor.dtype == torch.float32:
                return draw(tensor, *args, **kwargs)
            with torch.no_grad():
                return tensor.copy_(draw(tensor.float(), *args, **kwargs))

        return drawn

    try:
        functions.update({name: widened(draw) for name, draw in original.items()})
        yield
    finally:
        functions.update(original)


def parameter_groups(model: torch.nn.Module, weight_decay: float, *, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """Matrices decay; norms, biases and temperatures do not.

    Args:
        layer_decay: learning rate of a layer as a share of that of the layer above it (Clark et al. 2020, ELECTRA, section 3.1): what stands
            behind the last layer has the full rate, embedding and image encoder the lowest.

    Returns:
        Groups with "weight_decay" and "lr_scale", the share of the learning rate.
    """
    layers = max((_depth(name, 0) for name, _ in model.named_parameters()), default=0)
    groups: dict[tuple[int, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2
        groups.setdefault((_depth(name, layers + 1) if layer_decay < 1 else 0, not matrix), []).append(parameter)
    top = layers + 1 if layer_decay < 1 else 0
    return [
        {"params": members, "weight_decay": 0.0 if plain else weight_decay, "lr_scale": layer_decay ** (top - depth)}
        for (depth, plain), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def _depth(name: str, top: int) -> int:
    """0 for what reads the input, n + 1 for trunk layer n, `top` for what stands behind the layers."""
    if re.search(r"embed_tokens|vision_tower|image_projector|entity_projection", name):
        return 0
    layer = re.search(r"\b(?:layers|entity_gates)\.(\d+)\.", name)
    return int(layer[1]) + 1 if layer else top


def learning_rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """Learning rate of optimiser step `step` (0-based) as a share of the peak; 0 at no step.

    Warm-up: (step + 1) / (warmup_steps + 1), so that step `warmup_steps` is the first at the peak. wsd: Hu et al. 2024 (MiniCPM, section 4).
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    begin = config.warmup_steps
    if config.schedule == "wsd":
        begin = max(begin, steps - (config.decay_steps or max(1, steps // 10)))
    progress = min(1.0, max(0, step - begin) / max(1, steps - begin))
    shape = 1 - progress if config.schedule in ("linear", "wsd") else (1 + math.cos(math.pi * progress)) / 2
    return config.min_learning_rate_ratio + (1 - config.min_learning_rate_ratio) * shape
