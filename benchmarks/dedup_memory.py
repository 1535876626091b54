"""Peak memory of finding duplicates: `python -m benchmarks.dedup_memory texts|random DOCUMENTS TIMES`, in a process of its own.

`texts`: DOCUMENTS paragraphs of the sample Wikipedia dump, signed as `rwtrain prep` signs them, TIMES times: the repeats have some of
their words replaced, so that they are exact copies, near copies and new documents. `random`: DOCUMENTS random signatures, the repeats
with one document in ten kept as it is and the others new. Signatures are written unit by unit; what is measured is the whole process.
"""

from __future__ import annotations

import bz2
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.dedup.sorted_hashes import SortedHashes, write_sorted
from data_prep.dedup.step import find_duplicates
from data_prep.engines.processes import Processes
from data_prep.ingest import signature
from data_prep.plan import DedupNode
from data_prep.pool import Pool
from data_prep.records import Record
from data_prep.work import WorkFolder

DUMP = Path(__file__).parents[1] / "examples" / "data" / "enwiki-pages-articles1-shortened.xml.bz2"
RANDOM_UNIT, TEXT_UNIT = 50_000, 1000


def main() -> None:
    kind, documents, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = DedupNode()
    units = text_units(documents, times, config) if kind == "texts" else random_units(documents, times, config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for number, hashes in enumerate(units):
            write_sorted(folder / str(number), hashes)
            files.append(SortedHashes(str(folder / str(number)), hashes.shape[1]))
        begin, before = time.process_time(), peak_bytes()
        with Pool(Processes(1), WorkFolder(folder / "work"), quiet=True) as pool:
            found = find_duplicates(files, [str(number) for number in range(len(files))], config, pool)
        figures = {"documents": documents * times, "removed": found.exact + found.fuzzy, "peak_bytes": peak_bytes(), "before_bytes": before}
        print(json.dumps({**figures, "cpu_seconds": time.process_time() - begin}))


def random_units(documents: int, times: int, config: DedupNode) -> Iterator[np.ndarray]:
    """Signatures of each unit, [1 + bands, documents] uint64."""
    for repeat in range(times):
        for start in range(0, documents, RANDOM_UNIT):
            count = min(RANDOM_UNIT, documents - start)
            hashes = np.random.default_rng(start).integers(0, 1 << 64, (1 + config.bands, count), np.uint64)
            if repeat:
                changed = np.random.default_rng([start, repeat]).random(count) > 0.1
                hashes[:, changed] = np.random.default_rng([start, repeat, 1]).integers(0, 1 << 64, (1 + config.bands, int(changed.sum())), np.uint64)
            yield hashes


def text_units(documents: int, times: int, config: DedupNode) -> Iterator[np.ndarray]:
    """The same for real texts."""
    texts = paragraphs(documents)
    for repeat in range(times):
        generator = np.random.default_rng(repeat)
        for start in range(0, len(texts), TEXT_UNIT):
            changed = [perturbed(text, generator) if repeat else text for text in texts[start : start + TEXT_UNIT]]
            yield np.stack([signature(Record("", "", text=text), config) for text in changed]).T


def paragraphs(count: int) -> list[str]:
    """The first paragraphs of the dump that have some length."""
    found: list[str] = []
    with bz2.open(DUMP, "rt", encoding="utf-8") as stream:
        for line in stream:
            text = re.sub(r"<[^>]+>|[\[\]{}']+", " ", line)
            if len(text) > 150:
                found.append(text)
                if len(found) == count:
                    return found
    raise SystemExit(f"error: the dump has {len(found)} paragraphs, fewer than {count}")


def perturbed(text: str, generator: np.random.Generator) -> str:
    """A text with none, one in a hundred, one in twenty or one in three of its words replaced."""
    words = text.split()
    for place in generator.integers(0, len(words), int(len(words) * generator.choice([0, 0.01, 0.05, 0.33]))):
        words[place] = f"w{generator.integers(1 << 30)}"
    return " ".join(words)


def peak_bytes() -> int:
    """Largest resident size of this process so far; the figure that `getrusage` gives also holds the parent's at the fork."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
