"""Which words are spelled rightly: those of the training data, counted, or any list."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from rwtrain.apps.edits import WORD
from rwtrain.apps.model import AppModel
from rwtrain.data.shards import ShardDataset
from rwtrain.errors import ConfigError, DataError

LEAST = 3
LOWER_SHARE = 0.1
LIMIT_TOKENS = 100_000_000


def count_words(app: AppModel, shards: str | Path, *, least: int = LEAST, progress: bool = False) -> list[str]:
    """Words that stand at least `least` times in lower case in the first 10⁸ tokens of a dataset, and in a tenth or more of all places (so no names).

    Raises:
        DataError: the shards cannot be read, or another tokenizer made them.
        ConfigError: no word stands there so often.
    """
    dataset = ShardDataset(shards)
    app.evaluated.check_dataset(dataset)
    lower, other, read = Counter[str](), Counter[str](), 0
    for number in tqdm(range(len(dataset)), desc="documents", disable=not progress):
        tokens = dataset.tokens(number)
        for word in WORD.findall(app.tokenizer.decode(tokens).replace("’", "'")):
            (lower if word.islower() else other)[word.lower()] += 1
        read += len(tokens)
        if read > LIMIT_TOKENS:
            break
    found = sorted(word for word, count in lower.items() if count >= least and count >= LOWER_SHARE * (count + other[word]))
    if not found:
        raise ConfigError(f"{shards}: no word stands there {least} times. Give more text or a smaller --least.")
    return found


def read_words(path: Path) -> frozenset[str]:
    """Words of a file, one a line, in lower case.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    remedy = "Write one word a line, or make it with `rwtrain write words SHARDS --model FOLDER --out FILE`"
    try:
        words = frozenset(path.read_text(encoding="utf-8").lower().split())
    except (OSError, ValueError) as error:
        raise DataError(path, f"not readable ({error})", remedy) from error
    if not words:
        raise DataError(path, "holds no word", remedy)
    return words
