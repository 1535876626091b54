"""One rank of a DeepSpeed job that trains a few steps and saves.

Rank 0 also writes expected.pt: the parameters as DeepSpeed gathers them, by name.
"""

from __future__ import annotations

from pathlib import Path

import deepspeed
import torch
from deepspeed import ops
from torch import nn

ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled


class Model(nn.Module):
    """Sizes that do not divide by the number of ranks, a frozen layer and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 7)
        self.frozen = nn.Linear(7, 5).requires_grad_(False)
        self.inner = nn.Linear(5, 7)
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(7, 13, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.inner(self.frozen(self.embed(ids))) * self.scale)


def main(arguments: list[str]) -> int:
    """Arguments: folder, ZeRO stage."""
    folder, stage = Path(arguments[0]), int(arguments[1])
    deepspeed.init_distributed("gloo")
    torch.manual_seed(0)
    model = Model()
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim == 1]},
    ]
    zero = {"stage": stage, "sub_group_size": 60, "stage3_param_persistence_threshold": 8}
    config = {"train_micro_batch_size_per_gpu": 2, "zero_allow_untested_optimizer": True, "zero_optimization": zero}
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(groups, lr=0.1), config=config)
    for step in range(3):
        ids = torch.arange(8).reshape(2, 4) + step + torch.distributed.get_rank()
        loss = nn.functional.cross_entropy(engine(ids).flatten(0, 1), (ids + 1).flatten())
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(str(folder), tag="state", save_latest=False)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters()), enabled=stage == 3):
        expected = {name: parameter.detach().clone() for name, parameter in engine.module.named_parameters(remove_duplicate=False)}
    if torch.distributed.get_rank() == 0:
        torch.save(expected, folder / "expected.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return 0
