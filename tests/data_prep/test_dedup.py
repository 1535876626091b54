from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.dedup import sorted_hashes
from data_prep.dedup.clusters import Clusters
from data_prep.dedup.minhash import band_hashes
from data_prep.dedup.sorted_hashes import SortedHashes, count_ranges, repeats_in_range, write_sorted
from data_prep.dedup.substring import without
from data_prep.words import split_words


def test_bands_agree_as_often_as_the_formula_says() -> None:
    """P(a band agrees) = s^rows for Jaccard similarity s (Leskovec et al., Mining of Massive Datasets, section 3.4)."""
    generator = np.random.default_rng(0)
    for edits in (1, 3, 8):
        expected, seen = [], []
        for _ in range(150):
            one = generator.integers(0, 3000, 300)
            other = one.copy()
            other[generator.integers(0, 300, edits)] = generator.integers(0, 3000, edits)
            shingles = [{tuple(words[index : index + 5]) for index in range(296)} for words in (one.tolist(), other.tolist())]
            expected.append((len(shingles[0] & shingles[1]) / len(shingles[0] | shingles[1])) ** 8)
            bands = [band_hashes(split_words(" ".join(f"w{word}" for word in words)), ngram=5, bands=14, rows=8) for words in (one, other)]
            seen.append((bands[0] == bands[1]).mean())
        assert abs(np.mean(expected) - np.mean(seen)) < 0.05


def test_signatures_ignore_punctuation_and_case() -> None:
    one, other = "The quick, brown fox jumps over it.", "the quick brown FOX jumps — over it"
    assert (band_hashes(split_words(one), ngram=5, bands=4, rows=2) == band_hashes(split_words(other), ngram=5, bands=4, rows=2)).all()


def test_clusters_equal_connected_components(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sorted_hashes, "VALUES_AT_ONCE", 50)  # several hash ranges
    generator = np.random.default_rng(1)
    sizes = [0, 37, 120, 1, 62]
    tables = [generator.integers(0, 90, (3, size)).astype(np.uint64) * np.uint64(0x0101010101010101) for size in sizes]
    files = []
    for number, table in enumerate(tables):
        write_sorted(tmp_path / str(number), table)
        files.append(SortedHashes(str(tmp_path / str(number)), table.shape[1]))
    table = np.concatenate(tables, axis=1)
    count = table.shape[1]
    ranges = count_ranges(files)
    assert ranges == 5
    found = Clusters(count, [repeats_in_range(files, row, number, ranges) for row in range(2) for number in range(ranges)])
    label = list(range(count))  # plain label propagation
    changed = True
    while changed:
        changed = False
        for row in range(2):
            for value in np.unique(table[row]):
                members = np.flatnonzero(table[row] == value)
                lowest = min(label[member] for member in members)
                changed |= any(label[member] != lowest for member in members)
                for member in members:
                    label[member] = lowest
    assert found.first().tolist() == label
    assert found.keep.tolist() == [number == first for number, first in enumerate(label)]
    members = {first: [number for number in range(count) if label[number] == first] for first in set(label)}
    sizes = sorted(len(group) for group in members.values() if len(group) > 1)
    assert found.sizes() == [(top, inside) for top in (2, 4, 8, 16, 32, 64, 128, 256) if (inside := sum(top // 2 < size <= top for size in sizes))]
    shown = found.examples(largest=2, pairs=1)
    assert [size for size, _ in shown[:2]] == sizes[:-3:-1]
    assert all(group == members[group[0]][:4] and size == len(members[group[0]]) for size, group in shown)


def test_documents_without_duplicates_form_no_cluster() -> None:
    for count in (0, 5):
        found = Clusters(count, [])
        assert (found.keep.tolist(), found.sizes(), found.examples(largest=3, pairs=2)) == ([True] * count, [], [])


def test_repeated_windows_are_cut_to_the_word() -> None:
    text = "One two, three four. Five six seven!"
    words = split_words(text)
    repeated = np.zeros(5, bool)  # windows of three real words
    assert without(text, words, repeated, 3) is text
    repeated[1] = True
    assert without(text, words, repeated, 3) == "One . Five six seven!"
    repeated[4] = True
    assert without(text, words, repeated, 3) == "One !"
    repeated[:] = True
    assert without(text, words, repeated, 3) == "!"
