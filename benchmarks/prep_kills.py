"""Kill a preparation at random instants, resume it, and compare all output with an undisturbed run: `python -m benchmarks.prep_kills [--quick]`.

Runs with 1, 2 and 5 worker processes and on a Ray cluster take turns in one folder, so each goes on with what the others left.
The corpus is the demo's with the first articles of its dump and the first of its labelled images.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import itertools
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

import yaml

from benchmarks.peer_env import ROOT

KILLS, QUICK_KILLS = 20, 8
ARTICLES, IMAGES = 12, 300
PLAN = ROOT / "examples" / "demo" / "prep.yaml"
# Ray's daemons live in namespaces of their own: reachable from nowhere else, and gone with the killed run.
ALONE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
ENGINES = {
    "1 process": (["--workers", "1"], []),
    "2 processes": (["--workers", "2"], []),
    "5 processes": (["--workers", "5"], []),
    "Ray": (["--engine", "ray", "--address", "local", "--workers", "2"], ALONE),
}


def digest(folder: Path) -> dict[str, str]:
    """Hash of every output file but the report and the work folder, which hold timings."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("report.html", "summary.json") and "work" not in path.relative_to(folder).parts
    )
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small_plan(folder: Path) -> Path:
    """The demo's plan on a part of its corpus, in many units."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8")) | {"unit_bytes": 40_000}
    for source in plan["sources"]:
        if source["kind"] == "wikipedia":
            pages = bz2.decompress((ROOT / source["paths"][0]).read_bytes()).split(b"</page>")
            articles = [page for page in pages if b"<redirect " not in page][:ARTICLES]
            dump = folder / "dump.xml"
            dump.write_bytes(b"</page>".join([*articles, b"</mediawiki>"]))
            source["paths"] = [str(dump)]
        for pair in source.get("files", []):
            for kind in ("images", "labels"):
                path = folder / Path(pair[kind]).name
                path.write_bytes(_first_of_idx(gzip.decompress((ROOT / pair[kind]).read_bytes()), IMAGES))
                pair[kind] = str(path)
    plan["tokenizer"]["vocab_size"] = 2000
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return path


def _first_of_idx(data: bytes, count: int) -> bytes:
    """The first items of an IDX file, as a gzip file that is always the same."""
    head = 4 + 4 * data[3]
    item = (len(data) - head) // int.from_bytes(data[4:8])
    return gzip.compress(data[:4] + count.to_bytes(4) + data[8 : head + count * item], mtime=0)


def command(engine: str, plan: Path, out: Path) -> list[str]:
    arguments, wrapper = ENGINES[engine]
    return [*wrapper, sys.executable, "-m", "rwtrain.cli", "prep", str(plan), "--quiet", "--out", str(out), *arguments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer kills")
    options = parser.parse_args()
    generator = random.Random(0)
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        plan = small_plan(folder)
        environment = os.environ | {"RAY_TMPDIR": name, "RAY_USAGE_STATS_ENABLED": "0"}
        for run in ("first", "whole"):  # the first one compiles, which the others do not
            begin = time.perf_counter()
            subprocess.run(command("2 processes", plan, folder / run), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - begin
        one = digest(folder / "whole")
        wanted = -(-(QUICK_KILLS if options.quick else KILLS) // len(ENGINES))
        kills, completions = dict.fromkeys(ENGINES, 0), dict.fromkeys(ENGINES, 0)
        differing: set[str] = set()
        for engine in itertools.cycle(ENGINES):
            if all(kills[name] >= wanted and completions[name] for name in ENGINES):
                break
            out = folder / "killed"
            process = subprocess.Popen(command(engine, plan, out), cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
            try:
                limit = None if kills[engine] >= wanted else generator.uniform(0.3, seconds)
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills[engine] += 1
                continue
            if status != 0:
                raise SystemExit(f"a run with {engine} failed with status {status}")
            completions[engine] += 1
            print(f"{engine}: completed; kills {kills}", file=sys.stderr, flush=True)
            other = digest(out)
            differing |= {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
            shutil.rmtree(out)  # a finished run leaves nothing to interrupt: begin again
    for engine in ENGINES:
        print(f"{engine:<12} {kills[engine]} kills, {completions[engine]} completed runs")
    print(f"{len(one)} files, {len(differing)} differing files {sorted(differing)[:5]}")
    figures = {"kills": sum(kills.values()), "completions": sum(completions.values()), "kills_by_engine": kills, "completions_by_engine": completions}
    print(json.dumps({"name": "prep_kills", "quick": options.quick, "files": len(one), **figures, "differing_files": len(differing)}))


if __name__ == "__main__":
    main()
