"""Kill a preparation at random instants, resume it, and compare all output with an undisturbed run: `python -m benchmarks.prep_kills [--quick]`."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.peer_env import ROOT

KILLS, QUICK_KILLS = 20, 5
PLAN = ROOT / "examples" / "demo" / "prep.yaml"


def digest(folder: Path) -> dict[str, str]:
    """Hash of every output file but the report and the work folder, which hold timings."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("report.html", "summary.json") and "work" not in path.relative_to(folder).parts
    )
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer kills")
    options = parser.parse_args()
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "rwtrain.cli", "prep", str(PLAN), "--quiet", "--workers", "2", "--set", "unit_bytes=20000", "--out"]
        begin = time.perf_counter()
        subprocess.run([*command, folder / "whole"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        one = digest(folder / "whole")
        kills = completions = 0
        differing: set[str] = set()
        while kills < (QUICK_KILLS if options.quick else KILLS) or not completions:
            process = subprocess.Popen([*command, folder / "killed"], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
            try:
                process.wait(generator.uniform(0.3, seconds / 2))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                continue
            completions += 1
            other = digest(folder / "killed")
            differing |= {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
            shutil.rmtree(folder / "killed")  # a finished run leaves nothing to interrupt: begin again
    print(f"{len(one)} files, {kills} kills, {completions} completed runs, {len(differing)} differing files {sorted(differing)[:5]}")
    print(
        json.dumps(
            {"name": "prep_kills", "quick": options.quick, "files": len(one), "kills": kills, "completions": completions, "differing_files": len(differing)}
        )
    )


if __name__ == "__main__":
    main()
