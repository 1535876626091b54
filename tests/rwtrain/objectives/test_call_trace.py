"""ZeRO-3 ranks wait for each other at every module: whatever a batch holds, the same modules must run in the same order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks.forked_ranks import Job
from rwtrain.config.schema import TrainConfig
from rwtrain.data.recipe import Batch
from rwtrain.model.heads_refinedweb import RefinedWebForPreTraining
from rwtrain.objectives.task import LOSSES, PretrainingTask
from rwtrain.train.setup import make_loader, model_config, open_inputs
from tests.rwtrain.objectives import mixed_worker


def trace(model: torch.nn.Module, task: PretrainingTask, batch: Batch) -> list[str]:
    """Names of the modules in the order in which they ran, forwards and backwards."""
    called: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: called.append(f"forward {name}")))
        hooks.append(module.register_full_backward_pre_hook(lambda *_, name=name: called.append(f"backward {name}")))
    task(model, batch, task.counts(batch)).total.backward()
    for hook in hooks:
        hook.remove()
    return called


@pytest.fixture(scope="module")
def parts(train_settings: dict) -> tuple[RefinedWebForPreTraining, PretrainingTask, list[Batch]]:
    config = TrainConfig.model_validate({**train_settings, "run": "unused"})
    inputs = open_inputs(config, verify=False)
    loaders = [make_loader(config, inputs, rank=rank, world_size=2) for rank in range(2)]
    model = RefinedWebForPreTraining._from_config(model_config(config, inputs))
    task = PretrainingTask(loaders[0].recipe, config.objectives, replicas=2)
    return model, task, [loader.micro_batch(step, 0) for loader in loaders for step in (0, 7)]


def emptied(batch: Batch) -> Batch:
    """The batch with no image, no mention, no pair and no label left in it."""
    nothing = {name: torch.full_like(getattr(batch, name), -1) for name in ("entity_positions", "query_positions", "pool_ids", "block_sequence_ids")}
    unused = {name: torch.zeros_like(getattr(batch, name)) for name in ("image_valid", "pair_valid")}
    ids = torch.where(batch.input_ids == 5, 3, batch.input_ids)
    return dataclasses.replace(batch, input_ids=ids, labels=torch.full_like(batch.labels, -100), **nothing, **unused)


def test_ranks_steps_and_empty_batches_run_the_same_modules(parts: tuple[RefinedWebForPreTraining, PretrainingTask, list[Batch]]) -> None:
    model, task, batches = parts
    traces = [trace(model, task, batch) for batch in batches]
    assert {"forward model.vision_tower", "forward model.entity_gates.1.gate", "forward lm_head", "backward lm_head"} <= set(traces[0])
    assert all(found == traces[0] for found in traces[1:])
    assert trace(model, task, emptied(batches[0])) == traces[0]


def test_an_empty_batch_gives_finite_zero_losses_and_gradients(parts: tuple[RefinedWebForPreTraining, PretrainingTask, list[Batch]]) -> None:
    model, task, batches = parts
    model.zero_grad()
    batch = emptied(batches[0])
    output = task(model, batch, task.counts(batch))
    output.total.backward()
    assert output.total.item() == 0
    assert output.sums.tolist() == [0.0] * len(LOSSES)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_the_sigmoid_form_is_asked_for_in_the_configuration(train_settings: dict) -> None:
    objectives = {**train_settings.get("objectives", {}), "image_contrast_form": "sigmoid"}
    config = TrainConfig.model_validate({**train_settings, "run": "unused", "objectives": objectives})
    inputs = open_inputs(config, verify=False)
    loader = make_loader(config, inputs, rank=0, world_size=1)
    model = RefinedWebForPreTraining._from_config(model_config(config, inputs))
    task = PretrainingTask(loader.recipe, config.objectives, replicas=1)
    batch = loader.micro_batch(0, 0)
    output = task(model, batch, task.counts(batch))
    output.total.backward()
    assert model.image_logit_bias.item() == -10
    assert model.image_logit_bias.grad is not None
    assert model.image_logit_bias.grad.abs().sum() > 0
    images = float(batch.image_valid.sum())
    assert output.sums[LOSSES.index("image_contrast")] / images > 0


def test_ranks_with_different_kinds_of_data_never_hang_and_equal_one_rank(train_settings: dict, tmp_path: Path) -> None:
    """Text only, images only and no mentions on different ranks, 1, 2 and 3 of them under ZeRO-3."""
    rows = {f"{kind}_rows": 6 for kind in ("text", "masked", "pair", "image")}
    settings = {**train_settings, "run": str(tmp_path), "batch": {**train_settings["batch"], **rows, "entity_negatives": 6}}
    found = {}
    for processes in (1, 2, 3):
        out = tmp_path / f"{processes}.json"
        job = Job([json.dumps(settings), str(out)], processes=processes, output=tmp_path / f"{processes}.log", main=mixed_worker.main)
        assert job.wait() == [0] * processes, job.output.read_text()[-3000:]
        found[processes] = json.loads(out.read_text())
        assert found[processes]["same_trace"] == [True] * 3
    for processes in (2, 3):
        for step in range(3):
            assert found[processes]["losses"][step] == pytest.approx(found[1]["losses"][step], rel=1e-5)
        assert found[processes]["norms"] == pytest.approx(found[1]["norms"], rel=1e-4)
    assert all(loss > 0 for loss in found[1]["losses"][0])
