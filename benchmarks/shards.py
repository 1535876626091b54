"""Windows of 2,048 tokens per second, at random and in order, out of rwtrain's shards and out of datasets, litdata and MDS (mosaicml-streaming).

    python -m benchmarks.shards [--quick]

The same windows in each format, on the local disk and in the page cache, one process. Each reader copies every window into a row of a batch. Each
peer runs in an environment of its own, in its fastest way of reading (datasets in order: numpy batches of 1,000).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peer_env import run_peer
from rwtrain.data.shards import Document, ShardDataset, ShardWriter

LENGTH, WINDOWS = 2048, {"quick": 12_500, "full": 62_500}
PEERS = ("datasets", "litdata", "streaming")
LIMIT_S, REPEATS = 20.0, 3


def ours(windows: np.ndarray, folder: Path) -> dict[str, float]:
    """Windows per second of rwtrain's shards, the best of `REPEATS` passes."""
    with ShardWriter(folder / "ours", vocab_size=1 << 16, tokenizer_hash="none", max_shard_bytes=64 << 20) as writer:
        for number, tokens in enumerate(windows):
            writer.add(Document(doc_id=str(number), tokens=tokens, content_id=number))
    dataset, row = ShardDataset(folder / "ours"), np.empty(LENGTH, np.uint16)
    shuffled = np.random.default_rng(0).permutation(len(windows)).tolist()
    assert all(np.array_equal(dataset.tokens(index), windows[index]) for index in shuffled[:50])
    found = {}
    for name, order in (("random", shuffled), ("sequential", range(len(windows)))):
        speeds = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            for index in order:
                row[:] = dataset.tokens(index)
            speeds.append(len(windows) / (time.perf_counter() - began))
        found[name] = max(speeds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12,500 windows instead of 62,500")
    options = parser.parse_args()
    count = WINDOWS["quick" if options.quick else "full"]
    speeds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        windows = np.random.default_rng(0).integers(0, 1 << 15, (count, LENGTH), np.uint16)  # litdata's tokens are signed
        np.save(folder / "windows.npy", windows)
        speeds["rwtrain"] = ours(windows, folder)
        for peer in PEERS:
            speeds[peer] = run_peer(peer, "shards_run.py", peer, folder / "windows.npy", folder, str(count), str(LIMIT_S))
    names = {"streaming": "MDS"}
    print(f"{count:,} windows of {LENGTH:,} tokens, {windows.nbytes / 1e6:,.0f} MB\n")
    print(f"{'format':<12}{'random/s':>12}{'in order/s':>12}{'ratio random':>14}{'in order':>10}")
    for peer, found in speeds.items():
        ratios = [speeds["rwtrain"][way] / found[way] for way in ("random", "sequential")]
        print(f"{names.get(peer, peer):<12}{found['random']:>12,.0f}{found['sequential']:>12,.0f}{ratios[0]:>14.1f}{ratios[1]:>10.1f}")
    result = {"name": "shards", "quick": options.quick, "windows_per_s": speeds}
    for peer in PEERS:
        for way in ("random", "sequential"):
            result[f"{way}_ratio_{names.get(peer, peer).lower()}"] = speeds["rwtrain"][way] / speeds[peer][way]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
