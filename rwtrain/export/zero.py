"""The parameters of a DeepSpeed checkpoint, ZeRO stage 0 to 3 or universal, read piece by piece from the ranks' files.

Layout as in DeepSpeed 0.19 (`deepspeed/utils/zero_to_fp32.py`):
  stage 0     mp_rank_00_model_states.pt: module, the parameters themselves
  stage 1, 2  *_optim_states.pt of every rank: single_partition_of_fp32_groups; a group's partitions, one after the other, hold its
              parameters in the order of `param_shapes`
  stage 3     *_optim_states.pt of every rank: fp32_flat_groups; every rank holds ⌈n / ranks⌉ elements of each parameter
  universal   zero/NAME/fp32.pt
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rwtrain.errors import DataError
from rwtrain.export.archive import StoredTensor, read_archive

CHUNK_ELEMENTS = 1 << 24
REMEDY = "Use another checkpoint, written by DeepSpeed through `rwtrain train`"


@dataclass(frozen=True)
class Parameter:
    """A parameter's shape and the stored pieces (tensor, first element, end) that make it up when laid end to end."""

    shape: tuple[int, ...]
    pieces: Sequence[tuple[StoredTensor, int, int]]

    def chunks(self) -> Iterator[torch.Tensor]:
        """The flattened parameter in float32 pieces of bounded size."""
        for tensor, first, end in self.pieces:
            for start in range(first, end, CHUNK_ELEMENTS):
                yield tensor.read(start, min(start + CHUNK_ELEMENTS, end)).float()

    def load(self) -> torch.Tensor:
        """The parameter in float32."""
        result = torch.empty(math.prod(self.shape))
        start = 0
        for chunk in self.chunks():
            result[start : start + len(chunk)] = chunk
            start += len(chunk)
        return result.reshape(self.shape)


def read_parameters(folder: str | Path) -> dict[str, Parameter]:
    """All parameters of a DeepSpeed checkpoint by name; tied ones under every name.

    Args:
        folder: the folder with DeepSpeed's files.

    Raises:
        DataError: files are missing, damaged, or do not fit together.
    """
    folder = Path(folder)
    if (folder / "zero").is_dir():
        return _universal(folder)
    models, optimizers = _files(folder, "*_model_states.pt"), _files(folder, "*_optim_states.pt")
    if not models:
        raise DataError(folder, "no *_model_states.pt here", REMEDY)
    states = [read_archive(path) for path in (models if optimizers else models[:1])]
    try:
        if not optimizers:
            found = {name: _whole(tensor) for name, tensor in states[0]["module"].items() if isinstance(tensor, StoredTensor)}
        else:
            found = _partitioned(folder, states, [read_archive(path)["optimizer_state_dict"] for path in optimizers])
        for alias, name in (states[0].get("shared_params") or {}).items():
            if name in found:
                found[alias] = found[name]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(folder, f"not a checkpoint of a known DeepSpeed layout ({type(error).__name__}: {error})", REMEDY) from error
    return found


def _files(folder: Path, pattern: str) -> list[Path]:
    """Matching files in the order of their ranks."""
    return sorted(folder.glob(pattern), key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)])


def _whole(tensor: StoredTensor) -> Parameter:
    return Parameter(tensor.shape, [(tensor, 0, tensor.numel())])


def _universal(folder: Path) -> dict[str, Parameter]:
    found = {}
    for path in sorted((folder / "zero").glob("*/fp32.pt")):
        stored = read_archive(path)
        found[path.parent.name] = _whole(stored["param"] if isinstance(stored, dict) else stored)
    if not found:
        raise DataError(folder / "zero", "no NAME/fp32.pt here", REMEDY)
    return found


def _partitioned(folder: Path, models: list[Any], optimizers: list[Any]) -> dict[str, Parameter]:
    ranks = max(_as_list(optimizers[0]["partition_count"]))
    if ranks != len(optimizers):
        raise DataError(
            folder, f"{len(optimizers)} files *_optim_states.pt, the checkpoint was written by {ranks} ranks", "Copy the checkpoint again, with all its files"
        )
    module, shapes = models[0]["module"], models[0]["param_shapes"]
    if "fp32_flat_groups" in optimizers[0]:
        found = {name: _whole(module[name]) for name in models[0]["buffer_names"] if name in module}
        flat = [state["fp32_flat_groups"] for state in optimizers]
        found |= _stage_3(folder, {name: tuple(shape) for group in shapes for name, shape in group.items()}, flat)
        for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
            fragments = [state["frozen_param_fragments"][name] for state in models]
            found[name] = Parameter(tuple(shape), _cut(fragments, 0, math.prod(shape)))
    else:
        found = {name: _whole(tensor) for name, tensor in module.items() if isinstance(tensor, StoredTensor)}  # buffers and frozen parameters are only here
        paddings = optimizers[0].get("param_alignment_paddings")
        for number, group in enumerate(shapes):
            partitions = [state["single_partition_of_fp32_groups"][number] for state in optimizers]
            found |= _stage_1_or_2(folder, group, partitions, paddings[number] if paddings else [0] * len(group))
    return found


def _stage_1_or_2(folder: Path, shapes: Mapping[str, Sequence[int]], partitions: list[StoredTensor], paddings: Sequence[int]) -> dict[str, Parameter]:
    found, offset = {}, 0
    for (name, shape), padding in zip(shapes.items(), paddings, strict=True):
        found[name] = Parameter(tuple(shape), _cut(partitions, offset, offset + math.prod(shape)))
        offset += math.prod(shape) + padding
    _check_used(folder, offset, sum(part.numel() for part in partitions), slack=2 * len(partitions))
    return found


def _stage_3(folder: Path, shapes: Mapping[str, tuple[int, ...]], groups_of_rank: list[list[StoredTensor]]) -> dict[str, Parameter]:
    ranks, found, offset = len(groups_of_rank), {}, 0
    for name, shape in shapes.items():
        left, share = math.prod(shape), -(-math.prod(shape) // ranks)
        pieces: list[tuple[StoredTensor, int, int]] = []
        for groups in groups_of_rank:
            taken = min(share, left)  # the last ranks' shares end in padding
            pieces += _cut(groups, offset, offset + taken)
            left -= taken
        found[name] = Parameter(shape, pieces)
        offset += share
    _check_used(folder, offset, sum(group.numel() for group in groups_of_rank[0]), slack=0)
    return found


def _cut(tensors: Sequence[StoredTensor], start: int, stop: int) -> list[tuple[StoredTensor, int, int]]:
    """The pieces that elements `start` to `stop` of the tensors laid end to end come from."""
    pieces, base = [], 0
    for tensor in tensors:
        first, end = max(start - base, 0), min(stop - base, tensor.numel())
        if first < end:
            pieces.append((tensor, first, end))
        base += tensor.numel()
    return pieces


def _check_used(folder: Path, used: int, stored: int, *, slack: int) -> None:
    if not used <= stored <= used + slack:
        raise DataError(folder, f"its ranks hold {stored} elements, its parameters need {used}", REMEDY)


def _as_list(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]
