"""Parameters and optimiser states of a DeepSpeed checkpoint, ZeRO stage 0 to 3 or universal, read piece by piece from the ranks' files.

Layout as in DeepSpeed 0.19 (`deepspeed/utils/zero_to_fp32.py`):
  stage 0     mp_rank_00_model_states.pt: module, the parameters themselves; optimizer, AdamW's states by number and, where the parameters
              are bf16 or fp16, the parameters once more in float32
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
from rwtrain.train.archive import StoredTensor, read_archive

CHUNK_ELEMENTS = 1 << 24
ADAM = ("exp_avg", "exp_avg_sq")  # running averages of the gradients and of their squares
AVERAGE = "ema"  # moving average of the parameters, in checkpoints of runs with optimizer.ema_decay
REMEDY = "Use another checkpoint, written by DeepSpeed through `rwtrain train`"


@dataclass(frozen=True)
class Parameter:
    """A parameter's shape and the stored pieces (tensor, first element, end) that make it up when laid end to end."""

    shape: tuple[int, ...]
    pieces: Sequence[tuple[StoredTensor, int, int]]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Elements `start` to `stop` of the flattened parameter in float32 pieces of bounded size."""
        position, stop = 0, math.prod(self.shape) if stop is None else stop
        for tensor, first, end in self.pieces:
            low, high = first + max(start - position, 0), min(end, first + stop - position)
            for begin in range(low, high, CHUNK_ELEMENTS):
                yield tensor.read(begin, min(begin + CHUNK_ELEMENTS, high)).float()
            position += end - first

    def load(self) -> torch.Tensor:
        """The parameter in float32."""
        result = torch.empty(math.prod(self.shape))
        start = 0
        for chunk in self.chunks():
            result[start : start + len(chunk)] = chunk
            start += len(chunk)
        return result.reshape(self.shape)


def read_parameters(folder: str | Path, *, average: bool = False) -> dict[str, Parameter]:
    """All parameters of a DeepSpeed checkpoint by name; tied ones under every name.

    Args:
        folder: the folder with DeepSpeed's files.
        average: the moving averages of the trained parameters instead of the parameters.

    Raises:
        DataError: files are missing, damaged, or do not fit together.
    """
    folder = Path(folder)
    if (folder / "zero").is_dir() and not average:
        return _universal(folder)
    models, optimizers = files_of(folder, "*_model_states.pt"), files_of(folder, "*_optim_states.pt")
    if not models:
        raise DataError(folder, "no *_model_states.pt here", REMEDY)
    if average and not optimizers:
        raise DataError(folder, "without ZeRO the averages have no names", "Continue the run for one checkpoint with a zero overlay first")
    states = [read_archive(path) for path in (models if optimizers else models[:1])]
    try:
        if not optimizers:
            found = {name: _whole(tensor) for name, tensor in states[0]["module"].items() if isinstance(tensor, StoredTensor)}
        else:
            saved = [read_archive(path)["optimizer_state_dict"] for path in optimizers]
            if average and AVERAGE not in _adam_states(saved[0])[0]:
                raise DataError(folder, "it holds no moving average of the weights", "Train with optimizer.ema_decay set")
            found = _partitioned(folder, states, saved, AVERAGE if average else "fp32")
        for alias, name in (states[0].get("shared_params") or {}).items():
            if name in found:
                found[alias] = found[name]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(folder, f"not a checkpoint of a known DeepSpeed layout ({type(error).__name__}: {error})", REMEDY) from error
    return found


def files_of(folder: Path, pattern: str) -> list[Path]:
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
    models = files_of(folder, "*_model_states.pt")
    model = read_archive(models[0]) if models else {}
    for name, shape in ((name, shape) for group in model.get("param_shapes") or [] for name, shape in group.items()):
        if name in found:  # converted from stage 3 they are flat
            found[name] = Parameter(tuple(shape), found[name].pieces)
    for alias, name in (model.get("shared_params") or {}).items():
        if name in found:
            found[alias] = found[name]
    return found


def read_states(folder: str | Path, groups: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, dict[str, Parameter]]:
    """What the optimiser holds of every trained parameter: name → {"fp32", "exp_avg", "exp_avg_sq"}, and "ema" where it keeps an average.

    Args:
        folder: the folder with DeepSpeed's files, not a universal checkpoint.
        groups: name → shape of the optimiser's parameter groups in order; files written without ZeRO hold numbers instead of names.

    Raises:
        DataError: files are missing, damaged, or do not fit together.
    """
    folder = Path(folder)
    models, optimizers = files_of(folder, "*_model_states.pt"), files_of(folder, "*_optim_states.pt")
    if not models:
        raise DataError(folder, "no *_model_states.pt here", REMEDY)
    model = read_archive(models[0])
    try:
        if not optimizers:
            return _numbered(folder, model, groups)
        saved = [read_archive(path)["optimizer_state_dict"] for path in optimizers]
        keys = ("fp32", *ADAM, *([AVERAGE] if AVERAGE in _adam_states(saved[0])[0] else []))
        found = {key: _trained(folder, model["param_shapes"], saved, key) for key in keys}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(folder, f"not a checkpoint of a known DeepSpeed layout ({type(error).__name__}: {error})", REMEDY) from error
    return {name: {key: found[key][name] for key in found} for name in found["fp32"]}


def _numbered(folder: Path, model: Mapping[str, Any], groups: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, dict[str, Parameter]]:
    saved = model["optimizer"]
    adam = saved.get("optimizer_state_dict", saved)
    if [len(group["params"]) for group in adam["param_groups"]] != [len(group) for group in groups]:
        raise DataError(
            folder,
            "without ZeRO it numbers the parameters by the optimiser's groups, and those were others",
            "Continue with the optimizer.layer_decay it was written with, or write one checkpoint with a zero overlay first",
        )
    masters = [tensor for group in saved.get("fp32_groups", []) for tensor in group]
    found: dict[str, dict[str, Parameter]] = {}
    for number, (name, shape) in enumerate((name, tuple(shape)) for group in groups for name, shape in group.items()):
        states = adam["state"][number]
        tensors = {"fp32": masters[number] if masters else model["module"][name]} | {key: states[key] for key in (*ADAM, AVERAGE) if key in states}
        found[name] = {key: Parameter(shape, [(tensor, 0, math.prod(shape))]) for key, tensor in tensors.items()}
    return found


def _adam_states(saved: Mapping[str, Any]) -> Mapping[int, Mapping[str, Any]]:
    """Group number → AdamW's states in one rank's file."""
    return saved["optimizer_state_dict" if "fp32_flat_groups" in saved else "base_optimizer_state"]["state"]


def _partitioned(folder: Path, models: list[Any], optimizers: list[Any], key: str) -> dict[str, Parameter]:
    module, shapes = models[0]["module"], models[0]["param_shapes"]
    if "fp32_flat_groups" in optimizers[0]:
        found = {name: _whole(module[name]) for name in models[0]["buffer_names"] if name in module}
        for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
            fragments = [state["frozen_param_fragments"][name] for state in models]
            found[name] = Parameter(tuple(shape), _cut(fragments, 0, math.prod(shape)))
    else:
        found = {name: _whole(tensor) for name, tensor in module.items() if isinstance(tensor, StoredTensor)}  # buffers and frozen parameters are only here
    return found | _trained(folder, shapes, optimizers, key)


def _trained(folder: Path, shapes: Sequence[Mapping[str, Sequence[int]]], optimizers: list[Any], key: str) -> dict[str, Parameter]:
    """`key` ("fp32", one of `ADAM`, or `AVERAGE`) of every parameter that ZeRO distributed over the ranks."""
    ranks = max(_as_list(optimizers[0]["partition_count"]))
    if ranks != len(optimizers):
        raise DataError(
            folder, f"{len(optimizers)} files *_optim_states.pt, the checkpoint was written by {ranks} ranks", "Copy the checkpoint again, with all its files"
        )
    stage_3 = "fp32_flat_groups" in optimizers[0]
    if key == "fp32":
        flat = [state["fp32_flat_groups" if stage_3 else "single_partition_of_fp32_groups"] for state in optimizers]
    else:
        flat = [[states[number][key] for number in range(len(shapes))] for states in map(_adam_states, optimizers)]
    if stage_3:
        return _stage_3(folder, {name: tuple(shape) for group in shapes for name, shape in group.items()}, flat)
    found: dict[str, Parameter] = {}
    paddings = optimizers[0].get("param_alignment_paddings")
    for number, group in enumerate(shapes):
        partitions = [groups[number] for groups in flat]
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
