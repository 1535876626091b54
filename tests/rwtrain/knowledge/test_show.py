from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rwtrain.cli import main
from rwtrain.errors import DataError, RWTrainError
from rwtrain.knowledge.plot import COLOURS, GREYS, entity_types, group_types, plot_store, project
from rwtrain.knowledge.show import entity_card, find_entities, nearest, triples_of
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import write_vectors
from tests.rwtrain.knowledge.conftest import TRAIN
from tests.rwtrain.knowledge.test_import_wikidata import RECORDS, dump, import_wikidata, item, statement, texts


def with_vectors(store: EntityStore, *, width: int = 3) -> EntityStore:
    vectors = np.random.default_rng(0).normal(size=(len(store), width)).astype(np.float32)
    write_vectors(store, entity_vectors=vectors, relation_vectors=np.zeros((store.relation_count, width), np.float32), details={"norm": 1})
    return EntityStore.open(store.folder)


def test_entities_are_found_by_id_label_and_alias(store: EntityStore) -> None:
    def ids(name: str) -> list[str]:
        return [store.external_id(row) for row in find_entities(store, name)]

    assert ids("/m/texas") == ids("Q1439") == ids("texas") == ids("lone star state") == ["/m/texas"]
    assert ids("Paris") == ["/m/paris", "/m/paris_tx"]
    assert ids("new york") == ["/m/ny", "/m/nyc"]  # its label before the other's alias, which is as popular
    with pytest.raises(RWTrainError, match="no entity has the id or name 'Atlantis'"):
        find_entities(store, "Atlantis")


def test_card_lists_homonyms_relations_and_nearest(store: EntityStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no vectors yet" in entity_card(store, "Q30", count=5)
    with_vectors(store)
    assert main(["kg", "show", str(store.folder), "Paris", "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 entities are called 'Paris'" in out
    assert "/m/paris_tx  Paris: city in Texas, United States" in out
    assert "neighbours in the graph (2 triples, 2 relations):" in out
    usa = entity_card(EntityStore.open(store.folder), "/m/usa", count=1)
    assert "neighbours in the graph (5 triples, 2 relations):\n  ← located in: " in usa
    assert "… 1 further relations" in usa
    assert usa.count("\n   ") == 1


def test_triples_and_nearest_are_those_of_a_plain_loop(store: EntityStore) -> None:
    store = with_vectors(store)
    row = store.row("/m/france")
    expected = [triple for triple in TRAIN if "/m/france" in (triple[0], triple[2])]
    found = [(store.external_id(head), store.relation_id(relation), store.external_id(tail)) for head, relation, tail in triples_of(store, row).tolist()]
    assert found == expected
    distances = sorted((float(np.abs(store.vectors[other] - store.vectors[row]).sum()), other) for other in range(len(store)) if other != row)
    assert [other for other, _ in nearest(store, row, count=4)] == [other for _, other in distances[:4]]


def test_cards_of_wikidata_name_types_and_pages(tmp_path: Path) -> None:
    import_wikidata(dump(tmp_path / "dump.json", RECORDS), tmp_path / "store", languages=("en", "de"))
    store = EntityStore.open(tmp_path / "store")
    assert "is: human" in entity_card(store, "Will Smith", count=3)
    paris = entity_card(store, "Lichterstadt", count=3)
    assert "Paris  (Q90)" in paris
    assert "pages: dewiki: Paris, enwiki: Paris" in paris
    assert "popularity: 3 sitelinks" in paris


def test_projection_is_the_singular_value_decomposition() -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 6)) * [5, 3, 1, 1, 0.5, 0.1]
    placed, share = project(vectors)
    left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    assert np.allclose(np.abs(placed), np.abs(left[:, :2] * values[:2]))
    assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())


def test_types_come_from_classes_or_relations(store: EntityStore, tmp_path: Path) -> None:
    rows = np.array([store.row("/m/paris_tx"), store.row("/m/will"), store.row("/m/actor")])
    assert entity_types(store, rows) == ["located in", "/profession", "no type known"]
    graph = tmp_path / "freebase"
    graph.mkdir()
    (graph / "train.tsv").write_text("a\t/film/actor/film./film/performance/film\tb\na\t/film/actor/x\tc\na\t/people/person/y\tc\nb\t/film/film/genre\tc\n")
    main(["kg", "import", str(graph), "--out", str(tmp_path / "freebase_store")])
    freebase = EntityStore.open(tmp_path / "freebase_store")
    assert entity_types(freebase, np.arange(3)) == ["film/actor", "film/film", "no type known"]
    import_wikidata(dump(tmp_path / "dump.json", [*RECORDS, item("Q3", texts(en="odd"), claims={"P31": [statement("Q77")]})]), tmp_path / "wikidata")
    wikidata = EntityStore.open(tmp_path / "wikidata")
    assert entity_types(wikidata, np.array([wikidata.row("Q40096"), wikidata.row("Q3")])) == ["human", "Q77"]


def test_small_types_are_drawn_together() -> None:
    types = [f"type {number}" for number in range(15) for _ in range(20 - number)] + ["no type known"] * 7
    groups, counts = group_types(types)
    assert list(counts)[:3] == ["type 0", "type 1", "type 2"]
    assert counts["other types"] == 9 + 8 + 7 + 6
    assert counts["no type known"] == 7
    assert sum(counts.values()) == len(groups) == len(types)
    assert len(counts) == len(COLOURS) + len(GREYS)


def test_pictures_are_written_and_refused(store: EntityStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    with pytest.raises(DataError, match="no vectors yet"):
        plot_store(store, tmp_path / "a.png")
    store = with_vectors(store)
    assert main(["kg", "plot", str(store.folder), "--out", str(tmp_path / "a.png")]) == 0
    assert "located in 5" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1000, 650)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    counts = plot_store(store, tmp_path / "a.html", entities=6)
    page = (tmp_path / "a.html").read_text()
    data = json.loads(page.split("const data = ", 1)[1].split(";\n", 1)[0])
    assert len(data["points"]) == sum(counts.values()) == sum(count for _, count, _ in data["legend"]) == 6
    assert {point[3] for point in data["points"]} == {store.label(row) for row in np.argsort(-store.popularity, kind="stable")[:6]}
    with pytest.raises(RWTrainError, match=r"must end in \.png or \.html"):
        plot_store(store, tmp_path / "a.jpg")
    assert main(["kg", "plot", str(store.folder), "--out", str(tmp_path / "b.png"), "--entities", "1"]) == 2
