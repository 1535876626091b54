"""Writing: corrections on JFLEG, filling gaps against writing on, and the memorisation check.

    python -m benchmarks.apps.writing --data DIR [--quick]

DIR holds jfleg and wikitext2. Needs the model of `python -m benchmarks.apps.model` and its shards. What an edit must gain is chosen on sentences of JFLEG's
dev set whose number has an even CRC; the others are reported. The words are those of the training data. Finished parts are kept under runs/apps/writing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.apps.answer import kept
from benchmarks.apps.jfleg import correction_figures, lines
from benchmarks.apps.model import MODEL, OUT, detokenize
from rwtrain.apps.infilling import gap_log_probabilities
from rwtrain.apps.memorisation import SPAN_TOKENS, MemorisationCheck, MemorisationIndex, build_index
from rwtrain.apps.model import AppModel
from rwtrain.apps.words import count_words, read_words
from rwtrain.apps.writing import Sampling, write_tokens
from rwtrain.data.shards import ShardDataset
from rwtrain.data.tokenizer import BOS_ID
from rwtrain.files import content_hash, write_text

FOLDER = OUT / "writing"
WORDS = FOLDER / "words.txt"
SHARDS = OUT / "prep" / "shards" / "text" / "train"
CONTEXT_TOKENS = 60  # on each side of a gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with jfleg and wikitext2")
    parser.add_argument("--model", type=Path, default=MODEL, help="exported folder (default: that of benchmarks.apps.model)")
    parser.add_argument("--shards", type=Path, default=SHARDS, help="text shards that it was trained on")
    parser.add_argument("--quick", action="store_true", help="80 sentences of JFLEG instead of 754, and 50 gaps instead of 300")
    options = parser.parse_args()
    app = AppModel.open(options.model)
    cache = FOLDER / (content_hash(options.model / "model.safetensors")[:12] + "-quick" * options.quick)
    text = _held_out(options.data / "wikitext2" / "valid.txt.gz")
    quick = options.quick
    result: dict = {"quick": quick}
    result["gaps"] = kept(cache / "gaps.json", lambda: gap_figures(app, text, 50 if quick else 300))
    result["memorisation"] = kept(cache / "memorisation.json", lambda: memorisation_figures(app, options.shards, FOLDER / "memory", text))
    result["correction"] = kept(cache / "jfleg.json", lambda: correct_jfleg(app, options.data / "jfleg", options.shards, cache, quick=quick))
    for name in ("gaps", "memorisation", "correction"):
        print(f"\n{name}")
        for key, value in result[name].items():
            print(f"  {key:52s} {value:.4g}" if isinstance(value, float) else f"  {key:52s} {value}")
    print(json.dumps(result))


def _held_out(path: Path) -> list[str]:
    """Paragraphs of WikiText-2 as ordinary text, as the model was trained on (its training part)."""
    return [detokenize(line.strip().replace("<unk>", "")) for line in lines(path) if len(line) > 200 and not line.startswith(" =")]


def correct_jfleg(app: AppModel, folder: Path, shards: Path, cache: Path, *, quick: bool) -> dict:
    """Corrections with the words of the training data."""
    if not WORDS.exists():
        write_text(WORDS, "\n".join(count_words(app, shards)))
    return correction_figures(app, folder, cache, read_words(WORDS), choosing=40 if quick else 374, reported=40 if quick else 380)


def gap_figures(app: AppModel, paragraphs: Sequence[str], count: int) -> dict:
    """Perplexity of the tokens of gaps, read from both sides and from the left alone; the same gaps."""
    draw, both, left = np.random.default_rng(0), [], []
    rows = [ids for ids in app.tokenizer.encode_batch(list(paragraphs)) if len(ids) >= 2 * CONTEXT_TOKENS + 8]
    for number in tqdm(range(count), disable=None):
        ids, size = np.asarray(rows[number % len(rows)]), int(draw.integers(1, 9))
        start = int(draw.integers(CONTEXT_TOKENS, len(ids) - CONTEXT_TOKENS - size + 1))
        before, gap, after = ids[start - CONTEXT_TOKENS : start], ids[start : start + size], ids[start + size : start + size + CONTEXT_TOKENS]
        both.append(gap_log_probabilities(app, before, gap, after))
        causal = np.concatenate(([BOS_ID], before, gap)).astype(np.int64)
        left.append(app.token_log_probabilities([causal])[0][-size:])
    result: dict = {"gaps": count, "tokens": sum(map(len, both))}
    for name, found in (("both sides", both), ("left alone", left)):
        result[f"perplexity, {name}"] = float(np.exp(-np.concatenate(found).mean()))
        for low, high in ((1, 1), (2, 4), (5, 8)):
            chosen = [values for values in found if low <= len(values) <= high]
            result[f"perplexity, {name}, gaps of {low} to {high}"] = float(np.exp(-np.concatenate(chosen).mean()))
    return result


def memorisation_figures(app: AppModel, shards: Path, memory: Path, paragraphs: Sequence[str], count: int = 200) -> dict:
    """Planted training spans among held-out text: found and at their place; alarms where nothing is planted; what a check costs."""
    if not memory.exists():
        build_index(shards, memory)
    index, dataset, draw = MemorisationIndex.open(memory, tokenizer_hash=app.tokenizer.hash), ShardDataset(shards), np.random.default_rng(0)
    held_out = np.concatenate([np.asarray(ids) for ids in app.tokenizer.encode_batch(list(paragraphs))])
    found, exact, unexpected = 0, 0, 0
    for _ in range(count):
        size = int(draw.integers(SPAN_TOKENS, 2 * SPAN_TOKENS))
        document = np.zeros(0)
        while len(document) < size + 2:
            document = np.asarray(dataset.tokens(int(draw.integers(len(dataset)))))
        start = int(draw.integers(1, len(document) - size))
        at, around = int(draw.integers(100)), int(draw.integers(len(held_out) - 200))
        noise = held_out[around : around + 200]
        check = MemorisationCheck(index)
        for token in np.concatenate((noise[:at], document[start : start + size], noise[at:])).tolist():
            check.add(int(token))
        found += any(run.start <= at and run.end >= at + size for run in check.repeated)
        exact += [(run.start, run.end) for run in check.repeated] == [(at, at + size)]
        unexpected += sum(run.end <= at or run.start >= at + size for run in check.repeated)
    alarms, seconds = MemorisationCheck(index), []
    for start in range(0, len(held_out), 5000):
        began = time.process_time()
        for token in held_out[start : start + 5000].tolist():
            alarms.add(token)
        seconds.append((time.process_time() - began) / len(held_out[start : start + 5000]))
    return {
        "spans remembered": index.manifest["spans"],
        "planted spans": count,
        "planted spans found": found,
        "planted spans found at exactly their place": exact,
        "other alarms beside them": unexpected,
        "held-out tokens": len(held_out),
        "alarms in held-out text": len(alarms.repeated),
        "of them true: the tokens stand in the training data": sum(stands(dataset, held_out[run.start : run.end]) for run in alarms.repeated),
        "alarms in the same tokens shuffled": _alarms(index, draw.permutation(held_out)),
        "check, µs a token": float(np.median(seconds) * 1e6),
        "writing, µs a token": _writing_cost(app) * 1e6,
    }


def stands(dataset: ShardDataset, tokens: np.ndarray) -> bool:
    """Whether tokens stand in a row in the training data, by comparing them all."""
    for first in dataset.shard_starts[:-1]:
        known = np.asarray(dataset.locate(int(first))[0].tokens)
        wanted, text, place = tokens.astype(known.dtype).tobytes(), known.tobytes(), -1
        while (place := text.find(wanted, place + 1)) >= 0:
            if place % known.dtype.itemsize == 0:
                return True
    return False


def _alarms(index: MemorisationIndex, tokens: np.ndarray) -> int:
    check = MemorisationCheck(index)
    for token in tokens.tolist():
        check.add(token)
    return len(check.repeated)


def _writing_cost(app: AppModel, count: int = 120) -> float:
    """CPU-seconds for a written token, behind a short prompt."""
    began = time.process_time()
    tokens = list(write_tokens(app, "The history of the city", Sampling(max_new_tokens=count, seed=1)))
    return (time.process_time() - began) / max(len(tokens), 1)


if __name__ == "__main__":
    main()
