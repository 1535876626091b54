"""The entity linker's inner loops, in one scalar implementation: compiled by numba where it is installed, plain Python otherwise.

The functions stand in `linking_words_refinedweb`, `linking_features_refinedweb` and `linking_spots_refinedweb`.

Every function works on integers below 2^63 and float64, so that both ways give equal bits: hashes are made of 31-bit products, and vectors are
small integers. `kernels(compiled=True)` returns the functions over NumPy arrays; `kernels(compiled=False)` the same functions,
to be called with memoryviews (see `views`), whose items are Python numbers. Self-contained: exported model folders carry a copy.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from .linking_features_refinedweb import (
    add_candidate,
    add_candidates,
    beside_capital,
    describe_name,
    entity_key,
    near_words,
    part_of_name,
    recall_part,
    remember_name,
    remember_part,
    remember_word,
    text_shape,
)
from .linking_spots_refinedweb import (
    add_coherence,
    add_spot,
    choose_spots,
    collect_spots,
    dot,
    look_right,
    remember_spots,
    score_spot,
    sigmoid,
    span_ends,
    support_parts,
)
from .linking_words_refinedweb import (
    combine,
    exact_hash,
    find_names,
    fold_index,
    insert_slots,
    look_up,
    may_begin_name,
    mix,
    name_details,
    note_first_words,
    phrase_hashes,
    scan_documents,
    scan_words,
    shape_of,
    span_shape,
)

FUNCTIONS = (
    fold_index, mix, combine, entity_key, scan_words, scan_documents, look_up, may_begin_name, note_first_words, insert_slots, find_names, phrase_hashes,
    shape_of, span_shape, exact_hash, name_details, dot, sigmoid, remember_word, near_words, remember_part, recall_part, part_of_name, remember_name,
    text_shape, beside_capital, describe_name, add_candidate, add_candidates, score_spot, add_coherence, support_parts, add_spot, remember_spots, look_right,
    collect_spots, choose_spots, span_ends,
)  # fmt: skip

# Compiled into their callers, as passing many arrays costs more than what these do.
INLINED = (
    remember_word, near_words, remember_part, recall_part, part_of_name, remember_name, text_shape, beside_capital, describe_name, add_candidate,
    add_candidates, score_spot, add_coherence, support_parts, add_spot, remember_spots, look_right,
)  # fmt: skip


@lru_cache(maxsize=2)
def kernels(*, compiled: bool) -> Any:
    """`FUNCTIONS` as attributes; `compiled` needs numba and raises `ImportError` without it."""
    if not compiled:
        return SimpleNamespace(compiled=False, **{function.__name__: function for function in FUNCTIONS})
    import numba

    def machine_code(function: Any, inline: str) -> Any:
        # These functions make no arrays, so numba need not count references to those they are given, which would take half of the time.
        njit: Any = numba.njit
        options = {"nogil": True, "cache": True, "inline": inline}
        try:
            return njit(_nrt=False, **options)(function)
        except KeyError:  # a numba without this option
            return njit(**options)(function)

    # Copies, so that the functions of the modules stay plain Python: a function finds the ones it calls in its globals.
    namespace: dict[str, Any] = {}
    for function in FUNCTIONS:
        namespace |= function.__globals__
    version = _version()
    for function in FUNCTIONS:
        copy = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__)
        copy.__module__, copy.__qualname__ = function.__module__, f"{function.__qualname__}_{version}"
        namespace[function.__name__] = machine_code(copy, "always" if function in INLINED else "never")
    return SimpleNamespace(compiled=True, **{function.__name__: namespace[function.__name__] for function in FUNCTIONS})


def _version() -> str:
    """A hash of the source of all functions: machine code in numba's cache is found by it, as numba would see a change of a function's own file only."""
    digest = hashlib.sha256()
    for path in sorted({function.__code__.co_filename for function in FUNCTIONS}):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:16]


def views(arrays: Any) -> Any:
    """A named tuple of arrays, or one array, as memoryviews: plain Python reads and writes their items several times faster."""
    if isinstance(arrays, np.ndarray):
        buffer: Any = np.ascontiguousarray(arrays)
        return memoryview(buffer)
    if isinstance(arrays, tuple):
        return type(arrays)(*(views(entry) for entry in arrays))
    return arrays
