"""The whole chain, web pages to token shards, against datatrove: the same stages on the same crawl, documents per processor second.

Start-up is left out on both sides, but for the scaling from one worker to two. Language identification is off, because datatrove has to download its model.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import data_prep.preload  # noqa: F401
from benchmarks.peer_env import run_peer
from benchmarks.prep_inputs import arguments, crawl, report
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.summary import Summary
from data_prep.tokenizer_training import train_tokenizer

# The job that scaling is measured on takes at least this long with one worker, so that the start of workers (about 2 s) counts for little;
# each number of workers has this many turns.
JOB_SECONDS, QUICK_JOB_SECONDS, TURNS = 60.0, 40.0, 2
SENTENCE = "One sentence is enough to make a small tokenizer that everything can be spelled with. "


def make_plan(*paths: Path, tokenizer: Path, deduplicate: bool = True) -> Plan:
    return Plan.model_validate(
        {
            "sources": [{"kind": "warc", "name": "web", "paths": [str(path) for path in paths]}],
            "unit_bytes": 2 << 20,
            "url": {"enabled": True},
            "unicode": {"enabled": False},
            "language": {"enabled": False},
            "c4": {"enabled": True, "terminal_punctuation": False},
            "fineweb": {"enabled": True},
            "privacy": {"enabled": True},
            "dedup": {"exact": deduplicate, "fuzzy": deduplicate},
            "tokenizer": {"model": str(tokenizer)},
        }
    )


def run(plan: Plan, out: Path, workers: int) -> tuple[Summary, float, float]:
    """The figures of a run, its processor seconds in this process and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    summary = Preparation(plan, out, workers=workers, quiet=True).run()
    return summary, time.process_time() - cpu, time.perf_counter() - wall


def scaling(path: Path, folder: Path, tokenizer: Path, *, seconds: float) -> dict[str, Any]:
    """Wall seconds with one worker and with two, in turns, on a job of at least `seconds`: the crawl again and again under other names.

    Start-up counts. Copies are not deduplicated, so that each is as much work as the first.
    """
    copies = 1
    while True:
        paths = [folder / f"copy-{number}.warc.gz" for number in range(copies)]
        for copy in paths:
            if not copy.exists():
                shutil.copy(path, copy)
        plan = make_plan(*paths, tokenizer=tokenizer, deduplicate=False)
        _, _, wall = run(plan, folder / f"one-0-{copies}", 1)
        if wall >= seconds:
            break
        copies = max(copies + 1, math.ceil(1.2 * copies * seconds / wall))
    walls: dict[int, list[float]] = {1: [wall], 2: []}
    for turn in range(1, TURNS):
        walls[2].append(run(plan, folder / f"two-{turn}", 2)[2])
        walls[1].append(run(plan, folder / f"one-{turn}", 1)[2])
    walls[2].append(run(plan, folder / f"two-{TURNS}", 2)[2])
    return {"copies": copies, "wall_1": walls[1], "wall_2": walls[2], "scaling_1_to_2": min(walls[1]) / min(walls[2])}


def main() -> None:
    options = arguments(__doc__ or "")
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = crawl(options, folder)
        tokenizer = folder / "tokenizer.model"
        tokenizer.write_bytes(train_tokenizer([SENTENCE] * 50, vocab_size=400))
        plan = make_plan(path, tokenizer=tokenizer)
        run(plan, folder / "warm", 1)  # compiled code and tables are loaded
        summary, seconds, _ = run(plan, folder / "measured", 1)
        peer = run_peer("datatrove", "datatrove_run.py", "chain", path)
        turns = scaling(path, folder, tokenizer, seconds=QUICK_JOB_SECONDS if options.quick else JOB_SECONDS)
    read = summary.funnel[0].documents
    figures = {
        "name": "prep",
        "quick": options.quick,
        "documents": read,
        "peer_documents": peer["documents"],
        "kept": summary.funnel[-1].documents,
        "peer_kept": peer["kept"],
        "docs_per_s": read / seconds,
        "peer_docs_per_s": peer["documents"] / peer["seconds"],
        "whole_chain_ratio": (read / seconds) / (peer["documents"] / peer["seconds"]),
        **turns,
        "cores": os.cpu_count(),
        "load_before": load_before,  # processes that wanted a core in the last minute; scaling needs two free ones
        "load_after": os.getloadavg()[0],
        "stage_seconds": {stage.name: round(stage.cpu_seconds, 3) for stage in summary.funnel},
        "peer_extraction_seconds": peer["extraction_seconds"],
    }
    report("whole chain against datatrove", [(key, str(value)) for key, value in figures.items()], figures)


if __name__ == "__main__":
    main()
