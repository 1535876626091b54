"""Read files written by `torch.save` without loading them: the tree of objects now, the tensors' bytes when asked for.

Nothing of the pickle is executed: only containers, tensors and plain values are rebuilt, every other class becomes an inert
stand-in. So the file of a stranger can be read, by a process that holds a few megabytes of it at a time.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwtrain.errors import DataError

LOCAL_HEADER_BYTES = 30
STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "BFloat16Storage": torch.bfloat16,
    "HalfStorage": torch.float16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class StoredTensor:
    """A contiguous tensor in a file.

    Attributes:
        path: the file.
        position: first byte of its data.
    """

    path: Path
    position: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Elements `start` to `stop` of the flattened tensor, 1-D."""
        count = (self.numel() if stop is None else stop) - start
        width = self.dtype.itemsize
        raw = np.fromfile(self.path, np.uint8, count=count * width, offset=self.position + start * width)
        if raw.size != count * width:
            raise DataError(self.path, f"a tensor ends after {raw.size} of {count * width} bytes", "The file is truncated: use another checkpoint")
        return torch.from_numpy(raw).view(self.dtype)


class _Opaque:
    """Stands for an object of a class that is not rebuilt; swallows its state."""

    def __new__(cls, *_: Any, **__: Any) -> _Opaque:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


@dataclass(frozen=True)
class _Storage:
    position: int
    dtype: torch.dtype


class _Reader(pickle.Unpickler):
    def __init__(self, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"), encoding="utf-8")
        self.path, self.archive, self.root = path, archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._tensor", "_rebuild_from_type_v2"): lambda function, _, arguments, __: function(*arguments),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
        }
        return known.get((module, name), _Opaque)

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        entry = self.archive.getinfo(f"{self.root}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("its tensors are compressed")
        with self.path.open("rb") as stream:
            stream.seek(entry.header_offset)
            header = stream.read(LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        return _Storage(entry.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes, dtype)

    def _tensor(self, storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> StoredTensor:
        expected = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        if any(size > 1 and step != wanted for size, step, wanted in zip(shape, stride, expected, strict=True)):
            raise pickle.UnpicklingError("a tensor is not contiguous")
        return StoredTensor(self.path, storage.position + offset * storage.dtype.itemsize, storage.dtype, tuple(shape))


def read_archive(path: str | Path) -> Any:
    """The objects of a `torch.save` file; tensors are `StoredTensor`, objects of other classes are empty stand-ins.

    Raises:
        DataError: the file is missing, truncated, or not of that format.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                raise pickle.UnpicklingError("it was written on a big-endian machine")
            return _Reader(path, archive, root).load()
    except (OSError, zipfile.BadZipFile, StopIteration, KeyError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(path, f"not a readable file of torch.save ({error or type(error).__name__})", "The file is damaged: use another checkpoint") from error
