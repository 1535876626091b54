from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rwtrain.errors import DataError
from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.store import EntityStore
from rwtrain.knowledge.writing import write_vectors
from tests.rwtrain.knowledge.conftest import NAMES, TRAIN


def test_everything_of_the_source_can_be_looked_up(store: EntityStore) -> None:
    assert len(store) == len(NAMES) + 1
    for external_id, (label, wikidata_id, description, aliases) in NAMES.items():
        row = store.row(external_id)
        assert store.row(wikidata_id) == row
        assert (store.label(row), store.description(row), store.aliases(row)) == (label, description, aliases)
        assert store.wikidata_id(row) == wikidata_id
    assert store.label(store.row("/m/nameless")) == "/m/nameless"
    with pytest.raises(KeyError):
        store.row("Q999999")


def test_popularity_counts_training_triples_only(store: EntityStore) -> None:
    for external_id in ("/m/usa", "/m/texas", "/m/it"):
        assert store.popularity[store.row(external_id)] == sum(external_id in (head, tail) for head, _, tail in TRAIN)


def test_triples_keep_their_meaning(store: EntityStore) -> None:
    named = [(store.external_id(head), store.relation_id(relation), store.external_id(tail)) for head, relation, tail in store.triples("train").tolist()]
    assert named == TRAIN
    assert store.relation_label(store.triples("valid")[0, 1]) == "located in"
    assert store.relation_label(0) == "/capital_of"


def test_hash_names_the_rows_and_not_the_vectors(store: EntityStore, graph: Path, tmp_path: Path) -> None:
    write_vectors(
        store, entity_vectors=np.ones((len(store), 3), np.float32), relation_vectors=np.ones((store.relation_count, 3), np.float32), details={"norm": 2}
    )
    assert EntityStore.open(store.folder).hash == store.hash
    import_tsv(graph, tmp_path / "again")
    assert EntityStore.open(tmp_path / "again").hash == store.hash
    lines = (graph / "train.tsv").read_text().splitlines()
    (graph / "train.tsv").write_text("\n".join(reversed(lines)) + "\n")
    import_tsv(graph, tmp_path / "reordered")
    assert EntityStore.open(tmp_path / "reordered").hash != store.hash


def test_bad_lines_are_counted_and_kept(graph: Path, tmp_path: Path) -> None:
    with open(graph / "train.tsv", "ab") as stream:
        stream.write(b"only two\tcolumns\n/m/a\t/r\t\xff\xfe\n/m/paris\t/capital_of\t/m/france\n")
    with open(graph / "test.tsv", "a") as stream:
        stream.write("/m/texas\t/located_in\t/m/usa\n")
    manifest = import_tsv(graph, tmp_path / "store")
    assert manifest["rejects"] == {"not three tab-separated columns": 1, "not UTF-8": 1, "repeated triple": 2}
    kept = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    assert {(entry["file"], entry["record"]) for entry in kept} == {("train.tsv", 14), ("train.tsv", 15), ("train.tsv", 16), ("test.tsv", 2)}
    assert manifest["triples"] == {"train": len(TRAIN), "valid": 1, "test": 1}


def test_truncated_gzip_names_file_and_line(graph: Path, tmp_path: Path) -> None:
    packed = gzip.compress((graph / "train.tsv").read_bytes() * 500)
    (graph / "train.tsv").unlink()
    (graph / "train.tsv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"train\.tsv\.gz, record \d+: cannot be read"):
        import_tsv(graph, tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"), [("entity2wikidata.json", "{broken", "not valid JSON"), ("entity2wikidata.json", "[]", "not a JSON object")]
)
def test_broken_names_are_refused(graph: Path, tmp_path: Path, name: str, content: str, message: str) -> None:
    (graph / "entity2wikidata.json.gz").unlink()
    (graph / name).write_text(content)
    with pytest.raises(DataError, match=message):
        import_tsv(graph, tmp_path / "store")


def test_missing_sources_and_occupied_outputs_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        import_tsv(tmp_path / "nowhere", tmp_path / "store")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no train\.tsv"):
        import_tsv(tmp_path / "empty", tmp_path / "store")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(DataError, match="not an entity store"):
        import_tsv(graph, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_damaged_stores_are_refused(store: EntityStore) -> None:
    folder = store.folder
    entities = folder / "entities.arrow"
    content = entities.read_bytes()
    entities.write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"entities\.arrow: \d+ bytes, the manifest says"):
        EntityStore.open(folder)
    entities.write_bytes(content.replace(b"Lone Star State", b"Lone Star Slate"))
    EntityStore.open(folder)
    with pytest.raises(DataError, match=r"entities\.arrow: checksum"):
        EntityStore.open(folder, verify=True)
    entities.unlink()
    with pytest.raises(DataError, match="the file is missing"):
        EntityStore.open(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="not a manifest"):
        EntityStore.open(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        EntityStore.open(folder)


def test_vectors_must_be_there_fit_and_be_finite(store: EntityStore) -> None:
    with pytest.raises(DataError, match="no vectors yet"):
        store.vectors
    relation_vectors = np.zeros((store.relation_count, 4), np.float32)
    with pytest.raises(DataError, match=r"shape \[3, 4\], expected \[13, 4\]"):
        write_vectors(store, entity_vectors=np.zeros((3, 4), np.float32), relation_vectors=relation_vectors, details={})
    with pytest.raises(DataError, match="relation vectors of shape"):
        write_vectors(store, entity_vectors=np.zeros((len(store), 5), np.float32), relation_vectors=relation_vectors, details={})
    vectors = np.zeros((len(store), 4), np.float32)
    vectors[7, 2] = np.nan
    with pytest.raises(DataError, match=r"record 7: entity vectors hold values that are not finite"):
        write_vectors(store, entity_vectors=vectors, relation_vectors=relation_vectors, details={})
    vectors[7, 2] = 1
    folder = write_vectors(store, entity_vectors=vectors, relation_vectors=relation_vectors, details={"norm": 2})
    assert np.array_equal(EntityStore.open(store.folder).vectors, vectors)

    saved = (folder / "entity_vectors.npy").read_bytes()
    bad = bytearray(saved)
    bad[-4:] = np.float32(np.inf).tobytes()
    (folder / "entity_vectors.npy").write_bytes(bad)
    with pytest.raises(DataError, match=r"record 12: the vector holds values that are not finite"):
        EntityStore.open(store.folder).vectors
    (folder / "entity_vectors.npy").write_bytes(saved[:-4])
    with pytest.raises(DataError, match=r"entity_vectors\.npy: \d+ bytes"):
        EntityStore.open(store.folder).vectors
    np.save(folder / "entity_vectors.npy", np.zeros((4, len(store)), np.float32))
    with pytest.raises(DataError, match=r"shape \[4, 13\], expected float32 of \[13, 4\]"):
        EntityStore.open(store.folder).vectors


def test_vectors_of_other_entities_are_refused(store: EntityStore) -> None:
    write_vectors(
        store, entity_vectors=np.ones((len(store), 3), np.float32), relation_vectors=np.ones((store.relation_count, 3), np.float32), details={"norm": 2}
    )
    path = store.folder / "transe" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_hash": "0" * 32}))
    with pytest.raises(DataError, match="trained for other entities"):
        EntityStore.open(store.folder).vectors
