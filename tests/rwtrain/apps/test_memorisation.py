"""Spans of training tokens are found where they are written again, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwtrain.apps.memorisation import SPAN_TOKENS, MemorisationCheck, MemorisationIndex, Repeated, build_index, window_hashes
from rwtrain.data.shards import ShardDataset
from rwtrain.errors import DataError


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, datasets: tuple[Path, Path]) -> MemorisationIndex:
    folder = tmp_path_factory.mktemp("memory") / "index"
    build_index(datasets[0], folder)
    return MemorisationIndex.open(folder)


def written(index: MemorisationIndex, tokens: np.ndarray) -> list[Repeated]:
    check = MemorisationCheck(index)
    for token in tokens:
        check.add(int(token))
    return check.repeated


@pytest.mark.parametrize("span", [1, 2, 7, 50])
def test_equal_windows_have_equal_hashes_and_others_do_not(span: int) -> None:
    tokens = np.random.default_rng(0).integers(0, 5, 400).astype(np.uint16)
    hashes = window_hashes(tokens, span)
    windows = [tuple(tokens[start : start + span]) for start in range(len(tokens) - span + 1)]
    assert len(hashes) == len(windows)
    assert len(set(hashes.tolist())) == len(set(windows))
    assert len({pair[0] for pair in zip(windows, hashes.tolist(), strict=True)}) == len(set(zip(windows, hashes.tolist(), strict=True)))


def test_planted_span_is_found_and_shorter_one_is_not(index: MemorisationIndex, datasets: tuple[Path, Path]) -> None:
    document = np.asarray(ShardDataset(datasets[0]).tokens(3))
    noise = np.random.default_rng(1).integers(6, 600, 80)
    assert written(index, np.concatenate((noise, document[5 : 5 + SPAN_TOKENS - 1], noise))) == []
    planted = np.concatenate((noise, document[5 : 5 + SPAN_TOKENS + 12], noise))
    assert written(index, planted) == [Repeated(80, 80 + SPAN_TOKENS + 12)]


def test_span_over_the_border_of_two_documents_is_none(index: MemorisationIndex, datasets: tuple[Path, Path]) -> None:
    dataset = ShardDataset(datasets[0])
    first, second = (np.asarray(dataset.tokens(number))[1:-1] for number in (0, 1))
    assert written(index, np.concatenate((first[-30:], second[:30]))) == []


def test_damage_is_named(tmp_path: Path, datasets: tuple[Path, Path]) -> None:
    build_index(datasets[0], tmp_path / "index")
    with pytest.raises(DataError, match="tokenizer"):
        MemorisationIndex.open(tmp_path / "index", tokenizer_hash="other")
    manifest = tmp_path / "index" / "manifest.json"
    whole = manifest.read_text()
    for wrong in (whole.replace('"span_tokens": 50', '"span_tokens": 40'), whole.replace('"tokenizer_hash"', '"x"'), "[]"):
        manifest.write_text(wrong)
        with pytest.raises(DataError, match="remember"):
            MemorisationIndex.open(tmp_path / "index", tokenizer_hash="other")
    manifest.write_text(whole)
    file = next((tmp_path / "index").glob("*.npy"))
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DataError, match="remember"):
        MemorisationIndex.open(tmp_path / "index")
