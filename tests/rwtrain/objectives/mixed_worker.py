"""Run by test_call_trace.py on 1, 2 or 3 ranks under ZeRO-3: six micro-batches, of which some hold only text, some only images and some no mention.

Rank r of R takes micro-batches 6r/R to 6(r + 1)/R of every step, by gradient accumulation. Writes losses, gradient norms and whether all
ranks called the same modules as JSON.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch

from rwtrain.config.deepspeed import resolve
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch, Recipe
from rwtrain.data.tokenizer import IMAGE_ID, PAD_ID
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import PretrainingTask
from rwtrain.train import distributed
from rwtrain.train.engine import build_engine
from rwtrain.train.setup import make_loader, model_config, open_inputs

PARTS = 6


def without_rows(batch: Batch, recipe: Recipe, kinds: tuple[str, ...]) -> Batch:
    """The batch with all rows of some kinds emptied."""
    found = {name: getattr(batch, name).clone() for name in vars(batch) if isinstance(getattr(batch, name), torch.Tensor)}
    for kind in kinds:
        rows = recipe.row_range(kind)
        found["input_ids"][rows] = PAD_ID
        found["labels"][rows] = -100
        for name in ("pool_ids", "block_sequence_ids", "entity_positions", "query_positions"):
            found[name][rows] = -1
        if kind in ("pair", "image"):
            found[f"{kind}_valid"].zero_()
    return dataclasses.replace(batch, **found)


def without_mentions(batch: Batch) -> Batch:
    nothing = {name: torch.full_like(getattr(batch, name), -1) for name in ("entity_positions", "query_positions")}
    return dataclasses.replace(batch, **nothing)


def main(arguments: list[str]) -> int:
    """Train with the settings `arguments[0]`, JSON, and write what was found to the file `arguments[1]`."""
    ranks = distributed.start(600)
    share = PARTS // ranks.world_size
    values = json.loads(arguments[0])
    config = TrainConfig.model_validate({**values, "batch": {**values["batch"], "accumulation": share}, "engine": {"overlays": ["zero3", "fp32"]}})
    inputs = open_inputs(config, verify=False)
    sixths = TrainConfig.model_validate({**values, "batch": {**values["batch"], "accumulation": 1}})
    loaders = [make_loader(sixths, inputs, rank=part, world_size=PARTS) for part in range(PARTS)]
    recipe = loaders[0].recipe
    task = PretrainingTask(recipe, config.objectives, replicas=PARTS)
    engine = build_engine(
        RefinedWebForPreTraining,
        model_config(config, inputs),
        config.optimizer,
        resolve(config, world_size=ranks.world_size),
        steps=9,
        seed=0,
        activation_checkpointing=0,
    )
    called: list[str] = []
    for name, module in engine.module.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    found: dict[str, list] = {"losses": [], "norms": [], "same_trace": []}
    for step in range(3):
        batches = []
        for part in range(ranks.rank * share, (ranks.rank + 1) * share):
            batch = loaders[part].micro_batch(step, 0)
            kind = ("text only", "images only", "no mentions")[part // 2]
            if kind == "text only":
                batch = without_rows(batch, recipe, ("image",))
                assert not (batch.input_ids == IMAGE_ID).any()
            elif kind == "images only":
                batch = without_rows(batch, recipe, ("text", "masked", "pair"))
            else:
                batch = without_mentions(batch)
            batches.append(batch)
        called.clear()
        counts = ranks.total(torch.stack([task.counts(batch) for batch in batches]).sum(0))
        outputs = []
        for batch, known in zip(batches, task.cache(engine, batches, counts), strict=True):
            outputs.append(task(engine, batch, counts, known))
            engine.backward(outputs[-1].total)
            engine.step()
        sums = ranks.total(torch.stack([output.sums for output in outputs]).sum(0))
        found["losses"].append((sums / counts.clamp(min=1)).tolist())
        found["norms"].append(float(engine.get_global_grad_norm()))
        traces = ranks.gather(hashlib.sha256("\n".join(called).encode()).hexdigest())
        found["same_trace"].append(len(set(traces)) == 1 and len(called) > 100)
    ranks.barrier()
    distributed.stop()
    if ranks.is_main:
        Path(arguments[1]).write_text(json.dumps(found))
    return 0
