"""Run by test_guard.py: a step with NaN gradients at every ZeRO stage and two precisions, in one process; prints as JSON what changed.

Also whether torch's compiler was loaded.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import PretrainingTask
from rwtrain.train import distributed
from rwtrain.train.engine import build_engine
from rwtrain.train.setup import make_loader, model_config, open_inputs


def snapshot(engine: Any) -> list[torch.Tensor]:
    """The master weights and every optimiser state."""
    wrapper = engine.optimizer
    base = getattr(wrapper, "optimizer", wrapper)
    masters = getattr(wrapper, "fp32_partitioned_groups_flat", None) or getattr(wrapper, "single_partition_of_fp32_groups", None)
    tensors = list(masters or [parameter for group in base.param_groups for parameter in group["params"]])
    tensors += [value for state in base.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return [tensor.detach().clone() for tensor in tensors]


def main() -> None:
    values, found = json.loads(sys.argv[1]), {}
    ranks = distributed.start(600)
    for precision in ("bf16", "fp32"):
        for stage in range(4):
            config = TrainConfig.model_validate({**values, "engine": {"overlays": [f"zero{stage}", precision]}})
            inputs = open_inputs(config, verify=False)
            loader = make_loader(config, inputs, rank=0, world_size=1)
            task = PretrainingTask(loader.recipe, config.objectives, replicas=1)
            engine = build_engine(
                RefinedWebForPreTraining,
                model_config(config, inputs),
                config.optimizer,
                resolve(config, world_size=1),
                steps=9,
                seed=0,
                activation_checkpointing=0,
            )
            states, applied, losses = [], [], []
            for step, factor in enumerate((1.0, float("nan"), 1.0)):
                batch = loader.micro_batch(step, 0)
                output = task(engine, batch, task.counts(batch))
                engine.backward(output.total * factor)
                engine.step()
                states.append(snapshot(engine))
                applied.append(engine.was_step_applied())
                losses.append(float(output.total))
            same = [all(torch.equal(one, other) for one, other in zip(states[a], states[b], strict=True)) for a, b in ((0, 1), (1, 2))]
            finite = all(bool(torch.isfinite(tensor).all()) for tensor in states[2])
            found[f"zero{stage} {precision}"] = {"applied": applied, "unchanged": same, "finite": finite, "tensors": len(states[0]), "losses": losses}
    ranks.barrier()
    distributed.stop()
    print(json.dumps({"steps": found, "compiler": "torch._inductor.compile_fx" in sys.modules}))


if __name__ == "__main__":
    main()
