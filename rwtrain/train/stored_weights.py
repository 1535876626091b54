"""Weights of a Hugging Face folder, read from safetensors a piece at a time; pickles are never opened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from rwtrain.errors import DataError

INDEX = "model.safetensors.index.json"
CHUNK_ELEMENTS = 1 << 24
SAMPLE_ELEMENTS = 1024


class Stored(Protocol):
    """A tensor that is read when it is needed."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Elements `start` to `stop` of the flattened tensor in float32 pieces of bounded size."""
        ...


@dataclass(frozen=True)
class StoredWeight:
    """One tensor of a safetensors file; the file is memory-mapped."""

    path: Path
    name: str
    shape: tuple[int, ...]
    file: Any

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[torch.Tensor]:
        """Elements `start` to `stop` of the flattened tensor in float32 pieces of bounded size."""
        flat = self.file.get_tensor(self.name).reshape(-1)  # a view of the map: nothing is read yet
        if not flat.is_floating_point():
            raise DataError(self.path, f"holds {flat.dtype} numbers", "Quantised weights cannot be trained on: use the original ones", record=self.name)
        for begin in range(start, math.prod(self.shape) if stop is None else stop, CHUNK_ELEMENTS):
            yield flat[begin : min(begin + CHUNK_ELEMENTS, math.prod(self.shape) if stop is None else stop)].float()

    def equals(self, other: StoredWeight) -> bool:
        """Whether both hold the same numbers."""
        return self.shape == other.shape and all(torch.equal(mine, theirs) for mine, theirs in zip(self.chunks(), other.chunks(), strict=True))


def read_weights(folder: str | Path) -> dict[str, StoredWeight]:
    """The tensors of a folder by name: one safetensors file, or those of its index.

    Raises:
        DataError: there are none, or a file is missing or damaged.
    """
    folder = Path(folder)
    found: dict[str, StoredWeight] = {}
    for path in _files(folder):
        try:
            file = safe_open(path, framework="pt")
            found |= {name: StoredWeight(path, name, tuple(file.get_slice(name).get_shape()), file) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DataError(path, f"not a readable safetensors file ({error})", "Copy it again") from error
    return found


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted({Path(name).name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(index, f"not an index of weights ({error!r})", "Copy it again") from error
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        remedy = "Save it with save_pretrained of a present transformers, which writes safetensors" if pickled else "Correct the path"
        raise DataError(folder, "its weights are pickles, which are not read" if pickled else "no safetensors weights here", remedy)
    if len(names) > 1 and not index.is_file():
        raise DataError(folder, f"{len(names)} safetensors files without {INDEX}", "Copy the index, too, or leave one file in the folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(folder, f"{', '.join(missing[:3])} of its index {'is' if len(missing) == 1 else 'are'} missing", "Copy the folder again")
    return [folder / name for name in names]


def fingerprint(weights: dict[str, StoredWeight]) -> str:
    """A hash of all names and shapes and of each tensor's first numbers: it tells weights apart without reading all of them."""
    digest = xxhash.xxh3_128()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.shape} ".encode())
        for chunk in weight.chunks(0, min(SAMPLE_ELEMENTS, math.prod(weight.shape))):
            digest.update(chunk.numpy().tobytes())
    return digest.hexdigest()
