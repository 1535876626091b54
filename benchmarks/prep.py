"""The whole chain, web pages to token shards, against datatrove: the same stages on the same crawl, documents per processor second.

Start-up is left out on both sides. Language identification is off, because datatrove has to download its model.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import data_prep.preload  # noqa: F401
from benchmarks.peer_env import run_peer
from benchmarks.prep_inputs import arguments, crawl, report
from data_prep.pipeline import Preparation
from data_prep.plan import Plan
from data_prep.summary import Summary
from data_prep.tokenizer_training import train_tokenizer

SENTENCE = "One sentence is enough to make a small tokenizer that everything can be spelled with. "


def make_plan(path: Path, tokenizer: Path, *, method: str) -> Plan:
    return Plan.model_validate(
        {
            "sources": [{"kind": "warc", "name": "web", "paths": [str(path)]}],
            "unit_bytes": 2 << 20,
            "url": {"enabled": True},
            "extract": {"method": method},
            "unicode": {"enabled": False},
            "language": {"enabled": False},
            "c4": {"enabled": True, "terminal_punctuation": False},
            "fineweb": {"enabled": True},
            "privacy": {"enabled": True},
            "tokenizer": {"model": str(tokenizer)},
        }
    )


def run(plan: Plan, out: Path, workers: int) -> tuple[Summary, float, float]:
    """The figures of a run, its processor seconds in this process and its wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    summary = Preparation(plan, out, workers=workers, quiet=True).run()
    return summary, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = crawl(options, folder)
        (folder / "tokenizer.model").write_bytes(train_tokenizer([SENTENCE] * 50, vocab_size=400))
        plan = make_plan(path, folder / "tokenizer.model", method="scored")
        run(plan, folder / "warm", 1)  # compiled code and tables are loaded
        summary, seconds, wall_1 = run(plan, folder / "one", 1)
        _, _, wall_2 = run(plan, folder / "two", 2)
        _, fast_seconds, _ = run(make_plan(path, folder / "tokenizer.model", method="fast"), folder / "fast", 1)
        peer = run_peer("datatrove", "datatrove_run.py", "chain", path)
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
        "whole_chain_ratio_fast_extraction": (read / fast_seconds) / (peer["documents"] / peer["seconds"]),
        "scaling_1_to_2": wall_1 / wall_2,
        "stage_seconds": {stage.name: round(stage.cpu_seconds, 3) for stage in summary.funnel},
        "peer_extraction_seconds": peer["extraction_seconds"],
    }
    report("whole chain against datatrove", [(key, str(value)) for key, value in figures.items()], figures)


if __name__ == "__main__":
    main()
