"""Checkpoints of a TransE run: every rank writes its rows, then rank 0 names the step in `latest`. A kill at any instant leaves the
previous checkpoint whole; a run may continue with another number of ranks."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rwtrain.errors import DataError
from rwtrain.files import atomic_path, write_json
from rwtrain.knowledge.rows import Place

logger = logging.getLogger(__name__)

CHECKPOINT = "transe.checkpoint"
LATEST = "latest.json"
ROWS_PER_MESSAGE = 65_536


class Checkpoint:
    """The checkpoint of the run on one store.

    Args:
        store: the store's folder; the checkpoint is the folder `transe.checkpoint` in it.
        identity: what the run was made from; a checkpoint of another identity is not used.
        place: this rank.
    """

    def __init__(self, store: Path, *, identity: str, place: Place) -> None:
        self.folder, self.identity, self.place = store / CHECKPOINT, identity, place

    def save(self, tensors: dict[str, torch.Tensor], progress: dict[str, Any]) -> None:
        """Write this rank's rows; the checkpoint counts once all ranks have. Every rank must call it at the same point.

        Args:
            tensors: by name, one row for each of this rank's rows.
            progress: the same on all ranks; its "step" names the checkpoint.
        """
        name = f"step-{progress['step']}"
        with atomic_path(self._part(name, self.place.rank, self.place.world_size)) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
        self._barrier()
        if self.place.rank == 0:
            write_json(self.folder / LATEST, {"name": name, "ranks": self.place.world_size, "identity": self.identity, "progress": progress})
            for path in self.folder.glob("step-*"):
                if path.name != name:
                    shutil.rmtree(path)
        self._barrier()

    def load(self, *, device: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """This rank's rows and the progress, or None if there is no checkpoint of this run.

        Raises:
            DataError: the checkpoint is damaged.
        """
        path = self.folder / LATEST
        if not path.is_file():
            return None
        try:
            latest = json.loads(path.read_text(encoding="utf-8"))
            if latest["identity"] != self.identity:
                logger.warning("%s belongs to other settings or another graph: starting from the beginning", self.folder)
                return None
            path = self.folder / latest["name"]
            return self._read(latest["name"], latest["ranks"], device), latest["progress"]
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise DataError(path, f"not a readable checkpoint ({error})", f"Delete {self.folder} to train from the beginning") from error

    def _read(self, name: str, ranks: int, device: str) -> dict[str, torch.Tensor]:
        """Row r lies in the file of rank r mod `ranks`, at place r // `ranks`."""
        if ranks == self.place.world_size:
            with safe_open(self._part(name, self.place.rank, ranks), framework="pt", device=device) as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        parts: list[dict[str, torch.Tensor]] = []
        for rank in range(ranks):
            with safe_open(self._part(name, rank, ranks), framework="pt") as file:
                parts.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        rows = torch.arange(self.place.rank, sum(len(part["vectors"]) for part in parts), self.place.world_size)
        tensors = {key: torch.empty(len(rows), *tensor.shape[1:], device=device) for key, tensor in parts[0].items()}
        for rank, part in enumerate(parts):
            mine = (rows % ranks == rank).nonzero().flatten()
            for key, tensor in part.items():
                tensors[key][mine.to(device)] = tensor[rows[mine] // ranks].to(device)
        return tensors

    def remove(self) -> None:
        """Delete the checkpoint of a run that has ended."""
        self._barrier()
        if self.place.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, name: str, rank: int, ranks: int) -> Path:
        return self.folder / name / f"rank-{rank}-of-{ranks}.safetensors"

    def _barrier(self) -> None:
        if self.place.world_size > 1:
            dist.barrier()


@contextmanager
def collected_rows(part: torch.Tensor, *, rows: int, place: Place, scratch: Path) -> Iterator[np.ndarray | None]:
    """All rows of a table in order, on rank 0; None on the others. With several ranks it is a memory-mapped temporary file.

    Args:
        part: this rank's rows.
        rows: of the whole table.
        place: this rank.
        scratch: folder for the file.
    """
    if place.world_size == 1:
        yield part.cpu().numpy()
        return
    path = scratch / ".transe.collected.tmp"
    table = np.lib.format.open_memmap(path, "w+", np.float32, (rows, part.shape[1])) if place.rank == 0 else None
    try:
        for start in range(0, -(-rows // place.world_size), ROWS_PER_MESSAGE):
            length = min(ROWS_PER_MESSAGE, -(-rows // place.world_size) - start)
            sent = torch.zeros(length, part.shape[1], device=part.device)
            mine = part[start : start + length]
            sent[: len(mine)] = mine
            received = [torch.empty_like(sent) for _ in range(place.world_size)] if place.rank == 0 else None
            dist.gather(sent, received, dst=0)
            if table is not None and received is not None:
                for rank, piece in enumerate(received):
                    target = table[rank + start * place.world_size : rank + (start + length - 1) * place.world_size + 1 : place.world_size]
                    target[:] = piece[: len(target)].cpu().numpy()
        yield table
    finally:
        if place.rank == 0:
            path.unlink(missing_ok=True)
