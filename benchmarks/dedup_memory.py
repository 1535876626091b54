"""Peak memory of deduplicating signatures: `python -m benchmarks.dedup_memory DOCUMENTS TIMES`, in a process of its own.

The corpus is DOCUMENTS random signatures, repeated TIMES times with one document in ten kept as it is and the others changed in all bands.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from data_prep.dedup.sorted_hashes import SortedHashes, write_sorted
from data_prep.dedup.step import find_duplicates
from data_prep.engines.processes import Processes
from data_prep.plan import DedupNode
from data_prep.pool import Pool
from data_prep.work import WorkFolder

UNIT_DOCUMENTS = 50_000


def main() -> None:
    documents, times = int(sys.argv[1]), int(sys.argv[2])
    config = DedupNode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for repeat in range(times):
            for start in range(0, documents, UNIT_DOCUMENTS):
                count = min(UNIT_DOCUMENTS, documents - start)
                hashes = np.random.default_rng(start).integers(0, 1 << 64, (1 + config.bands, count), np.uint64)
                changed = np.random.default_rng([start, repeat]).random(count) > 0.1
                if repeat:
                    hashes[:, changed] = np.random.default_rng([start, repeat, 1]).integers(0, 1 << 64, (1 + config.bands, int(changed.sum())), np.uint64)
                write_sorted(folder / f"{repeat}-{start}", hashes)
                files.append(SortedHashes(str(folder / f"{repeat}-{start}"), count))
        before = peak_bytes()
        with Pool(Processes(1), WorkFolder(folder / "work"), quiet=True) as pool:
            found = find_duplicates(files, [str(number) for number in range(len(files))], config, pool)
        peak = peak_bytes()
    print(json.dumps({"documents": documents * times, "removed": found.exact + found.fuzzy, "peak_bytes": peak, "before_bytes": before}))


def peak_bytes() -> int:
    """Largest resident size of this process so far; the figure that `getrusage` gives also holds the parent's at the fork."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
