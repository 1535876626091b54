"""numba's `njit` with a cache that knows all of this package.

numba looks at a function's own file only: machine code that was compiled with an older version of a function or table in another file
would be used again. Here the folder of the cache is named by a hash of all files of the package.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import xxhash

PREFIX = "numba-"
config: Any = numba.config


def compiled(function: Callable[..., Any]) -> Any:
    """A function that is compiled at its first call, or read from the cache."""
    before, config.CACHE_DIR = config.CACHE_DIR, str(cache_folder())
    try:
        return numba.njit(cache=True, nogil=True)(function)
    finally:
        config.CACHE_DIR = before


# Without reference counts, which take half of the time where a function gets many arrays; numba's name for it is private, so its version is pinned.
INLINED: dict[str, Any] = {"forceinline": True, "_nrt": False}


def part(function: Callable[..., Any]) -> Any:
    """A function that becomes a part of the compiled functions that call it, and makes no arrays."""
    return numba.njit(**INLINED)(function)


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Where the machine code lies: below NUMBA_CACHE_DIR if it is set, beside the source, or in the user's cache if that is read-only."""
    here = Path(__file__).parent
    digest = xxhash.xxh3_64()
    for path in sorted(here.glob("*.py")):
        digest.update(path.read_bytes())
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        parent = Path(given)
    elif os.access(here, os.W_OK):
        parent = here / "__pycache__"
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rwtrain"
    folder = parent / f"{PREFIX}{digest.hexdigest()}"
    if not folder.exists():
        for old in parent.glob(f"{PREFIX}*"):
            shutil.rmtree(old, ignore_errors=True)
    return folder
