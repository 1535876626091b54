"""All-reduce bandwidth between every pair of nodes: one process a node, as many disjoint pairs at a time as there are. `python -m launch.bandwidth MB FILE`"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator

WARM_UP, REPEATS = 1, 2


def rounds(count: int) -> Iterator[list[tuple[int, int]]]:
    """Every pair of `count` nodes once, in rounds in which no node has two partners (the circle method)."""
    places: list[int | None] = [*range(count), *([None] if count % 2 else [])]
    half = len(places) // 2
    for _ in range(len(places) - 1):
        drawn = zip(places[:half], reversed(places[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in drawn if a is not None and b is not None]
        places = [places[0], places[-1], *places[1:-1]]


def main(megabytes: str, file: str) -> None:
    """Measure; rank 0 writes [{"a", "b", "gb_s"}], bytes of the message over the time in which both have the sum."""
    import torch
    import torch.distributed as dist

    cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    mine, theirs = (torch.ones(int(float(megabytes) * 1e6) // 4, device=device) for _ in range(2))
    found: list[tuple[int, int, float]] = []
    for pairs in rounds(count):
        dist.barrier()
        for pair in pairs:
            if rank in pair:
                partner = pair[0] + pair[1] - rank
                seconds = min(_exchange(dist, torch, mine, theirs, partner) for _ in range(WARM_UP + REPEATS))
                if rank == pair[0]:
                    found.append((*pair, mine.nbytes / seconds / 1e9))
    box: list[list[tuple[int, int, float]]] = [[] for _ in range(count)]
    dist.all_gather_object(box, found)
    if rank == 0:
        with open(file, "w", encoding="utf-8") as stream:
            json.dump([{"a": a, "b": b, "gb_s": speed} for part in box for a, b, speed in part], stream)
    dist.barrier()
    dist.destroy_process_group()


def _exchange(dist, torch, mine, theirs, partner: int) -> float:
    """Seconds of an all-reduce of two: both send all they have, then add."""
    began = time.perf_counter()
    works = dist.batch_isend_irecv([dist.P2POp(dist.isend, mine, partner), dist.P2POp(dist.irecv, theirs, partner)])
    for work in works:
        work.wait()
    theirs.add_(mine)
    if theirs.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    os.environ.setdefault("GLOO_LOG_LEVEL", "ERROR")
    main(*sys.argv[1:])
