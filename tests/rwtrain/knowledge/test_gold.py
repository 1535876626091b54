from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwtrain.errors import DataError
from rwtrain.knowledge.calibration import calibrate, read_documents, write_settings
from rwtrain.knowledge.gold import evaluate_documents, evaluate_linking, read_gold
from rwtrain.knowledge.linker import build_linker
from rwtrain.knowledge.store import EntityStore
from rwtrain.model.linking_refinedweb import EntityLinker


def write_gold(path: Path, documents: list[tuple[str, list[tuple[str, str]]]]) -> Path:
    records = []
    for text, labels in documents:
        spans = [{"span": [text.index(surface), text.index(surface) + len(surface)], "entity_id": name} for surface, name in labels]
        records.append(json.dumps({"text": text, "labels": spans}))
    path.write_text("\n".join(records) + "\n", encoding="utf-8")
    return path


def test_figures_are_the_counts_of_a_worked_example(store: EntityStore, tmp_path: Path) -> None:
    build_linker(store, tmp_path / "linker")
    linker = EntityLinker.open(tmp_path / "linker")
    gold = write_gold(
        tmp_path / "gold.jsonl",
        [
            ("Made in France and Italy.", [("France", "Q142"), ("Italy", "Q38")]),  # both right
            ("Nobody wrote about Texas.", []),  # one link too many
            ("The republic fell.", [("republic", "Q142")]),  # no name of France
            ("Berlin is not here.", [("Berlin", "Q64")]),  # not in the store: does not count
        ],
    )
    figures = evaluate_linking(linker, store, gold)
    assert (figures["documents"], figures["mentions"]) == (4, 3)
    assert figures["spotting_recall"] == pytest.approx(2 / 3)
    assert figures["disambiguation_accuracy"] == 1
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert (figures["precision"], figures["recall"], figures["f1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))


def test_random_baseline_is_one_over_the_number_of_candidates(store: EntityStore, tmp_path: Path) -> None:
    build_linker(store, tmp_path / "linker")
    gold = write_gold(tmp_path / "gold.jsonl", [("Paris, the capital of France, is old.", [("Paris", "Q90")])])
    figures = evaluate_linking(EntityLinker.open(tmp_path / "linker"), store, gold)
    assert figures["random_accuracy"] == 0.5


def test_unusable_gold_files_are_refused(store: EntityStore, tmp_path: Path) -> None:
    build_linker(store, tmp_path / "linker")
    linker = EntityLinker.open(tmp_path / "linker")
    (tmp_path / "broken.jsonl").write_text('{"text": "a", "labels": []}\n{"text": 3}\n')
    with pytest.raises(DataError, match=r"broken\.jsonl, record 2: not a document with gold mentions"):
        list(read_gold(tmp_path / "broken.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9", "labels": []}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl, record 1: the line is not UTF-8"):
        list(read_gold(tmp_path / "latin.jsonl"))
    outside = write_gold(tmp_path / "outside.jsonl", [("Berlin is here.", [("Berlin", "Q64")])])
    with pytest.raises(DataError, match="no gold mention is an entity of the store"):
        evaluate_linking(linker, store, outside)
    linker.store_hash = "0"
    with pytest.raises(DataError, match="built for another entity store"):
        evaluate_linking(linker, store, outside)


def test_calibration_learns_what_is_linked(store: EntityStore, tmp_path: Path) -> None:
    """Where gold texts name countries but never the city, the city is no longer linked."""
    build_linker(store, tmp_path / "linker")
    linker = EntityLinker.open(tmp_path / "linker", compiled=False)
    texts = [(f"The {word} of France and Italy, not New York City.", [("France", "Q142"), ("Italy", "Q38")]) for word in ("art", "food", "towns", "rivers")]
    gold = write_gold(tmp_path / "gold.jsonl", texts)
    documents = read_documents([gold])
    calibrate(linker, store, documents, weights=True)
    write_settings(linker)
    again = EntityLinker.open(tmp_path / "linker")
    assert again.settings == linker.settings
    assert evaluate_documents(again, store, documents)["f1"] == 1
    linker.store_hash = "0"
    with pytest.raises(DataError, match="another entity store"):
        calibrate(linker, store, documents, weights=False)
