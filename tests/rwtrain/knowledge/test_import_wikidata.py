from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rwtrain.cli import main
from rwtrain.errors import DataError, RWTrainError
from rwtrain.knowledge.import_wikidata import import_wikidata
from rwtrain.knowledge.store import EntityStore, Name


def statement(target: str | None, rank: str = "normal") -> dict[str, Any]:
    snak: dict[str, Any] = {"snaktype": "somevalue"}
    if target:
        value = {"entity-type": "item", "numeric-id": int(target[1:])} | ({"id": target} if target != "Q5" else {})
        snak = {"snaktype": "value", "datavalue": {"type": "wikibase-entityid", "value": value}}
    return {"mainsnak": snak, "rank": rank}


def texts(**by_language: str) -> dict[str, Any]:
    return {code.replace("_", "-"): {"language": code, "value": value} for code, value in by_language.items()}


def item(name: str, labels: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "item", "id": name, "labels": labels, "descriptions": {}, "aliases": [], "claims": [], "sitelinks": {}} | others


PARIS = item(
    "Q90",
    texts(zh_hant="巴黎市", de="Paris", fr="Paris", en="Paris", zh="巴黎", en_gb="Paris"),
    descriptions=texts(fr="capitale", de="Hauptstadt Frankreichs", en="capital of France"),
    aliases={"en": [{"language": "en", "value": "City of Light"}, {"language": "en", "value": "Paris"}], "de": [{"language": "de", "value": "Lichterstadt"}]},
    claims={
        "P31": [statement("Q515"), statement("Q5119", "preferred"), statement("Q1", "deprecated")],
        "P17": [statement("Q142"), statement("Q142")],
        "P6": [statement("Q999"), statement(None)],
        "P1376": [statement("Q142", "deprecated")],
        "P1082": [{"mainsnak": {"snaktype": "value", "datavalue": {"type": "quantity", "value": {"amount": "+2"}}}, "rank": "normal"}],
    },
    sitelinks={"enwiki": {"site": "enwiki", "title": "Paris"}, "dewiki": {"site": "dewiki", "title": "Paris"}, "frwiki": {"site": "frwiki", "title": "Paris"}},
)
FRANCE = item("Q142", texts(de="Frankreich", mul="France"), claims={"P36": [statement("Q90")]}, sitelinks={"enwiki": {"title": "France"}})
HUMAN = item("Q5", texts(en="human"))
SMITH = item("Q40096", texts(en="Will Smith"), claims={"P31": [statement("Q5")], "P19": [statement("Q8")]})
RECORDS = [
    PARIS,
    FRANCE,
    HUMAN,
    SMITH,
    item("Q7000", texts(fr="seulement français")),
    {"type": "property", "id": "P36", "labels": texts(de="Hauptstadt", en="capital"), "datatype": "wikibase-item", "claims": {}},
    {"type": "lexeme", "id": "L1", "lemmas": {}},
    {"entity": "Q8", "redirect": "Q9"},
    {"entity": "Q9", "redirect": "Q90"},
    {"entity": "Q10", "redirect": "Q11"},
    {"entity": "Q11", "redirect": "Q10"},
    {"entity": "Q12", "redirect": "Q404"},
]


def dump(path: Path, records: list[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    content = ("[\n" + ",\n".join(lines) + "\n]\n").encode()
    path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)(content))
    return path


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    import_wikidata(dump(tmp_path / "dump.json.bz2", RECORDS), tmp_path / "store", languages=("en", "de", "zh"))
    return EntityStore.open(tmp_path / "store", verify=True)


def test_names_keep_their_languages(store: EntityStore) -> None:
    paris, france = store.row("Q90"), store.row("Q142")
    assert store.names(paris) == [
        Name("Paris", "en", True),
        Name("Paris", "de", True),
        Name("巴黎", "zh", True),
        Name("City of Light", "en", False),
        Name("Lichterstadt", "de", False),
        Name("巴黎市", "zh", False),
    ]
    assert (store.label(paris), store.aliases(paris)) == ("Paris", ["巴黎", "City of Light", "Lichterstadt", "巴黎市"])
    assert store.names(france) == [Name("France", "en", True), Name("Frankreich", "de", True)]
    assert (store.description(paris), store.description(france)) == ("capital of France", "")
    assert store.languages == ["en", "de", "zh"]


def test_statements_of_the_best_rank_become_triples(store: EntityStore) -> None:
    found = {(store.external_id(head), store.relation_id(relation), store.external_id(tail)) for head, relation, tail in store.triples("train").tolist()}
    assert found == {("Q90", "P17", "Q142"), ("Q142", "P36", "Q90"), ("Q40096", "P31", "Q5"), ("Q40096", "P19", "Q90")}
    assert (store.types(store.row("Q90")), store.types(store.row("Q40096"))) == (["Q5119"], ["Q5"])
    assert {store.relation_label(row) for row in range(store.relation_count)} == {"P31", "P17", "P6", "P19", "capital"}
    assert store.manifest["dropped"] == {
        "triple to an entity that is not in the store": 2,
        "item that --keep named leaves out": 1,
        "record of type lexeme": 1,
        "cyclic redirect": 2,
        "redirect to an entity that is not in the store": 1,
    }


def test_popularity_titles_and_redirects(store: EntityStore) -> None:
    assert store.popularity.tolist() == [3, 1, 0, 0]
    paris = store.row("Q90")
    assert store.titles(paris) == {"enwiki": "Paris", "dewiki": "Paris"}
    assert store.by_title("enwiki", "paris#History") == store.by_title("dewiki", "Paris") == paris
    assert store.row("Q8") == store.row("Q9") == paris
    for absent in ("Q10", "Q12", "Q7000"):
        with pytest.raises(KeyError):
            store.row(absent)
    with pytest.raises(KeyError):
        store.by_title("frwiki", "Paris")


@pytest.mark.parametrize(("keep", "rows"), [("all", 5), ("named", 4), ("wikipedia", 2)])
def test_keep_chooses_items(tmp_path: Path, keep: str, rows: int) -> None:
    path = dump(tmp_path / "dump.json", RECORDS)
    assert main(["kg", "import", str(path), "--out", str(tmp_path / "store"), "--languages", "en,de", "--keep", keep]) == 0
    store = EntityStore.open(tmp_path / "store")
    assert len(store) == rows
    assert store.has_label(store.row("Q90"))


def test_broken_records_are_counted_and_leave_nothing_behind(tmp_path: Path) -> None:
    broken = item("Q77", texts(en="half"), claims={"P31": [{"mainsnak": {}, "rank": "normal"}]})
    again = item("Q142", texts(en="impostor"), claims={"P31": [statement("Q5")]})
    path = dump(tmp_path / "dump.json", [*RECORDS, '{"id": "Q1", "lab', broken, again, "[1]", item("Q78", {"en": 3})])
    manifest = import_wikidata(path, tmp_path / "store", languages=("en",), unit_bytes=1500)
    assert manifest["rejects"] == {"not JSON": 1, "not a Wikidata entity (KeyError)": 1, "repeated entity": 1, "not a Wikidata entity (TypeError)": 2}
    store = EntityStore.open(tmp_path / "store")
    assert (len(store), store.label(store.row("Q142"))) == (4, "France")
    assert store.types(store.row("Q142")) == []
    kept = [json.loads(line) for line in (tmp_path / "store" / "rejects.jsonl").read_text().splitlines()]
    assert {(entry["record"], entry["reason"].partition(" (")[0]) for entry in kept} == {
        (14, "not JSON"),
        (15, "not a Wikidata entity"),
        (16, "repeated entity"),
        (17, "not a Wikidata entity"),
        (18, "not a Wikidata entity"),
    }


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_truncated_dumps_are_refused(tmp_path: Path, suffix: str) -> None:
    path = dump(tmp_path / f"dump.json{suffix}", RECORDS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"dump\.json{suffix}, record \d+: cannot be read past this line"):
        import_wikidata(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    path.write_bytes(b"no archive at all")
    with pytest.raises(DataError, match="cannot be read"):
        import_wikidata(path, tmp_path / "store")


def test_plain_dumps_that_end_between_records_are_refused(tmp_path: Path) -> None:
    path = dump(tmp_path / "dump.json", RECORDS)
    path.write_bytes(path.read_bytes().rpartition(b"\n{")[0])
    with pytest.raises(DataError, match=r"dump\.json: the array of entities is not closed"):
        import_wikidata(path, tmp_path / "store")


def test_dumps_without_items_and_wrong_settings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = dump(tmp_path / "dump.json", RECORDS)
    with pytest.raises(DataError, match="no item to import"):
        import_wikidata(dump(tmp_path / "paris.json", [PARIS]), tmp_path / "store", languages=("sw",))
    with pytest.raises(RWTrainError, match="--keep some"):
        import_wikidata(path, tmp_path / "store", keep="some")
    with pytest.raises(DataError, match="no such file"):
        import_wikidata(tmp_path / "nothing.json", tmp_path / "store")
    path.rename(tmp_path / "dump.txt")
    assert main(["kg", "import", str(tmp_path / "dump.txt"), "--out", str(tmp_path / "store")]) == 2
    assert "Give --format" in capsys.readouterr().err
    assert main(["kg", "import", str(tmp_path / "dump.txt"), "--format", "wikidata", "--out", str(tmp_path / "store")]) == 0
