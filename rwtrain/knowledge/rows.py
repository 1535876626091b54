"""A table of vectors whose rows are dealt out over the ranks of a job, with the optimiser state of each row beside it.

Rank r of W holds the rows r, r + W, r + 2W, … A step asks for the rows its batch names, gets their vectors from the owners, and sends
gradients back; vectors and optimiser state never leave their owner, so that the largest table is limited by the memory of all ranks
together. One process is the case W = 1, where nothing is sent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

MIN_SQUARE = 1e-12
ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Place:
    """This process among the ranks that share a table."""

    rank: int = 0
    world_size: int = 1

    @classmethod
    def of_this_process(cls) -> Place:
        """The rank in the running process group; alone without one."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def count(self, rows: int) -> int:
        """How many of a table's rows this rank holds."""
        return len(range(self.rank, rows, self.world_size))


@contextmanager
def joined_ranks(device: str) -> Iterator[Place]:
    """Join the job that RANK, WORLD_SIZE and MASTER_ADDR describe, if they are set, and leave it at the end.

    Args:
        device: "cpu" or "cuda"; with ranks each takes the GPU of its LOCAL_RANK.
    """
    if "RANK" not in os.environ:
        yield Place()
        return
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(minutes=30))
    try:
        yield Place.of_this_process()
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Request:
    """Rows that a rank asked for and how they were exchanged; `RowTable.update` sends gradients back the same way.

    Attributes:
        asked: how many rows were asked of each rank.
        wanted: how many rows each rank asked of this one.
        order: [asked rows] positions that sort the request by owner.
        local: [wanted rows] the places in this rank's part of the table.
    """

    asked: list[int]
    wanted: list[int]
    order: torch.Tensor
    local: torch.Tensor


class RowTable:
    """`rows` vectors of `dimension` float32 numbers, drawn from N(0, 1 / dimension), and their optimiser state.

    Args:
        rows: of the whole table, over all ranks.
        dimension: of a vector.
        seed: decides the initial vectors, which are the same whatever the number of ranks.
        optimizer: "adagrad" keeps one accumulator a row (the sum of the mean squared gradient), "adam" two moments a number.
        place: this rank among those that share the table.
        device: where its part lies.
    """

    def __init__(self, rows: int, dimension: int, *, seed: int, optimizer: Literal["adagrad", "adam"], place: Place, device: str | torch.device) -> None:
        self.rows, self.place, self.optimizer = rows, place, optimizer
        self.vectors = torch.empty(place.count(rows), dimension, device=device)
        filled = 0
        for block, start in enumerate(range(0, rows, BLOCK_ROWS)):
            generator = torch.Generator().manual_seed((seed << 24) + block)
            drawn = torch.randn(min(BLOCK_ROWS, rows - start), dimension, generator=generator)[(place.rank - start) % place.world_size :: place.world_size]
            self.vectors[filled : filled + len(drawn)] = drawn * dimension**-0.5
            filled += len(drawn)
        count = len(self.vectors)
        shapes = {"square": (count,)} if optimizer == "adagrad" else {"first": (count, dimension), "second": (count, dimension)}
        self.state = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}

    def gather(self, rows_U: torch.Tensor) -> tuple[torch.Tensor, Request]:
        """Vectors of the given rows, [U, D], and the request to hand to `update`. Every rank must call it at the same point.

        Args:
            rows_U: int64, no row twice.
        """
        world = self.place.world_size
        if world == 1:
            return self.vectors[rows_U], Request([len(rows_U)], [len(rows_U)], rows_U, rows_U)
        owner = rows_U % world
        order = torch.argsort(owner, stable=True)
        asked = torch.bincount(owner, minlength=world)
        wanted = torch.empty_like(asked)
        dist.all_to_all_single(wanted, asked)
        request = Request(asked.tolist(), wanted.tolist(), order, torch.empty(int(wanted.sum()), dtype=torch.int64, device=rows_U.device))
        dist.all_to_all_single(request.local, torch.div(rows_U[order], world, rounding_mode="floor"), request.wanted, request.asked)
        received = torch.empty(len(rows_U), self.vectors.shape[1], device=rows_U.device)
        dist.all_to_all_single(received, self.vectors[request.local], request.asked, request.wanted)
        return torch.empty_like(received).index_copy_(0, order, received), request

    def update(self, request: Request, gradient_UD: torch.Tensor, *, learning_rate: float, step: int) -> None:
        """Add up the gradients that all ranks have for this rank's rows and move those rows; no other row is read or written.

        Args:
            request: what `gather` returned with the vectors.
            gradient_UD: gradients of the rows in the order in which they were asked for.
            learning_rate: of this step.
            step: how many updates there are with this one; for Adam's bias correction (as `torch.optim.SparseAdam`).
        """
        rows, total = request.local, gradient_UD
        if self.place.world_size > 1:
            received = torch.empty(len(request.local), gradient_UD.shape[1], device=gradient_UD.device)
            dist.all_to_all_single(received, gradient_UD[request.order], request.wanted, request.asked)
            rows, position = torch.unique(request.local, return_inverse=True)
            total = torch.zeros(len(rows), gradient_UD.shape[1], device=gradient_UD.device).index_add_(0, position, received)
        if self.optimizer == "adagrad":
            square = self.state["square"][rows] + total.square().mean(1)
            self.state["square"][rows] = square
            self.vectors.index_add_(0, rows, total * (square + MIN_SQUARE).rsqrt().unsqueeze(1), alpha=-learning_rate)
            return
        moments = []
        for name, beta, value in (("first", ADAM_BETAS[0], total), ("second", ADAM_BETAS[1], total.square())):
            moment = self.state[name][rows].lerp_(value, 1 - beta)
            self.state[name][rows] = moment
            moments.append(moment)
        correction = (1 - ADAM_BETAS[1] ** step) ** 0.5 / (1 - ADAM_BETAS[0] ** step)
        self.vectors.index_add_(0, rows, moments[0] / moments[1].sqrt_().add_(ADAM_EPSILON), alpha=-learning_rate * correction)

    def tensors(self) -> dict[str, torch.Tensor]:
        """This rank's part of everything that a checkpoint must hold."""
        return {"vectors": self.vectors, **self.state}
