"""The quality filters against datatrove's: processor seconds on the same texts, and how many decisions agree."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.peer_env import run_peer
from benchmarks.prep_inputs import arguments, crawl, english_texts, report
from data_prep.filters.c4 import C4
from data_prep.filters.fineweb import FineWeb
from data_prep.filters.quality import Quality
from data_prep.filters.repetition import Repetition
from data_prep.plan import C4Node, FineWebNode, PrivacyNode, QualityNode, RepetitionNode
from data_prep.privacy import Privacy
from data_prep.records import Record

TEXTS, QUICK_TEXTS = 1500, 300


def main() -> None:
    options = arguments(__doc__ or "")
    stages = {
        "repetition": Repetition(RepetitionNode()),
        "quality": Quality(QualityNode()),
        "c4": C4(C4Node(terminal_punctuation=False)),
        "c4_terminal_punctuation": C4(C4Node()),
        "fineweb": FineWeb(FineWebNode()),
        "privacy": Privacy(PrivacyNode()),
    }
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        texts = english_texts(crawl(options, Path(name)), file, limit=QUICK_TEXTS if options.quick else TEXTS)
        for stage in stages.values():
            stage([record_of(texts[0])])
        peer = run_peer("datatrove", "datatrove_run.py", "filters", file)
    figures: dict = {"name": "filters", "quick": options.quick, "texts": len(texts)}
    rows = []
    for name, stage in stages.items():
        seconds, kept = 0.0, []
        for text in texts:
            record = record_of(text)  # nothing cached: each filter finds its words itself, as the peer does
            begin = time.process_time()
            kept.append(isinstance(stage([record])[0], Record))
            seconds += time.process_time() - begin
        theirs = peer[name]
        figures[name] = {"ratio": theirs["seconds"] / seconds, "docs_per_s": len(texts) / seconds, "peer_docs_per_s": len(texts) / theirs["seconds"]}
        if "kept" in theirs:
            figures[name]["agreement"] = sum(one == other for one, other in zip(kept, theirs["kept"], strict=True)) / len(texts)
        rows.append((name, ", ".join(f"{key} {value:,.3f}" for key, value in figures[name].items())))
    report("filters against datatrove's, each alone", rows, figures)


def record_of(text: str) -> Record:
    return Record("0", "", text=text, language="en")


if __name__ == "__main__":
    main()
