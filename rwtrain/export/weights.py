"""Parameters into sharded safetensors, holding one shard in memory at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from rwtrain.errors import ConfigError
from rwtrain.files import write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `500MB` or `2GiB`; raise `ConfigError` for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise ConfigError(f"{text!r} is not a size: write a number and a unit, for example 5GB or 500MiB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def plan_shards(sizes: Mapping[str, int], max_shard_bytes: int) -> list[list[str]]:
    """Names in order, cut into shards of at most `max_shard_bytes`; a larger tensor gets a shard of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_weights(
    folder: str | Path,
    shapes: Mapping[str, Sequence[int]],
    load: Callable[[str], torch.Tensor],
    *,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> int:
    """Write `model.safetensors`, or numbered shards with `model.safetensors.index.json`; return the number of parameters.

    Args:
        shapes: parameter names, in the order they are written, and their shapes; tied weights must be in it once.
        load: gives the tensor of a name; called once for each.
        dtype: type of the floating-point tensors on disk.
    """
    parameters = {name: math.prod(shape) for name, shape in shapes.items()}
    shards = plan_shards({name: count * dtype.itemsize for name, count in parameters.items()}, max_shard_bytes)
    weight_map: dict[str, str] = {}
    bar = tqdm(total=len(shapes), desc="weights", unit="tensor", leave=False, disable=None)
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in names:
            tensors[name] = load(name).to(dtype).contiguous()
            weight_map[name] = file
            bar.update()
        path = Path(folder) / file
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors makes files for the owner only
    bar.close()
    total = sum(parameters.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total * dtype.itemsize, "total_parameters": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(Path(folder) / "model.safetensors.index.json", index)
    return total
