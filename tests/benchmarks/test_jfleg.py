"""The choice of costs, the halves of JFLEG and the way to and from its spaced words."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.apps import jfleg
from benchmarks.apps.gleu import gleu, resampled, sentence_stats
from benchmarks.apps.jfleg import KnownEdits, Sentences, choose_costs, corrected, people, plain, read_sentences, spaced
from rwtrain.apps.edits import Edit
from rwtrain.apps.rewriting import NEVER, Costs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("dev.src", *(f"dev.ref{number}" for number in range(4)))
    for name in names:
        with gzip.open(tmp_path / f"{name}.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(f"{name} {number} .\n" for number in range(30))
    return tmp_path


def test_halves_are_apart_and_by_number(folder: Path) -> None:
    even, odd = (read_sentences(folder, even=part, count=99) for part in (True, False))
    numbers = [int(source.split()[1]) for source in even.sources]
    assert numbers == [number for number in range(30) if zlib.crc32(str(number).encode()) % 2 == 0]
    assert sorted(even.sources + odd.sources) == sorted(f"dev.src {number} ." for number in range(30))
    assert even.references[0] == tuple(f"dev.ref{person} {numbers[0]} ." for person in range(4))
    assert read_sentences(folder, even=True, count=3).sources == even.sources[:3]


@pytest.mark.parametrize("text", ["So I think , we ca n't go .", "It 's 5 % ( of it ) !", "no marks"])
def test_spaced_words_and_back(text: str) -> None:
    assert spaced(plain(text), text) == text
    changed = spaced(plain(text) + " at all", text)
    assert changed.split() == [*text.split(), "at", "all"]


def test_plain_is_as_people_write() -> None:
    assert plain("I do n't know , he said .") == "I don't know, he said."


def test_costs_are_those_of_a_known_best() -> None:
    def quality(costs: Costs) -> float:
        return 1 - 0.1 * abs(min(costs.spelling, 20) - 5) / 20 - (0.2 if costs.article < NEVER else 0) + (0.1 if costs.case <= 1 else 0)

    costs, best = choose_costs(quality, quality(Costs(**dict.fromkeys(jfleg.KINDS, NEVER))))
    assert (costs.spelling, costs.article, costs.case) == (5.0, NEVER, 0.0)
    assert best == pytest.approx(1.1)
    only, _ = choose_costs(quality, 0.0, begin=Costs(spelling=12.0, article=3.0), kinds=("spelling",))
    assert (only.spelling, only.article) == (5.0, 3.0)


def test_edits_are_weighed_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def weighed(app: object, text: str, words: object) -> list[Edit]:
        asked.append(text)
        return [Edit(0, 1, "B", "case", 2.5)] if text.startswith("b") else []

    monkeypatch.setattr(jfleg, "weighed_edits", weighed)
    sentences = Sentences(["b a ."], [("B a .",) * 4])
    weigh = KnownEdits(None, tmp_path / "edits.json", words=None)  # type: ignore[arg-type]
    assert corrected(sentences, weigh, Costs(case=2.0)) == ["B a ."]
    assert corrected(sentences, weigh, Costs(case=3.0)) == ["b a ."]
    weigh.save()
    assert KnownEdits(None, tmp_path / "edits.json", words=None)("b a.") == [Edit(0, 1, "B", "case", 2.5)]  # type: ignore[arg-type]
    assert asked == ["b a.", "B a."]


def test_people_are_measured_against_the_others() -> None:
    alike = Sentences(["a b c d e"], [("a b c d e",) * 4])
    assert people(alike) == 1
    one_else = Sentences(["a b c d e"], [("v w x y z", *("a b c d e",) * 3)])
    assert people(one_else) == pytest.approx(0.75 * 2 / 3, abs=0.05)  # the odd one finds none, each other one meets it in a third of the draws


def test_resampled_differences_of_gleu() -> None:
    texts = [(f"a b c d {number}", f"a b c d {number + 1}") for number in range(40)]
    before = [sentence_stats(old, old, [new]) for old, new in texts]
    after = [sentence_stats(old, new if number % 2 else old, [new]) for number, (old, new) in enumerate(texts)]
    found = resampled(before, after, samples=200)
    gain = gleu(after) - gleu(before)
    assert found.mean() == pytest.approx(gain, abs=0.02)
    assert 0 < np.percentile(found, 2.5) < gain < np.percentile(found, 97.5)
    assert np.abs(resampled(before, before, samples=5)).max() == 0
