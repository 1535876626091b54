"""Run by test_initial_weights.py on two ranks: stored weights into engines of several ZeRO stages and precisions; writes what was found as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import PretrainingTask
from rwtrain.train import distributed
from rwtrain.train.engine import build_engine
from rwtrain.train.initial_weights import load_initial
from rwtrain.train.setup import make_loader, model_config, open_inputs
from rwtrain.train.zero import read_parameters


def main(arguments: list[str]) -> int:
    """Settings as JSON, a folder for the weights, a file for what was found."""
    values, stored, out = json.loads(arguments[0]), Path(arguments[1]), Path(arguments[2])
    ranks, found = distributed.start(600), {}
    config = TrainConfig.model_validate(values)
    inputs = open_inputs(config, verify=False)
    shape = model_config(config, inputs)
    plain = RefinedWebForPreTraining(shape)
    if ranks.is_main:
        torch.manual_seed(5)
        shape.save_pretrained(stored)
        draw = {name: torch.randn(parameter.shape) * 0.1 + (parameter.ndim == 1) for name, parameter in plain.named_parameters()}
        save_file(draw, stored / "model.safetensors")
    ranks.barrier()
    expected = load_file(stored / "model.safetensors")
    plain.load_state_dict(expected, strict=False)
    loader = make_loader(config, inputs, rank=ranks.rank, world_size=2)
    task, batch = PretrainingTask(loader.recipe, config.objectives, replicas=2), loader.micro_batch(0, 0)
    counts = ranks.total(task.counts(batch))
    with torch.no_grad():
        expected_loss = float(task(plain, batch, counts).total)
    for precision in ("bf16", "fp32"):
        for stage in (0, 2, 3):
            config = TrainConfig.model_validate({**values, "init": {"model": str(stored)}, "engine": {"overlays": [f"zero{stage}", precision]}})
            engine = build_engine(RefinedWebForPreTraining, shape, config.optimizer, resolve(config, world_size=2), steps=9, seed=0, activation_checkpointing=0)
            load_initial(engine, config.init, inputs.tokenizer)
            folder = Path(config.run) / f"{stage}{precision}"
            engine.save_checkpoint(str(folder), tag="state", save_latest=False)
            ranks.barrier()
            parameters = {name: parameter.load() for name, parameter in read_parameters(folder / "state").items() if name in expected}
            if precision == "bf16" and stage == 0:  # its file holds the rounded parameters; the optimiser's are beside them
                masters = [tensor for group in engine.optimizer.fp32_groups for tensor in group]
                parameters = {name: masters[number].detach().clone() for number, name in enumerate(name for group in _names(engine) for name in group)}
            output = task(engine, batch, counts)
            engine.backward(output.total)
            engine.step()
            found[f"zero{stage} {precision}"] = {
                "largest_difference": max(float((tensor.view(-1) - expected[name].view(-1)).abs().max()) for name, tensor in parameters.items()),
                "parameters": len(parameters),
                "loss": output.total.item(),
                "expected_loss": expected_loss,
                "applied": engine.was_step_applied(),
            }
    ranks.barrier()
    distributed.stop()
    if ranks.is_main:
        out.write_text(json.dumps(found))
    return 0


def _names(engine: object) -> list[list[str]]:
    from rwtrain.train.reshard import parameter_shapes

    return [list(group) for group in parameter_shapes(engine)]
