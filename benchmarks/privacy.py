"""Personal data: what is missed of planted values, what is replaced wrongly in real texts, and speed against datatrove's formatter.

Planted values are made by seed and put between two words of real texts; one is missed if it is not replaced as a whole and as its kind.

A replacement in the untouched texts is wrong if what was replaced is, where it stands, no e-mail address, IP address, telephone
number, IBAN or card number: version and section numbers, message ids, users in URLs, rows of figures. Addresses and numbers that a
text gives as examples are right. Every replacement of the full run was read and judged in its context; `privacy_judgements.txt` holds
the hash of each with its verdict (the hash, because the texts name real people). Replacements not judged yet are counted as such.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.peer_env import run_peer
from benchmarks.prep_inputs import arguments, crawl, report, write_texts
from benchmarks.privacy_planting import plant
from data_prep.extraction import Extract
from data_prep.hashing import hash64
from data_prep.plan import ExtractNode, PrivacyNode
from data_prep.privacy import KINDS, Privacy, find
from data_prep.records import Record
from data_prep.source_plan import WarcSource, WikipediaSource
from data_prep.sources import warc, wikipedia
from data_prep.sources.spans import whole_file

PLANTED, QUICK_PLANTED = 4000, 500
CONTEXT = 24
JUDGEMENTS = Path(__file__).with_name("privacy_judgements.txt")
EXAMPLES = Path(__file__).parents[1] / "examples" / "data"


def main() -> None:
    options = arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "texts.jsonl"
        texts = real_texts(crawl(options, Path(name)))
        write_texts(texts, file)
        peer = run_peer("datatrove", "datatrove_run.py", "privacy", file)
    scrub = Privacy(PrivacyNode()).scrub
    scrub("0 @ (at) ::")
    begin = time.process_time()
    for text in texts:
        scrub(text)
    seconds = time.process_time() - begin
    characters = sum(map(len, texts))
    missed = count_missed(texts, QUICK_PLANTED if options.quick else PLANTED)
    verdicts = Counter((kind, judgement) for text in texts for kind, judgement in judged(text))
    figures: dict = {
        "name": "privacy",
        "quick": options.quick,
        "texts": len(texts),
        "characters": characters,
        "ratio": peer["seconds"] / seconds,
        "mb_per_s": characters / 1e6 / seconds,
        "planted": len(KINDS) * (QUICK_PLANTED if options.quick else PLANTED),
        "missed": sum(missed.values()),
        "missed_by_kind": missed,
        "replaced": sum(verdicts.values()),
        "unjudged": sum(count for (_, verdict), count in verdicts.items() if verdict == "unjudged"),
        "wrong_per_million_characters": 1e6 * sum(count for (_, verdict), count in verdicts.items() if verdict == "wrong") / characters,
    }
    for kind in KINDS:
        counts = {verdict: verdicts[kind, verdict] for verdict in ("right", "wrong", "unjudged")}
        figures[kind] = {**counts, "wrong_per_million_characters": 1e6 * counts["wrong"] / characters}
    report("personal data", [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in figures.items()], figures)


def real_texts(path: Path) -> list[str]:
    """Texts of the crawl and of the sample data that come with the repository, in all languages."""
    extract = Extract(ExtractNode())
    texts = []
    pages = [path, *sorted(EXAMPLES.glob("*.warc.gz"))]
    sources = [(warc, WarcSource(kind="warc", name="web", paths=[str(page)])) for page in pages]
    dump = WikipediaSource(kind="wikipedia", name="wiki", paths=[str(EXAMPLES / "enwiki-pages-articles1-shortened.xml.bz2")])
    for reader, source in [*sources, (wikipedia, dump)]:
        span = whole_file(source.paths[0], Path(source.paths[0]).name)
        records = [record for record in reader.read(source, span) if isinstance(record, Record)]  # type: ignore[attr-defined]
        texts += [item.text for record in records for item in extract([record]) if isinstance(item, Record)]
    return texts


def count_missed(texts: list[str], times: int) -> dict[str, int]:
    """Planted values of each kind that were not found as a whole."""
    missed = {}
    for kind in KINDS:
        generator = np.random.default_rng([0, KINDS.index(kind)])
        count = done = 0
        while done < times:
            text = texts[int(generator.integers(len(texts)))]
            start = int(generator.integers(max(1, len(text) - 2000)))
            planted = plant(text[start : start + 2000], kind, generator)
            if planted is None:
                continue
            done += 1
            whole, place, value = planted
            count += (place, place + len(value), kind) not in find(whole)
        missed[kind] = count
    return missed


def judged(text: str) -> list[tuple[str, str]]:
    """(Kind, verdict) of everything found in a text."""
    return [(kind, judgements().get(key_of_find(text, start, stop, kind), "unjudged")) for start, stop, kind in find(text)]


def key_of_find(text: str, start: int, stop: int, kind: str) -> str:
    """Name of a find: a hash of what was found and what stands around it."""
    return f"{hash64('|'.join((kind, text[max(0, start - CONTEXT) : start], text[start:stop], text[stop : stop + CONTEXT]))) & 0xFFFFFFFFFF:010x}"


def judgements() -> dict[str, str]:
    """Verdicts by name of the find."""
    if not _VERDICTS:
        verdict = ""
        for line in JUDGEMENTS.read_text().splitlines():
            if line in ("right", "wrong"):
                verdict = line
            else:
                _VERDICTS.update({key: verdict for key in line.split() if verdict})
    return _VERDICTS


_VERDICTS: dict[str, str] = {}


if __name__ == "__main__":
    main()
