"""The corpus's tokenizer: an existing model, or one trained on a sample of the training split."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.dedup.substring import Documents, mask_hash, remaining
from data_prep.hashing import unit_interval
from data_prep.plan import Plan
from data_prep.tokenise import choose_split
from data_prep.tokenizer_training import train_tokenizer
from data_prep.work import WorkFolder, code_hash, key_of
from rwtrain.data.tokenizer import Tokenizer
from rwtrain.files import atomic_path


def make_tokenizer(plan: Plan, target: Path, documents: Sequence[Documents], work: WorkFolder, *, characters: int, quiet: bool) -> Tokenizer:
    """Write the tokenizer to `target` and open it; training is skipped if the same texts gave one before.

    Args:
        plan: the plan.
        target: where `tokenizer.model` goes.
        documents: every unit's documents.
        work: the work folder.
        characters: about how many characters the documents have.
        quiet: say nothing.
    """
    config = plan.tokenizer
    if config.model is not None:
        made = Tokenizer(config.model).path
    else:
        settings = [config.model_dump(), plan.seed, plan.splits.model_dump()]
        key = key_of("tokenizer", code_hash(), settings, [[unit.hash, mask_hash(unit.keep)] for unit in documents])
        made = work.path("tokenizer", key, ".model")
        if work.finished("tokenizer", key) is None:
            if not quiet:
                print(f"tokenizer : training {config.vocab_size} pieces", flush=True)
            share = min(1.0, config.train_characters / max(characters, 1))
            model = train_tokenizer(_training_texts(plan, documents, share), vocab_size=config.vocab_size, character_coverage=config.character_coverage)
            with atomic_path(made) as temporary:
                temporary.write_bytes(model)
            work.finish("tokenizer", key, {})
    with atomic_path(target) as temporary:
        shutil.copyfile(made, temporary)
    return Tokenizer(target)


def _training_texts(plan: Plan, documents: Sequence[Documents], share: float) -> Iterator[str]:
    """Texts of the training split, each caption once; a hash of the id chooses `share` of the documents."""
    captions: set[str] = set()
    for unit in documents:
        for batch in remaining(unit):
            for record in batch:
                if (record.split or choose_split(record.doc_id, plan.splits, seed=plan.seed)) != "train":
                    continue
                if record.images:
                    if record.text not in captions:
                        captions.add(record.text)
                        yield record.text
                elif unit_interval(record.doc_id, plan.seed + 1) < share:
                    yield record.text
