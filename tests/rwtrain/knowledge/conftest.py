"""A small graph on disk: countries, capitals, people and a film, with names."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rwtrain.knowledge.import_tsv import import_tsv
from rwtrain.knowledge.store import EntityStore

NAMES = {
    "/m/paris": ("Paris", "Q90", "capital of France", ["City of Light", "Paris, France"]),
    "/m/paris_tx": ("Paris", "Q830149", "city in Texas, United States", ["Paris, Texas"]),
    "/m/france": ("France", "Q142", "country in Western Europe", ["fr", "French Republic"]),
    "/m/texas": ("Texas", "Q1439", "state of the United States", ["Lone Star State"]),
    "/m/usa": ("United States of America", "Q30", "country in North America", ["US", "U.S.", "the States"]),
    "/m/ny": ("New York", "Q1384", "state in the United States", []),
    "/m/nyc": ("New York City", "Q60", "city in the United States", ["NYC", "New York"]),
    "/m/will": ("Will Smith", "Q40096", "American actor", ["Will"]),
    "/m/it": ("It", "Q1", "1990 film", []),
    "/m/italy": ("Italy", "Q38", "country in Europe", ["it"]),
    "/m/who": ("World Health Organization", "Q7817", "agency of the United Nations", ["WHO"]),
    "/m/actor": ("actor", "Q33999", "person who acts", ["actress"]),
}
TRAIN = [
    ("/m/paris", "/capital_of", "/m/france"),
    ("/m/paris", "/located_in", "/m/france"),
    ("/m/paris_tx", "/located_in", "/m/texas"),
    ("/m/texas", "/located_in", "/m/usa"),
    ("/m/ny", "/located_in", "/m/usa"),
    ("/m/nyc", "/located_in", "/m/ny"),
    ("/m/nyc", "/located_in", "/m/usa"),
    ("/m/will", "/profession", "/m/actor"),
    ("/m/will", "/born_in", "/m/usa"),
    ("/m/it", "/released_in", "/m/italy"),
    ("/m/it", "/released_in", "/m/france"),
    ("/m/who", "/active_in", "/m/france"),
    ("/m/nameless", "/located_in", "/m/texas"),
]


def write_graph(folder: Path) -> Path:
    """The sample graph as FB15k-237-like files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.tsv").write_text("".join("\t".join(triple) + "\n" for triple in TRAIN), encoding="utf-8")
    (folder / "valid.tsv").write_text("/m/ny\t/located_in\t/m/texas\n", encoding="utf-8")
    (folder / "test.tsv").write_text("/m/paris_tx\t/located_in\t/m/usa\n", encoding="utf-8")
    names = {key: {"label": label, "wikidata_id": qid, "description": text, "alternatives": other} for key, (label, qid, text, other) in NAMES.items()}
    with gzip.open(folder / "entity2wikidata.json.gz", "wt", encoding="utf-8") as stream:
        json.dump(names, stream)
    (folder / "relation2text.tsv").write_text("/located_in\tlocated in\n", encoding="utf-8")
    return folder


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return write_graph(tmp_path / "graph")


@pytest.fixture
def store(graph: Path, tmp_path: Path) -> EntityStore:
    import_tsv(graph, tmp_path / "store")
    return EntityStore.open(tmp_path / "store")
