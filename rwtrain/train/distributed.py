"""Process groups: starting, agreeing, leaving."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process's place in the job.

    Attributes:
        control: a gloo group over all ranks for small agreements on the host, beside the group that moves tensors.
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device
    control: dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def agree(self, *flags: bool) -> list[bool]:
        """For each flag, whether any rank raised it. Every rank must call it at the same point."""
        values = torch.tensor([int(flag) for flag in flags], dtype=torch.int32)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.control)
        return [bool(value) for value in values.tolist()]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a small host tensor over all ranks."""
        values = values.clone()
        dist.all_reduce(values, group=self.control)
        return values

    def broadcast(self, value: object) -> object:
        """Rank 0's `value` on every rank (small objects, sent over the control group between our own processes)."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: object) -> list[object]:
        """Every rank's `value` (small objects), in the order of ranks, on every rank."""
        box: list[object] = [None] * self.world_size
        dist.all_gather_object(box, value, group=self.control)
        return box

    def barrier(self) -> None:
        dist.barrier(group=self.control)


def start(timeout_s: float) -> Ranks:
    """Join the job described by the environment (RANK, WORLD_SIZE, MASTER_ADDR …); a single process without it."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0" if "RANK" not in os.environ else "29500")
    rank, world_size = int(os.environ.setdefault("RANK", "0")), int(os.environ.setdefault("WORLD_SIZE", "1"))
    local_rank = int(os.environ.setdefault("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    return Ranks(rank, local_rank, world_size, device, dist.new_group(backend="gloo", timeout=timeout))


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective operation failed because another rank is gone, which is a consequence and no cause."""
    return isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error)


def stop() -> None:
    """Leave the job; without it a rank may abort at exit."""
    if dist.is_initialized():
        dist.destroy_process_group()
