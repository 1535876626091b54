"""Image-text contrast: time and peak memory of one forward and backward pass against open_clip's ClipLoss, at growing batch sizes.

Each measurement is a process of its own on one thread; processor seconds; memory is what the loss adds to the features and their gradients.
Where the peer's matrices would not fit into the machine, its memory is extrapolated from the largest size that ran (it grows with the square).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peer_env import PEERS, run_peer

SIZES = (4096, 8192, 16384, 32768, 65536)
QUICK_SIZES = (2048, 4096, 8192)
WIDTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_SIZES[-1]} pairs")
    options = parser.parse_args()
    curve: list[dict[str, Any]] = []
    for pairs in QUICK_SIZES if options.quick else SIZES:
        repeats = max(1, 8192 // pairs)
        row: dict[str, Any] = {"pairs": pairs, "ours": run_ours(pairs, repeats), "open_clip": None}
        measured = [entry for entry in curve if entry["open_clip"]]
        expected = measured[-1]["open_clip"]["peak_bytes"] * (pairs / measured[-1]["pairs"]) ** 2 if measured else 0
        if expected < 0.85 * psutil.virtual_memory().available:
            row["open_clip"] = run_peer("open_clip", "infonce_run.py", "open_clip", str(pairs), str(WIDTH), str(repeats))
            difference = abs(row["open_clip"]["loss"] - row["ours"]["loss"])
            assert difference < 1e-4 * row["open_clip"]["loss"], f"the losses differ by {difference}"
        row["peer_peak_bytes"] = row["open_clip"]["peak_bytes"] if row["open_clip"] else int(expected)
        curve.append(row)
        print_row(row)
    both = [row for row in curve if row["open_clip"]]
    wanted = next((row for row in curve if row["pairs"] == 32768), both[-1])
    figures = {
        "name": "infonce",
        "quick": options.quick,
        "width": WIDTH,
        "pairs": wanted["pairs"],
        "memory_ratio": wanted["ours"]["peak_bytes"] / wanted["peer_peak_bytes"],
        "memory_of_peer_extrapolated": wanted["open_clip"] is None,
        "time_ratio": both[-1]["ours"]["cpu_s"] / both[-1]["open_clip"]["cpu_s"],
        "time_ratio_pairs": both[-1]["pairs"],
        "curve": curve,
    }
    print(json.dumps(figures))


def run_ours(pairs: int, repeats: int) -> dict[str, Any]:
    command = [sys.executable, str(PEERS / "infonce_run.py"), "ours", str(pairs), str(WIDTH), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return json.loads(done.stdout.splitlines()[-1])


def print_row(row: dict[str, Any]) -> None:
    ours, peer = row["ours"], row["open_clip"]
    peer_text = f"{peer['cpu_s']:8.2f} s {peer['peak_bytes'] / 1e6:9.0f} MB" if peer else f"{'-':>8}   {row['peer_peak_bytes'] / 1e6:9.0f} MB (extrapolated)"
    print(f"{row['pairs']:7,} pairs   ours {ours['cpu_s']:8.2f} s {ours['peak_bytes'] / 1e6:7.0f} MB   open_clip {peer_text}", flush=True)


if __name__ == "__main__":
    main()
